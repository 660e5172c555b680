"""Writes the report: one HTML page with tables, curves, distributions and a gallery. It needs no network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from string import Template

import numpy as np

from ...atomic import write_atomic
from ...classes import Classes
from ...data.volumes.slices import Source
from ...recipe import MaskRule
from ..aggregate import MethodResult, name_folders
from ..columns import METRICS, SURFACES, Metric
from ..compare import Difference
from .gallery import Gallery, choose_galleries
from .html_tables import escape, report_tables
from .pictures import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE, NOTHING, thumbnails

BINS = 25  # of a distribution
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
    "note": "stretched to its full range, and its errors at the threshold 0.5",
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
    limit: int | None = None,
) -> None:
    """Writes the page with tables of `columns`, completely or not at all. It has at most 60 MB.

    Raises UserError if a file cannot be read, or the page cannot be written.

    Args:
        mask_threshold: the rule for foreground, or the classes, that was used for the scores.
        metrics: the meaning of `columns` and of the scores of images.
        differences: of methods in `columns`. Without methods, there are none.
        command: the command line that made the scores.
        limit: the largest number of images in the gallery. None: as many as fit into 60 MB.
    """
    datasets: dict[str, list[MethodResult]] = {}
    for result in name_methods(results):
        datasets.setdefault(result.dataset, []).append(result)
    keys, owners = list_image_metrics(results, columns, metrics, mask_threshold)
    whole = [key for key in keys if key not in owners]  # metrics of whole images, not of one class
    galleries = choose_galleries(list(datasets.values()), keys, whole[:1], metrics, limit)
    head, tail = TEMPLATE.with_suffix(".html").read_text("utf-8").split("<!-- pictures -->")
    head = Template(head).substitute(
        CLASS_TEXTS if isinstance(mask_threshold, Classes) else BINARY_TEXTS,
        title=escape(", ".join(datasets)),
        summary=describe_counts(galleries, results),
        selection=describe_selection(galleries, [metrics[key].title for key in whole[:1]]),
        tables=report_tables(datasets, columns, metrics, differences),
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        facts=report_facts(datasets, galleries, command),
        data=script_json(page_data(datasets, galleries, keys, metrics, owners, mask_threshold)),
        style=TEMPLATE.with_suffix(".css").read_text("utf-8"),
        **{name: f"rgb{color}" for name, color in COLOR_NAMES.items()},
    )
    tail = Template(tail).substitute(script="".join(TEMPLATE.with_name(name).read_text("utf-8") for name in SCRIPTS))
    ids = [f"pictures-{d}-{i}" for d, gallery in enumerate(galleries) for i in range(len(gallery.rows))]
    pictures = thumbnails([row for gallery in galleries for row in gallery.rows], mask_threshold)
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


def list_image_metrics(
    results: Sequence[MethodResult], columns: Sequence[str], metrics: Mapping[str, Metric], mask_threshold: MaskRule
) -> tuple[list[str], dict[str, int]]:
    """Returns the metrics of images, `columns` first. For those of one class, also the index of the class."""
    used = {key for result in results for key in result.per_image}
    keys = [*(key for key in columns if key in used), *(key for key in metrics if key in used - set(columns))]
    items = mask_threshold.items if isinstance(mask_threshold, Classes) else ()
    return keys, {f"{key}_{item.name}": i for i, item in enumerate(items) for key in ("IoU", "Dice", *SURFACES)}


def page_data(
    datasets: Mapping[str, Sequence[MethodResult]],
    galleries: Sequence[Gallery],
    keys: Sequence[str],
    metrics: Mapping[str, Metric],
    owners: Mapping[str, int],
    mask_threshold: MaskRule,
) -> dict:
    """Returns the data that the script of the page draws, without pictures. Values are in the order of the gallery."""
    items = mask_threshold.items if isinstance(mask_threshold, Classes) else ()
    return {
        "metrics": {key: metrics[key]._asdict() | ({"owner": owners[key]} if key in owners else {}) for key in keys},
        "classes": [{"name": item.name, "color": item.color} for item in items],
        "datasets": [
            {"name": name, "images": [row.name for row in gallery.rows], "total": gallery.total}
            | {"photographs": any(row.photograph for row in gallery.rows)}
            | {"methods": [method_data(*pair) for pair in zip(methods, gallery.places, strict=True)]}
            | {"distributions": {key: count_values(methods, key, gallery.total) for key in keys}}
            for (name, methods), gallery in zip(datasets.items(), galleries, strict=True)
        ],
    }


def method_data(method: MethodResult, places: np.ndarray) -> dict:
    """Returns the name of a method, its values for the images at `places`, and its curves. At -1, there is no value."""
    values = {
        key: [None if i < 0 else format_report_number(numbers[i]) for i in places.tolist()]
        for key, numbers in method.per_image.items()
    }
    curves = {name: [format_report_number(value) for value in curve] for name, curve in method.curves.items()}
    return {"name": method.method, "values": values, "curves": curves}


def count_values(methods: Sequence[MethodResult], key: str, total: int) -> dict:
    """Returns the distribution of a metric over all images, of the methods that have it, in bins from 0 to `top`.

    `total` is the number of images of the data set. For each method: the images of each bin, the mean, and the numbers
    of images with and without a value.
    """
    columns = [method.per_image[key] for method in methods if key in method.per_image]
    series = [column[np.isfinite(column)] for column in columns]
    largest = max((float(values.max()) for values in series if len(values)), default=0.0)
    top = largest if largest > 1 else 1.0
    counts = [np.bincount((values / top * BINS).astype(int).clip(0, BINS - 1), minlength=BINS) for values in series]
    rows = [
        {"counts": count.tolist(), "mean": float(values.mean()) if len(values) else 0.0}
        | {"defined": len(values), "undefined": total - len(values)}
        for count, values in zip(counts, series, strict=True)
    ]
    return {"top": top, "methods": rows}


def format_report_number(value: float) -> float | None:
    """Rounds to six digits. Returns None for NaN and infinity, which JSON does not have."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def script_json(data: object) -> str:
    """Returns JSON for a script element. No text in the data can end that element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def describe_counts(galleries: Sequence[Gallery], results: Sequence[MethodResult]) -> str:
    """Returns text such as `2 data sets, 1 method, 43 images`."""
    counts = {"data set": len(galleries), "method": len({r.method for r in results})}
    counts["image"] = sum(gallery.total for gallery in galleries)
    return ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())


def describe_selection(galleries: Sequence[Gallery], titles: Sequence[str]) -> str:
    """Returns HTML that says which images the gallery shows, if it does not show all."""
    shown, total = sum(len(gallery.rows) for gallery in galleries), sum(gallery.total for gallery in galleries)
    if shown == total:
        return ""
    by = f", by {titles[0]}" if titles else ""
    return (
        f'<p class="hint">The gallery shows the worst {shown:,} of {total:,} images{escape(by)}. '
        "The tables, the curves and the distributions count all images.</p>"
    )


def report_facts(datasets: Mapping[str, Sequence[MethodResult]], galleries: Sequence[Gallery], command: str) -> str:
    """Returns HTML: the command and the folders of the images in the galleries."""
    facts = [("Command", command)] * bool(command)
    for (name, methods), gallery in zip(datasets.items(), galleries, strict=True):
        pairs = list(zip(methods, gallery.places, strict=True))
        facts += [
            (f"{name}: maps of {m.method}", folder) for m, p in pairs for folder in list_parents(m.predictions, p)
        ]
        for title in ("masks", "photographs"):
            folders = dict.fromkeys(folder for m, p in pairs for folder in list_parents(getattr(m, title), p))
            facts += [(f"{name}: {title}", folder) for folder in folders]
    return "".join(f"<dt>{escape(title)}<dd><code>{escape(text)}</code>" for title, text in facts)


def list_parents(paths: Sequence[Source | None], places: np.ndarray) -> list[str]:
    """Returns the folders of the files at `places`. There is no file at -1."""
    files = (paths[i] for i in places.tolist() if i >= 0)
    return list(dict.fromkeys(str(path.parent) for path in files if path))
