"""SAM-Med2D's JSON files: which masks belong to which image, and the prompts of a test."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..atomic import read_json, write_atomic
from ..data.check import refuse_constant
from ..data.pairs import Pair
from ..data.reading import open_image, upright_size
from ..errors import UserError, shortlist
from ..runtime.parallel import map_files
from .clicks import Points
from .framing import Frame, Framing

TRAIN_LIST, TEST_LIST = "image2label_train.json", "label2image_test.json"


class ImageMasks(NamedTuple):
    image: Path
    masks: tuple[Path, ...]  # one object each


class Prompts(NamedTuple):
    """What one mask is asked for with.

    Attributes:
        boxes: float32 (1, 4).
        points: of one mask, coordinates float32 (1, N, 2) and labels int64 (1, N).
    """

    boxes: torch.Tensor
    points: Points


def read_train_list(folder: Path) -> list[ImageMasks]:
    """`image2label_train.json` of a folder, {image: [mask, ...]}, in its order; paths as they are written.

    Raises:
        UserError: no such file, another form, an image without masks, or a path that does not exist.
    """
    path = folder / TRAIN_LIST
    entries = read_object(path)
    wrong = [image for image, masks in entries.items() if not is_list_of_paths(masks)]
    if wrong:
        raise UserError(f"{path}: {len(wrong)} of {len(entries)} images have no list of mask paths: {shortlist(wrong)}")
    if bare := [image for image, masks in entries.items() if not masks]:
        raise UserError(f"{path}: {len(bare)} of {len(entries)} images have an empty list of masks: {shortlist(bare)}")
    items = [ImageMasks(Path(image), tuple(map(Path, masks))) for image, masks in entries.items()]
    check_files_exist(path, "images", [item.image for item in items])
    check_files_exist(path, "masks", [mask for item in items for mask in item.masks])
    return items


def read_test_list(folder: Path) -> list[Pair]:
    """`label2image_test.json` of a folder, {mask: image}, in its order; UserError as `read_train_list`."""
    path = folder / TEST_LIST
    entries = read_object(path)
    if wrong := [mask for mask, image in entries.items() if not isinstance(image, str)]:
        raise UserError(f"{path}: {len(wrong)} of {len(entries)} masks have no image path: {shortlist(wrong)}")
    pairs = [Pair(Path(image), Path(mask)) for mask, image in entries.items()]
    check_files_exist(path, "masks", [pair.mask for pair in pairs])
    check_files_exist(path, "images", list(dict.fromkeys(pair.image for pair in pairs)))
    return pairs


def write_train_list(folder: Path, items: Sequence[ImageMasks]) -> None:
    write_object(folder / TRAIN_LIST, {item.image.as_posix(): [m.as_posix() for m in item.masks] for item in items})


def write_test_list(folder: Path, pairs: Sequence[Pair]) -> None:
    write_object(folder / TEST_LIST, {pair.mask.as_posix(): pair.image.as_posix() for pair in pairs})


def check_masks_of(pairs: Sequence[Pair], framing: Framing, strict: bool = False) -> None:
    """Read every image's head and every mask before a long run. UserError, with all that cannot be used counted.

    Args:
        pairs: an image once for each of its masks; `[Pair(item.image, m) for item in items for m in item.masks]`.
        strict: refuse soft masks, as the test does.
    """
    found = [(pair, words) for pair, words in zip(pairs, find_problems(pairs, framing, strict), strict=True) if words]
    if found:
        names = shortlist([pair.mask.name for pair, _ in found])
        raise UserError(f"{len(found)} of {len(pairs)} masks cannot be used: {names}; first: {found[0][1]}")


def find_problems(pairs: Sequence[Pair], framing: Framing, strict: bool = False) -> list[str | None]:
    """Of each pair, in words, why it cannot be a prompt's. UserError if the mask threshold leaves all masks full."""
    images = list(dict.fromkeys(pair.image for pair in pairs))
    heads = dict(zip(images, map_files(read_size_or_problem, images), strict=True))
    extremes: dict[Path, tuple[bool, bool]] = {}  # of masks that can be used: whether all is foreground, whether any is

    def problem(pair: Pair) -> str | None:
        if isinstance(size := heads[pair.image], str):
            return size
        try:
            _, whole = framing.label(pair.mask, Frame(size[1], size[0], framing.size), strict)
        except UserError as e:
            return str(e)
        extremes[pair.mask] = bool(whole.all()), True

    found = map_files(problem, pairs)
    if framing.mask_threshold is not None and extremes:
        refuse_constant(dict(sorted(extremes.items())), framing.mask_threshold)
    return found


