"""Scores for other programs, at full precision: CSV, per image and back, and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError, printable, shortlist
from . import aggregate
from .columns import METRICS
from .results import MethodResult

PER_IMAGE = [key for key in METRICS if key not in aggregate.OF_CURVES]
NAMES = ("dataset", "method", "image")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# E divides by the number of pixels less one, which is 0 for a map of one pixel.
ABOVE_1, LARGEST = ("E_adaptive", "E_mean", "dichotomous_HCE"), 1e16
ROUNDING = 1e-6
FORMULA = re.compile(r"'*[=+\-@＝＋－＠]")  # what a spreadsheet executes


def csv_table(results: list[MethodResult], columns: Sequence[str]) -> str:
    """A row per result, titled with the metrics' keys; empty where a number is not defined."""
    rows = (
        [r.dataset, r.method, len(r.images), *(format_number(r.table.get(key)) for key in columns)] for r in results
    )
    return csv_text([["dataset", "method", "images", *columns], *rows])


def per_image_csv(results: list[MethodResult]) -> str:
    """A row per image of each result, with every metric that any result has; empty where it is not defined."""
    keys = [key for key in PER_IMAGE if any(key in r.per_image for r in results)]
    rows = [[*NAMES, *keys]]
    for r in results:
        values = [r.per_image.get(key, [None] * len(r.images)) for key in keys]
        rows += (
            [r.dataset, r.method, image, *map(format_number, row)]
            for image, *row in zip(r.images, *values, strict=True)
        )
    return csv_text(rows)


def read_per_image_csv(path: Path) -> list[MethodResult]:
    """What `per_image_csv` wrote, without files and curves, and its means taken anew: all but `aggregate.OF_CURVES`."""
    titles, rows = read_rows(path)
    grouped: dict[tuple[str, str], dict[str, list[float]]] = {}
    for line, row in rows:
        dataset, method, image = map(from_text, row[:3])
        images = grouped.setdefault((dataset, method), {})
        if image in images:
            raise UserError(f"{path} line {line}: {dataset} {method} {image} is there twice; take one out.")
        images[image] = [parse_number(cell, key, path, line) for key, cell in zip(titles, row[3:], strict=True)]
    results = []
    for (dataset, method), images in grouped.items():
        columns = np.array(list(images.values()), dtype=float).T
        per_image = dict(zip(titles, columns, strict=True))
        table = aggregate.mean_table(per_image, {})
        results.append(MethodResult(dataset, method, list(images), [], [], [], per_image, {}, table))
    return results


def results_json(results: list[MethodResult], arguments: dict, versions: dict, comparison: dict | None = None) -> str:
    """All numbers of all tables by data set, method and metric, null where not defined, beside counts of images.

    Args:
        comparison: from `compare.as_dict`; left out where there is none.
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


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([as_text(cell) for cell in row] for row in rows)
    return file.getvalue()


def as_text(cell: object) -> str:
    """`printable`, with an apostrophe before what a spreadsheet would take for a formula; `from_text` takes it off."""
    word = printable(cell)
    return f"'{word}" if FORMULA.match(word) and not NUMBER.fullmatch(word) else word


def from_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The metrics' keys in the title line, and each row with its line number; UserError for any other kind of file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # a spreadsheet may have put a byte order mark
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({e}); give a per_image.csv as it was written.") from e
    titles = rows[0][1] if rows else []
    if tuple(titles[:3]) != NAMES or len(titles) == 3:
        raise UserError(f"{path} does not begin with {','.join(NAMES)} and metrics; give a per_image.csv.")
    keys = titles[3:]
    if wrong := [key for i, key in enumerate(keys) if key not in PER_IMAGE or key in keys[:i]]:
        raise UserError(
            f"{path} has columns that no image has a number for, or twice: {shortlist(wrong)}; take them out."
        )
    if len(rows) == 1:
        raise UserError(f"{path} has a title line and no images; score again with --save_dir.")
    for line, row in rows[1:]:
        if len(row) != len(titles):
            raise UserError(f"{path} line {line} has {len(row)} cells, not {len(titles)}; is the file cut short?")
    return keys, rows[1:]


def parse_number(cell: str, key: str, path: Path, line: int) -> float:
    """NaN for an empty cell."""
    if not cell:
        return math.nan
    above = key in ABOVE_1
    value = float(cell) if NUMBER.fullmatch(cell) else math.nan
    if not (0 <= value <= LARGEST if above else -ROUNDING <= value <= 1 + ROUNDING):
        wanted = "0 or above" if above else "from 0 to 1"
        raise UserError(
            f"{path} line {line}: {key} is {cell!r}, not a number {wanted}; leave the cell empty if undefined."
        )
    return value
