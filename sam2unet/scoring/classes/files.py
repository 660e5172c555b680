"""The tables of classes and images as text, and the confusion matrix as text and as a picture."""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...data.packed_files import cut
from ...errors import UserError, printable
from ..columns import SURFACES, Metric
from ..match import Entry
from ..pool import pool_map
from ..tables.csv_files import NAMES, ROWS, csv_text, format_number, list_cells
from ..tables.score_tables import align_columns, format_value
from .columns import CLASS_PROTOCOLS
from .confusion import divide, score_pixels
from .score_folders import ClassResult

TITLES = ("dataset", "method", "class", "images", "pixels", "IoU", "Dice", "IoU_image", "Dice_image")
SCORE = Metric("", "")
SIDE = 900  # pixels of the matrix in its picture, if the classes are few
BLUE = np.array((8, 81, 156))


def format_class_table(results: list[ClassResult], protocol: str) -> str:
    """Returns an aligned table with a row for each result and class, and the scores of classes in `protocol`."""
    titles = list_titles(results)
    shown = {key.replace("_{}", "") for key in CLASS_PROTOCOLS[protocol] if "{}" in key}
    metrics = [SURFACES.get(title, SCORE) for title in titles[4:]]
    rows = [[*row[:4], *map(format_value, metrics, row[4:])] for row in class_rows(results)]
    columns = [(title, [printable(row[i]) for row in rows]) for i, title in enumerate(titles)]
    names = columns[:3] if any(r.method for r in results) else [columns[0], columns[2]]
    return align_columns(names, [*columns[3:5], *(column for column in columns[5:] if column[0] in shown)])


def class_table_csv(results: list[ClassResult]) -> str:
    rows = ([*row[:4], *map(format_number, row[4:])] for row in class_rows(results))
    return csv_text([list_titles(results), *rows])


def list_titles(results: list[ClassResult]) -> list[str]:
    return [*TITLES, *(SURFACES if results[0].surfaces is not None else ())]


def class_rows(results: list[ClassResult]) -> Iterator[list]:
    """Yields for each class: the names, the images with the class, its share of the pixels of the masks, its scores."""
    for r in results:
        shares = divide(r.confusion.sum(1), r.confusion.sum())
        images = (r.counts[:, 1:].sum(1) > 0).sum(0)
        for name, count, share in zip(r.classes.names, images, shares, strict=True):
            scores = [r.table[f"{key}_{name}"] for key in ("IoU", "Dice")]
            scores += [r.table[f"{key}_{name}_image"] for key in ("IoU", "Dice")]
            scores += [r.table[f"{key}_{name}"] for key in SURFACES if r.surfaces is not None]
            yield [r.dataset, r.method, name, int(count), float(share), *scores]


class ClassRowsJob(NamedTuple):
    """The names and the scores of consecutive images. `counts` and `surfaces` are those of a `ClassResult`."""

    dataset: str
    method: str
    classes: list[str]
    images: Sequence[str]
    counts: np.ndarray
    surfaces: np.ndarray | None


def per_image_class_csv(results: list[ClassResult], workers: int | None = 1) -> Iterator[str]:
    """Yields the text of a table with a row for each image and class, some rows at a time.

    A score of a class in neither mask nor map is empty. `workers` is that of `pool_map`.
    """
    titles = [*NAMES, "class", "IoU", "Dice", "intersection", "union", "mask_pixels", "map_pixels"]
    yield csv_text([[*titles, *(SURFACES if results[0].surfaces is not None else ())]])
    jobs = (
        ClassRowsJob(r.dataset, r.method, r.classes.names, cut(r.images, i, i + ROWS), *parts)
        for r in results
        for i in range(0, len(r.images), ROWS)
        for parts in [(r.counts[i : i + ROWS], None if r.surfaces is None else r.surfaces[i : i + ROWS])]
    )
    with pool_map(workers if any(len(r.images) > ROWS for r in results) else 1) as run:
        yield from run(format_class_rows, jobs)


def format_class_rows(job: ClassRowsJob) -> str:
    return csv_text(image_rows(job))


def image_rows(job: ClassRowsJob) -> Iterator[list]:
    iou, dice = score_pixels(job.counts)
    for i, image in enumerate(job.images):
        surfaces = [[]] * len(job.classes) if job.surfaces is None else map(list_cells, job.surfaces[i].T)
        columns = list_cells(iou[i]), list_cells(dice[i]), job.counts[i].T.tolist(), surfaces
        for name, iou_score, dice_score, (both, mask, prediction), distances in zip(job.classes, *columns, strict=True):
            pixels = both, mask + prediction - both, mask, prediction
            yield [job.dataset, job.method, image, name, iou_score, dice_score, *pixels, *distances]


def confusion_csv(results: list[ClassResult]) -> str:
    """Returns the pixels: a row for each result and class of the masks, a column for each class of the maps."""
    rows = [["dataset", "method", "mask", *results[0].classes.names]]
    for r in results:
        lines = zip(r.classes.names, r.confusion.tolist(), strict=True)
        rows += ([r.dataset, r.method, name, *line] for name, line in lines)
    return csv_text(rows)


def name_pictures(results: Sequence[Entry | ClassResult]) -> list[str]:
    """Returns the file name of the confusion matrix of each result. Raises UserError if two have the same name."""
    names: list[str] = []
    for r in results:
        name = re.sub(r"[^\w.-]", "_", "_".join(filter(None, ("confusion", r.dataset, r.method)))) + ".png"
        if name in names:
            raise UserError(f"two results would write their picture to {name}; rename {r.dataset!r} or {r.method!r}")
        names.append(name)
    return names


def confusion_pictures(results: list[ClassResult]) -> dict[str, bytes]:
    """Returns a PNG for each result by file name."""
    pictures = {}
    for name, r in zip(name_pictures(results), results, strict=True):
        file = BytesIO()
        draw_confusion(r.confusion, r.classes.names).save(file, "PNG")
        pictures[name] = file.getvalue()
    return pictures


def draw_confusion(confusion: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draws the share of each row in per cent, white to blue, with the names of the classes."""
    shares = np.nan_to_num(divide(confusion, confusion.sum(1, keepdims=True)))
    cell = max(14, min(64, SIDE // len(names)))
    font = ImageFont.load_default(max(10, min(15, cell // 3)))
    texts = [printable(name)[:24] for name in names]
    margin = round(max(map(font.getlength, texts))) + 28
    picture = Image.new("RGB", (margin + cell * len(names) + 8,) * 2, "white")
    colors = np.rint(255 - shares[..., None] * (255 - BLUE)).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    picture.paste(Image.fromarray(colors), (margin, margin))
    draw = ImageDraw.Draw(picture)
    draw.text((8, 4), "rows: mask, columns: map, % of the row", "grey", font)
    turned = Image.new("L", (picture.width, margin))  # the names of the columns, written upwards
    for i, text in enumerate(texts):
        middle = margin + i * cell + cell // 2
        draw.text((margin - 6, middle), text, "black", font, anchor="rm")
        strip = Image.new("L", (margin - 22, cell))
        ImageDraw.Draw(strip).text((0, cell // 2), text, 255, font, anchor="lm")
        turned.paste(strip.rotate(90, expand=True), (margin + i * cell, 16))
        for j, share in enumerate(shares[i] if cell >= 36 else ()):
            place = (margin + j * cell + cell // 2, middle)
            draw.text(place, f"{100 * share:.0f}", "white" if share > 0.5 else "black", font, anchor="mm")
    picture.paste("black", (0, 0), turned)
    return picture
