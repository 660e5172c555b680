"""Writes scores with full precision as CSV and JSON, and reads the scores of images from CSV."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import NamedTuple

import numpy as np

from ...data.packed_files import cut
from ...errors import UserError, printable, shortlist
from ..aggregate import CURVE_METRICS, MethodResult, average_scores
from ..columns import METRICS
from ..pixels.surface import DISTANCES
from ..pool import pool_map

PER_IMAGE = [key for key in METRICS if key not in CURVE_METRICS]
NAMES = ("dataset", "method", "image")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# E divides by the number of pixels minus one. For a map of one pixel, it divides by nearly 0.
ABOVE_1, LARGEST = ("E_adaptive", "E_mean", "dichotomous_HCE", *DISTANCES), 1e16
ROUNDING = 1e-6
ROWS = 1024  # rows that are formatted in one step
FORMULA = re.compile(r"'*[=+\-@＝＋－＠]")  # a spreadsheet executes a cell that starts like this


def csv_table(results: Sequence[MethodResult], columns: Sequence[str]) -> str:
    """Returns a row for each result under the metric keys. A cell is empty if the number is not defined."""
    rows = (
        [r.dataset, r.method, len(r.images), *(format_number(r.table.get(key)) for key in columns)] for r in results
    )
    return csv_text([["dataset", "method", "images", *columns], *rows])


class RowsJob(NamedTuple):
    """The names and the numbers of consecutive images of a result. A column that the result does not have is None."""

    dataset: str
    method: str
    images: Sequence[str]
    columns: list[np.ndarray | None]


def per_image_csv(results: Sequence[MethodResult], workers: int | None = 1) -> Iterator[str]:
    """Yields the text of a table with a row for each image and all metrics that any result has, some rows at a time.

    A cell is empty if the number is not defined. `workers` is that of `pool_map`.
    """
    keys = [key for key in PER_IMAGE if any(key in r.per_image for r in results)]
    yield csv_text([[*NAMES, *keys]])
    columns = [[r.per_image.get(key) for key in keys] for r in results]
    jobs = (
        RowsJob(r.dataset, r.method, cut(r.images, i, i + ROWS), [c if c is None else c[i : i + ROWS] for c in all_])
        for r, all_ in zip(results, columns, strict=True)
        for i in range(0, len(r.images), ROWS)
    )
    with pool_map(workers if any(len(r.images) > ROWS for r in results) else 1) as run:
        yield from run(format_image_rows, jobs)


def format_image_rows(job: RowsJob) -> str:
    columns = [[None] * len(job.images) if column is None else list_cells(column) for column in job.columns]
    names = [job.dataset, job.method]
    return csv_text([*names, image, *row] for image, *row in zip(job.images, *columns, strict=True))


def read_per_image_csv(path: Path) -> list[MethodResult]:
    """Reads a file of `per_image_csv`: results without files, curves and `CURVE_METRICS`. UserError for other files."""
    titles, rows = read_rows(path)
    grouped: dict[tuple[str, str], dict[str, list[float]]] = {}
    for line, row in rows:
        dataset, method, image = map(from_text, row[:3])
        images = grouped.setdefault((dataset, method), {})
        if image in images:
            raise UserError(f"{path} line {line}: {dataset} {method} {image} occurs twice; remove one of the lines")
        images[image] = [parse_number(cell, key, path, line) for key, cell in zip(titles, row[3:], strict=True)]
    results = []
    for (dataset, method), images in grouped.items():
        columns = np.array(list(images.values()), dtype=float).T
        per_image = dict(zip(titles, columns, strict=True))
        table = average_scores(per_image, {})
        results.append(MethodResult(dataset, method, list(images), per_image=per_image, table=table))
    return results


def results_json(
    results: Sequence[MethodResult], arguments: dict, versions: dict, comparison: dict | None = None
) -> str:
    """Returns the numbers of all tables by data set, method and metric, and the counts of images.

    A number that is not defined is null. `comparison` comes from `compare.to_json_dict`.
    """
    datasets: dict[str, dict] = {}
    files: dict[str, dict] = {}
    for r in results:
        undefined = {key: int(np.isnan(values).sum()) for key, values in r.per_image.items()}
        datasets.setdefault(r.dataset, {})[r.method] = {key: json_number(value) for key, value in r.table.items()}
        files.setdefault(r.dataset, {})[r.method] = {
            "images": len(r.images),
            "undefined": {key: count for key, count in undefined.items() if count},
        }
    everything = {"datasets": datasets, "files": files, "versions": versions, "arguments": arguments}
    if comparison is not None:
        everything["comparison"] = comparison
    return json.dumps(everything, indent=2, allow_nan=False, default=str) + "\n"


def json_number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def format_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def list_cells(values: np.ndarray) -> list[float | None]:
    """Returns the numbers; None if a number is not defined."""
    return [None if value != value else value for value in values.tolist()]


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Returns the text of the rows. A cell with None is empty."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(
        [cell if isinstance(cell, (float, int, NoneType)) else as_text(cell) for cell in row] for row in rows
    )
    return file.getvalue()


def as_text(cell: object) -> str:
    """Formats a cell. Text that a spreadsheet would execute gets an apostrophe in front; `from_text` removes it."""
    text = printable(cell)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def from_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the metric keys of the title line, and each row with its line number. UserError for another file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # a spreadsheet may have added a byte order mark
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({e}); give an unchanged per_image.csv") from e
    titles = rows[0][1] if rows else []
    if tuple(titles[:3]) != NAMES or len(titles) == 3:
        raise UserError(f"{path} does not start with {','.join(NAMES)} and metrics; give a per_image.csv")
    keys = titles[3:]
    if keys[0] == "class":
        raise UserError(
            f"{path} has scores of classes, which --from cannot read; give a per_image.csv without --classes"
        )
    if wrong := [key for i, key in enumerate(keys) if key not in PER_IMAGE or key in keys[:i]]:
        raise UserError(
            f"{path} has columns that are no metrics of images, or occur twice: {shortlist(wrong)}; remove them"
        )
    if len(rows) == 1:
        raise UserError(f"{path} has a title line but no images; score again with --save_dir")
    for line, row in rows[1:]:
        if len(row) != len(titles):
            raise UserError(f"{path} line {line} has {len(row)} cells instead of {len(titles)}; is the file complete?")
    return keys, rows[1:]


def parse_number(cell: str, key: str, path: Path, line: int) -> float:
    """Returns the number in a cell; NaN for an empty cell. UserError if it is not in the range of the metric."""
    if not cell:
        return math.nan
    unlimited = key in ABOVE_1
    value = float(cell) if NUMBER.fullmatch(cell) else math.nan
    if not (0 <= value <= LARGEST if unlimited else -ROUNDING <= value <= 1 + ROUNDING):
        expected = "of 0 or more" if unlimited else "from 0 to 1"
        raise UserError(
            f"{path} line {line}: {key} is {cell!r}, not a number {expected}; an undefined number is an empty cell"
        )
    return value
