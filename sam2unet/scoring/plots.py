"""Precision-recall, F-threshold and E-threshold curves as pictures."""

from __future__ import annotations

import io
import math
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..atomic import make_folder, write_atomic
from ..errors import UserError, printable
from .aggregate import CURVES
from .csv_files import csv_text, format_number
from .results import MethodResult

# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow that paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.8,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's default
}


def write_plots(results: list[MethodResult], folder: Path) -> list[Path]:
    """For each data set `curves_NAME.png`, `.pdf` and `.csv`, with all its methods; the files written."""
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as e:
        raise UserError('plots need matplotlib, which is not installed: pip install -e ".[plots]"') from e
    datasets: dict[str, list[MethodResult]] = {}
    for r in results:
        if not {"precision", "recall", "F", "E"} <= set(r.curves):
            raise UserError(f"there are no curves of {r.dataset} {r.method} to plot; score its maps by --protocol all.")
        datasets.setdefault(r.dataset, []).append(r)
    contents: dict[Path, bytes] = {}
    for dataset, methods in datasets.items():
        name = re.sub(r"[^\w.-]", "_", dataset)
        if folder / f"curves_{name}.csv" in contents:
            raise UserError(f"two data sets would both have their curves in curves_{name}.csv; rename {dataset!r}.")
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            picture = io.BytesIO()
            with matplotlib.style.context(["default", STYLE]):
                figure = matplotlib.figure.Figure(figsize=(10.2, 3.3 + 0.16 * len(methods)), layout="constrained")
                draw_plot(figure, methods)
                figure.savefig(picture, format=kind, metadata=metadata)  # without date and version
            contents[folder / f"curves_{name}.{kind}"] = picture.getvalue()
        contents[folder / f"curves_{name}.csv"] = plot_numbers(methods).encode()
    make_folder(folder)
    with ExitStack() as stack:  # all of them or none
        for path, content in contents.items():
            stack.enter_context(write_atomic(path)).write(content)
    return list(contents)


def draw_plot(figure, methods: list[MethodResult]) -> None:
    """The three curves side by side, of methods on one data set."""
    by_recall, by_f, by_e = figure.subplots(1, 3)
    figure.suptitle(f"{escape_math(methods[0].dataset)} ({len(methods[0].images)} images)", fontsize=10)
    recalls, precisions = ([r.curves[name] for r in methods] for name in ("recall", "precision"))
    lines = [by_recall.plot(x, y, **style(i))[0] for i, (x, y) in enumerate(zip(recalls, precisions, strict=True))]
    best = [f_measure(p, r).max() for p, r in zip(precisions, recalls, strict=True)]
    frame(by_recall, precisions, "Precision-recall", "Recall", "Precision")
    by_recall.set_xlim(0, 1)
    explain(by_recall, lines, "max F of mean precision and recall", best, methods)
    for axes, name, title, label in (
        (by_f, "F", "F-measure (β² = 0.3)", "max F"),
        (by_e, "E", "E-measure", "max E"),
    ):
        curves = [r.curves[name][::-1] for r in methods]  # ascending cuts
        lines = [axes.plot(np.arange(256), curve, **style(i))[0] for i, curve in enumerate(curves)]
        for line, curve in zip(lines, curves, strict=True):
            axes.plot(curve.argmax(), curve.max(), "o", color=line.get_color(), markersize=3.5, clip_on=False)
        frame(axes, curves, title, "Threshold (grey value)", name)
        axes.set_xlim(0, 255)
        axes.set_xticks([0, 51, 102, 153, 204, 255])
        explain(axes, lines, label, [curve.max() for curve in curves], methods)


def style(i: int) -> dict:
    """A pair of colour and line for the i-th method; 28 different ones."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[(i % len(COLOURS) + i // len(COLOURS)) % len(LINES)]}


def frame(axes, curves: list[np.ndarray], title: str, across: str, up: str) -> None:
    """Titles, and as much of the vertical axis as the curves use but for the plunge at their ends."""
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    middle = np.concatenate([curve[13:243] for curve in curves])
    low, high = math.floor(20 * middle.min() - 1) / 20, math.ceil(20 * middle.max() + 0.2) / 20
    axes.set_ylim(max(0, low), min(1, high))


def explain(axes, lines: list, label: str, best: list[float], methods: list[MethodResult]) -> None:
    """A legend below: `0.873 NAME` per line, the number first, so that they align and no name begins with _."""
    names = [f"{value:.3f}  {escape_math(r.method)}".rstrip() for value, r in zip(best, methods, strict=True)]
    axes.legend(lines, names, title=label, loc="upper center", bbox_to_anchor=(0.5, -0.17), alignment="left")


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    weighted = 0.3 * precision + recall
    return np.divide(1.3 * precision * recall, weighted, out=np.zeros_like(weighted), where=weighted > 0)


def plot_numbers(methods: list[MethodResult]) -> str:
    """CSV: a row per method and ascending cut ">= threshold", with its curves at full precision."""
    names = [name for name in CURVES if any(name in r.curves for r in methods)]
    rows = [["method", "threshold", *names]]
    for r in methods:
        for cut in range(256):
            values = (r.curves[name][255 - cut] if name in r.curves else None for name in names)
            rows.append([r.method, cut, *map(format_number, values)])
    return csv_text(rows)


def escape_math(name: str) -> str:
    """Not to be read as a formula."""
    return printable(name).replace("$", r"\$")