def read_size_or_problem(path: Path) -> tuple[int, int] | str:
    """(width, height), or why there is none."""
    try:
        with open_image(path) as image:
            return upright_size(image)
    except UserError as e:
        return str(e)


def make_unique_names(masks: Sequence[Path]) -> list[str]:
    """What prompts and predictions of each mask are called: its file name, or its path where two have one name."""
    counts = Counter(mask.name for mask in masks)
    return [mask.name if counts[mask.name] == 1 else mask.as_posix() for mask in masks]


def write_prompts(path: Path, prompts: Mapping[str, Prompts]) -> None:
    """{name: {boxes: [[x0, y0, x1, y1]], point_coords: [[x, y], ...], point_labels: [l, ...]}}, in the square's pixels.

    `read_prompts` gives the same back for any number of points.
    """
    entries = {
        name: {
            "boxes": one.boxes.tolist(),
            "point_coords": one.points.coords[0].tolist(),
            "point_labels": one.points.labels[0].tolist(),
        }
        for name, one in prompts.items()
    }
    write_object(path, entries)


def read_prompts(path: Path, names: Sequence[str]) -> list[Prompts]:
    """The prompts of these masks, all with as many points. Released files of several points nest one deeper; read too.

    Raises:
        UserError: no such file, another form, a name that it does not have, or numbers of points that differ.
    """
    entries = read_object(path)
    if absent := [name for name in names if name not in entries]:
        raise UserError(f"{path} has no prompts for {len(absent)} of {len(names)} masks: {shortlist(absent)}")
    prompts = [parse_prompts(path, name, entries[name]) for name in names]
    if len(counts := sorted({one.points.labels.shape[1] for one in prompts})) > 1:
        raise UserError(f"{path} has different numbers of points: {shortlist(counts)}; wanted one number for all masks")
    return prompts


def parse_prompts(path: Path, name: str, entry: object) -> Prompts:
    try:
        boxes, coords = (torch.tensor(entry[key], dtype=torch.float32) for key in ("boxes", "point_coords"))
        labels = torch.tensor(entry["point_labels"], dtype=torch.float64).reshape(1, -1)
        prompts = Prompts(boxes.reshape(1, 4), Points(coords.reshape(1, labels.shape[1], 2), labels.long()))
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):  # torch's word for a wrong shape is the last
        raise UserError(f"{path}: {name} wants boxes of 4 numbers, point_coords of 2 and as many labels") from None
    if not (boxes.isfinite().all() and coords.isfinite().all() and torch.isin(labels, torch.tensor([-1, 0, 1])).all()):
        raise UserError(f"{path}: {name} has a coordinate that is no number, or a label that is not 1, 0 or -1")
    return prompts


def read_object(path: Path) -> dict[str, object]:
    """A JSON file with at least one entry."""
    if not path.exists():
        raise UserError(f"no such file: {path}; scripts/make_prompt_data.py makes the lists")
    entries = read_json(path)
    if not entries:
        raise UserError(f"{path} is empty: it lists nothing")
    return entries


def write_object(path: Path, entries: Mapping[str, object]) -> None:
    with write_atomic(path) as file:
        file.write(json.dumps(entries, indent=2).encode())


def is_list_of_paths(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_files_exist(path: Path, kind: str, files: Sequence[Path]) -> None:
    if gone := [file for file in files if not os.path.isfile(file)]:  # False for impossible names too
        raise UserError(
            f"{path}: {len(gone)} of {len(files)} {kind} do not exist: {shortlist(gone)} "
            f"(paths are taken as written; relative ones start at the working folder, {Path.cwd()})"
        )
