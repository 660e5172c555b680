"""One HTML page of tables, curves, distributions and a gallery. It opens from disk and asks nothing of a network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape as escape_html
from pathlib import Path
from string import Template

import numpy as np

from ..atomic import write_atomic
from ..errors import printable
from ..recipe import ForegroundRule
from .columns import METRICS
from .report_pictures import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE, Row, thumbnails
from .results import MethodResult

HERE = Path(__file__)  # report.html, report.css and report.js lie beside it


def write_report(
    results: list[MethodResult],
    path: Path,
    columns: Sequence[str],
    tables_html: str | None = None,
    mask_threshold: ForegroundRule = None,
) -> None:
    """Write the page, at most 60 MB, whole or not at all.

    Args:
        columns: keys of the tables' metrics.
        tables_html: put in place of the tables made here, as it is.
        mask_threshold: as the masks were read when they were scored.

    Raises UserError where a file cannot be read or the page cannot be written.
    """
    datasets: dict[str, list[MethodResult]] = {}
    for result in results:
        datasets.setdefault(result.dataset, []).append(result)
    galleries = [gallery(methods) for methods in datasets.values()]
    head, tail = HERE.with_suffix(".html").read_text("utf-8").split("<!-- pictures -->")
    head = Template(head).substitute(
        title=escape(", ".join(datasets)),
        summary=summary(galleries, results),
        style=HERE.with_suffix(".css").read_text("utf-8"),
        false_positive=css(FALSE_POSITIVE),
        false_negative=css(FALSE_NEGATIVE),
        agreed=css(AGREED),
        tables=tables(datasets, columns) if tables_html is None else tables_html,
        data=script_json(page_data(datasets, galleries, columns)),
    )
    tail = Template(tail).substitute(script=HERE.with_suffix(".js").read_text("utf-8"))
    places = [f"{d}-{i}" for d, rows in enumerate(galleries) for i in range(len(rows))]
    pictures = thumbnails([row for rows in galleries for row in rows], mask_threshold)
    with write_atomic(path) as file:
        file.write(head.encode())
        for place, row in zip(places, pictures, strict=True):
            # A script each: the page reads only those it shows.
            file.write(f'<script type="application/json" id="pictures-{place}">{script_json(row)}</script>\n'.encode())
        file.write(tail.encode())


def gallery(methods: Sequence[MethodResult]) -> list[Row]:
    """A row for each image that any of the methods was scored on; predictions in the methods' order."""
    rows: dict[str, Row] = {}
    for m, method in enumerate(methods):
        for name, *files in zip(method.images, method.masks, method.photographs, method.predictions, strict=True):
            mask, photograph, prediction = files
            row = rows.setdefault(name, Row(name, mask, photograph, [None] * len(methods)))
            row.predictions[m] = prediction
    return list(rows.values())


def page_data(
    datasets: Mapping[str, Sequence[MethodResult]], galleries: Sequence[Sequence[Row]], columns: Sequence[str]
) -> dict:
    """All that the page's script draws, but for the pictures. Lists of values are in the gallery's order."""
    used = {key for methods in datasets.values() for method in methods for key in method.per_image}
    keys = [*(key for key in columns if key in used), *(key for key in METRICS if key in used - set(columns))]
    return {
        "metrics": {key: METRICS[key]._asdict() for key in keys},
        "datasets": [
            {
                "name": name,
                "images": [row.name for row in rows],
                "photographs": any(row.photograph for row in rows),
                "methods": [method_data(method, rows) for method in methods],
            }
            for (name, methods), rows in zip(datasets.items(), galleries, strict=True)
        ],
    }


def method_data(method: MethodResult, rows: Sequence[Row]) -> dict:
    places = {name: i for i, name in enumerate(method.images)}
    order = [places.get(row.name) for row in rows]
    return {
        "name": method.method,
        "values": {
            key: [None if i is None else format_report_number(values[i]) for i in order]
            for key, values in method.per_image.items()
        },
        "curves": {name: [format_report_number(value) for value in curve] for name, curve in method.curves.items()},
    }


def format_report_number(value: float) -> float | None:
    """Six digits, enough to look at; None for what JSON has no word for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def script_json(data: object) -> str:
    """JSON that no text in it can end the script element around."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def escape(text: str) -> str:
    return escape_html(printable(text))


def css(colour: tuple[int, int, int]) -> str:
    return f"rgb{colour}"


def summary(galleries: Sequence[Sequence[Row]], results: Sequence[MethodResult]) -> str:
    counts = {
        "data set": len(galleries),
        "method": len({result.method for result in results}),
        "image": sum(map(len, galleries)),
    }
    return ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())


def tables(datasets: Mapping[str, Sequence[MethodResult]], columns: Sequence[str]) -> str:
    """HTML: a table for each data set, then what the columns mean."""
    meanings = "".join(f"<dt>{escape(METRICS[key].title)}<dd>{escape(METRICS[key].legend)}" for key in columns)
    legend = f'<details class="legend"><summary>What the columns mean</summary><dl>{meanings}</dl></details>'
    return "\n".join([*(report_table(name, methods, columns) for name, methods in datasets.items()), legend])


def report_table(dataset: str, methods: Sequence[MethodResult], columns: Sequence[str]) -> str:
    heads, rows = [], [[f'<th scope="row">{escape(method.method)}'] for method in methods]
    for key in columns:
        metric = METRICS[key]
        better = "↑" if metric.higher else "↓"
        heads.append(f'<th scope="col" title="{escape(metric.legend)}">{escape(metric.title)} <span>{better}</span>')
        values = [method.table.get(key, np.nan) for method in methods]
        for row, value, mark in zip(rows, values, marks(values, metric.higher), strict=True):
            row.append(f'<td class="{mark}">{shown(value)}')
    body = "".join(f"<tr>{''.join(row)}" for row in rows)
    # The caption stays in place while a wide table is scrolled sideways.
    return (
        f'<h3>{escape(dataset)} <small>{len(methods[0].images)} images</small></h3><div class="scroll" tabindex="0">'
        f'<table><thead><tr><th scope="col">Method{"".join(heads)}<tbody>{body}</table></div>'
    )


def shown(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value < 100 else f"{value:.0f}"


def marks(values: Sequence[float], higher: bool) -> list[str]:
    """CSS classes: best, second, or none. Equal as printed is equal; one method alone is not marked."""
    printed = [float(shown(value)) if math.isfinite(value) else None for value in values]
    levels = sorted({value for value in printed if value is not None}, reverse=higher)
    names = dict(zip(levels, ("best", "second"), strict=False)) if len(values) > 1 else {}
    return [names.get(value, "") for value in printed]
