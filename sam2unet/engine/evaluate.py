"""Scores a folder of prediction maps against a folder of masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.check import check_masks, each
from ..data.pairs import Pair, list_images
from ..data.reading import FOREGROUND, opened, read_mask, to_8_bit
from ..errors import UserError, some, warn
from ..metrics import COLUMNS, Scores


def run(dataset_name: str, prediction_folder: Path, mask_folder: Path, mask_threshold: int | None = None) -> None:
    """Print the released table, or raise UserError before anything is printed."""
    pairs = match_predictions(prediction_folder, mask_folder)
    check_sizes(pairs, check_masks([pair.mask for pair in pairs], mask_threshold))
    scores, soft = Scores(), []
    for pair in tqdm(pairs, unit="img", disable=None):
        mask = np.asarray(read_mask(pair.mask, mask_threshold))
        if np.any((mask > 0) & (mask < 255)):
            soft.append(pair.mask.name)
        scores.add(read_prediction(pair.image), mask)
    if soft:
        warn(f"{len(soft)} masks hold greys between 0 and 255; above {FOREGROUND} is foreground: {some(soft)}")
    if undefined := [pairs[i].mask.name for i in scores.undefined()]:
        warn(
            f"S is not defined for {len(undefined)} images, whose foreground has its centre in the last row or column; "
            f"they are left out of its mean: {some(undefined)}"
        )
    print(table(dataset_name, len(pairs), scores.table()))
    print()
    print(legend())


def match_predictions(prediction_folder: Path, mask_folder: Path) -> list[Pair]:
    """Every mask with the prediction of its stem; missing ones are an error, ones too many a warning."""
    masks, predictions = list_images(mask_folder), list_images(prediction_folder)
    if prediction_folder.resolve() == mask_folder.resolve():
        raise UserError(f"--pred_path and --gt_path are the same folder: {mask_folder}")
    if missing := [path.name for stem, path in masks.items() if stem not in predictions]:
        raise UserError(
            f"{len(missing)} of {len(masks)} masks have no prediction: {some(missing)} "
            f"(predictions looked for in {prediction_folder})"
        )
    if spare := [path.name for stem, path in predictions.items() if stem not in masks]:
        warn(f"{len(spare)} predictions have no mask in {mask_folder} and are left out: {some(spare)}")
    return [Pair(predictions[stem], mask) for stem, mask in masks.items()]


def check_sizes(pairs: list[Pair], mask_sizes: list[tuple[int, int]]) -> None:
    def size(pair: Pair) -> tuple[int, int]:
        with opened(pair.image) as image:
            return image.size

    wrong = [
        f"{pair.image.name} ({found[0]}x{found[1]}, mask {mask[0]}x{mask[1]})"
        for pair, found, mask in zip(pairs, each(size, pairs), mask_sizes, strict=True)
        if tuple(found) != tuple(mask)
    ]
    if wrong:
        raise UserError(
            f"{len(wrong)} predictions have another size than their mask: {some(wrong)}; "
            "predict with --test_gt_path, which gives each map its mask's size"
        )


def read_prediction(path: Path) -> np.ndarray:
    """8-bit grey (H, W)."""
    with opened(path) as image:
        return np.asarray(to_8_bit(image).convert("L"))


def table(dataset_name: str, count: int, scores: Mapping[str, float]) -> str:
    """Two aligned lines: titles and numbers, three decimals."""
    titles = ["dataset", "images", *(COLUMNS[key].title for key in scores)]
    cells = [dataset_name, str(count), *(f"{value:.3f}" for value in scores.values())]
    widths = [max(len(title), len(cell)) for title, cell in zip(titles, cells, strict=True)]
    lines = (row[0].ljust(widths[0]) + row_tail(row[1:], widths[1:]) for row in (titles, cells))
    return "\n".join(lines)


def row_tail(cells: list[str], widths: list[int]) -> str:
    return "".join("  " + cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def legend() -> str:
    return "\n".join(f"{column.title:<6} {column.legend}" for column in COLUMNS.values())
