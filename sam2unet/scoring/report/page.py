"""Writes the report: one HTML page with tables, curves, distributions and a gallery. It needs no network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from string import Template

from ...atomic import write_atomic
from ...classes import Classes
from ...data.slices import Source
from ...recipe import MaskRule
from ..aggregate import MethodResult, name_folders
from ..columns import METRICS, SURFACES, Metric
from ..compare import Difference
from .html_tables import escape, report_tables
from .pictures import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE, NOTHING, Row, thumbnails

TEMPLATE = Path(__file__).with_name("report")  # with .html and .css
SCRIPTS = ("charts.js", "gallery.js")
COLOR_NAMES = {
    "false_positive": FALSE_POSITIVE,
    "false_negative": FALSE_NEGATIVE,
    "agreed": AGREED,
    "nothing": NOTHING,
}
# The text above the gallery, and what its three colours mean.
BINARY_TEXTS = {
    "note": "stretched as for scoring, and its errors at the threshold 0.5",
    "positive_text": "false positive",
    "negative_text": "false negative",
    "agreed_text": "foreground in both",
}
CLASS_TEXTS = {
    "note": "and its errors, for all classes or for the class that you choose",
    "positive_text": "wrong class; of one class: false positive",
    "negative_text": "of one class: false negative",
    "agreed_text": "right",
}


def write_report(
    results: Sequence[MethodResult],
    path: Path,
    columns: Sequence[str],
    mask_threshold: MaskRule = None,
    metrics: Mapping[str, Metric] = METRICS,
    differences: Sequence[Difference] = (),
    command: str = "",
) -> None:
    """Writes the page with tables of `columns`, completely or not at all. It has at most 60 MB.

    Raises UserError if a file cannot be read, or the page cannot be written.

    Args:
        mask_threshold: the rule for foreground, or the classes, that was used for the scores.
        metrics: the meaning of `columns` and of the scores of images.
        differences: of methods in `columns`. Without methods, there are none.
        command: the command line that made the scores.
    """
    datasets: dict[str, list[MethodResult]] = {}
    for result in name_methods(results):
        datasets.setdefault(result.dataset, []).append(result)
    galleries = [list_rows(methods) for methods in datasets.values()]
    head, tail = TEMPLATE.with_suffix(".html").read_text("utf-8").split("<!-- pictures -->")
    head = Template(head).substitute(
        CLASS_TEXTS if isinstance(mask_threshold, Classes) else BINARY_TEXTS,
        title=escape(", ".join(datasets)),
        summary=describe_counts(galleries, results),
        tables=report_tables(datasets, columns, metrics, differences),
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        facts=report_facts(datasets, command),
        data=script_json(page_data(datasets, galleries, columns, metrics, mask_threshold)),
        style=TEMPLATE.with_suffix(".css").read_text("utf-8"),
        **{name: f"rgb{color}" for name, color in COLOR_NAMES.items()},
    )
    tail = Template(tail).substitute(script="".join(TEMPLATE.with_name(name).read_text("utf-8") for name in SCRIPTS))
    ids = [f"pictures-{d}-{i}" for d, rows in enumerate(galleries) for i in range(len(rows))]
    pictures = thumbnails([row for rows in galleries for row in rows], mask_threshold)
    with write_atomic(path) as file:
        file.write(head.encode())
        for row_id, row in zip(ids, pictures, strict=True):
            # One script for each row, because the page reads only the rows that it shows.
            file.write(f'<script type="application/json" id="{row_id}">{script_json(row)}</script>\n'.encode())
        file.write(tail.encode())


def name_methods(results: Sequence[MethodResult]) -> list[MethodResult]:
    """Returns the results. A result without a method gets the name of its folder."""
    folders = [next((path.parent for path in r.predictions if path), Path("maps")) for r in results]
    names = name_folders([r.dataset for r in results], folders)
    return [r if r.method else replace(r, method=name) for r, name in zip(results, names, strict=True)]


def list_rows(methods: Sequence[MethodResult]) -> list[Row]:
    """Returns a gallery row for each image that any method was scored on. Predictions are in the order of `methods`."""
    rows: dict[str, Row] = {}
    for m, method in enumerate(methods):
        files = zip(method.images, method.masks, method.photographs, method.predictions, strict=True)
        for name, mask, photograph, prediction in files:
            row = rows.setdefault(name, Row(name, mask, photograph, [None] * len(methods)))
            row.predictions[m] = prediction
    return list(rows.values())


def page_data(
    datasets: Mapping[str, Sequence[MethodResult]],
    galleries: Sequence[Sequence[Row]],
    columns: Sequence[str],
    metrics: Mapping[str, Metric],
    mask_threshold: MaskRule,
) -> dict:
    """Returns the data that the script of the page draws, without pictures. Values are in the order of the gallery."""
    used = {key for methods in datasets.values() for method in methods for key in method.per_image}
    keys = [*(key for key in columns if key in used), *(key for key in metrics if key in used - set(columns))]
    items = mask_threshold.items if isinstance(mask_threshold, Classes) else ()
    owners = {f"{key}_{item.name}": {"owner": i} for i, item in enumerate(items) for key in ("IoU", "Dice", *SURFACES)}
    return {
        "metrics": {key: metrics[key]._asdict() | owners.get(key, {}) for key in keys},
        "classes": [{"name": item.name, "color": item.color} for item in items],
        "datasets": [
            {"name": name, "images": [row.name for row in rows], "photographs": any(row.photograph for row in rows)}
            | {"methods": [method_data(method, rows) for method in methods]}
            for (name, methods), rows in zip(datasets.items(), galleries, strict=True)
        ],
    }


def method_data(method: MethodResult, rows: Sequence[Row]) -> dict:
    """Returns the name, the values in the order of `rows`, and the curves of a method."""
    indices = {name: i for i, name in enumerate(method.images)}
    order = [indices.get(row.name) for row in rows]
    values = {
        key: [None if i is None else format_report_number(numbers[i]) for i in order]
        for key, numbers in method.per_image.items()
    }
    curves = {name: [format_report_number(value) for value in curve] for name, curve in method.curves.items()}
    return {"name": method.method, "values": values, "curves": curves}


def format_report_number(value: float) -> float | None:
    """Rounds to six digits. Returns None for NaN and infinity, which JSON does not have."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def script_json(data: object) -> str:
    """Returns JSON for a script element. No text in the data can end that element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def describe_counts(galleries: Sequence[Sequence[Row]], results: Sequence[MethodResult]) -> str:
    """Returns text such as `2 data sets, 1 method, 43 images`."""
    counts = {"data set": len(galleries), "method": len({r.method for r in results}), "image": sum(map(len, galleries))}
    return ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())


def report_facts(datasets: Mapping[str, Sequence[MethodResult]], command: str) -> str:
    """Returns HTML: the command and the folders."""
    facts = [("Command", command)] * bool(command)
    for name, methods in datasets.items():
        facts += [(f"{name}: maps of {m.method}", folder) for m in methods for folder in list_parents(m.predictions)]
        for title in ("masks", "photographs"):
            folders = dict.fromkeys(folder for m in methods for folder in list_parents(getattr(m, title)))
            facts += [(f"{name}: {title}", folder) for folder in folders]
    return "".join(f"<dt>{escape(title)}<dd><code>{escape(text)}</code>" for title, text in facts)


def list_parents(paths: Sequence[Source | None]) -> list[str]:
    return list(dict.fromkeys(str(path.parent) for path in paths if path))
