"""Draws precision-recall curves, and F and E over the threshold."""

import io
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...atomic import make_folder, write_atomic
from ...errors import UserError, printable
from ...runtime.versions import import_extra
from ..aggregate import CURVES, MethodResult
from ..pixels.histograms import f_measure
from .csv_files import csv_text, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind readers can tell apart, without yellow, which is pale on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every computer draws the same
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
    "pdf.fonttype": 42,  # TrueType, because publishers refuse the default of matplotlib
}
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # without date, equal curves give equal files
ENDINGS = (*METADATA, "csv")


def name_plots(datasets: Iterable[str]) -> dict[str, str]:
    """Returns the name of the files of each data set, without ending. Raises UserError if two have the same name."""
    names: dict[str, str] = {}
    for dataset in dict.fromkeys(datasets):
        name = "curves_" + re.sub(r"[^\w.-]", "_", dataset)
        if name in names.values():
            raise UserError(f"two data sets would write their curves to {name}.csv; rename {dataset!r}")
        names[dataset] = name
    return names


def write_plots(results: Sequence[MethodResult], folder: Path) -> list[Path]:
    """Writes `curves_NAME.png`, `.pdf` and `.csv` for each data set, with all its methods. Returns the paths."""
    import_extra("matplotlib", 'plots need matplotlib, which is not installed: pip install "sam2unet[plots]"')
    import matplotlib.figure
    import matplotlib.style

    datasets: dict[str, list[MethodResult]] = {}
    for r in results:
        if not {"precision", "recall", "F", "E"} <= set(r.curves):
            raise UserError(f"{r.dataset} {r.method} has no curves to plot; score its maps with --protocol all")
        datasets.setdefault(r.dataset, []).append(r)
    contents: dict[Path, bytes] = {}
    names = name_plots(datasets)
    for dataset, methods in datasets.items():
        for kind, metadata in METADATA.items():
            picture = io.BytesIO()
            with matplotlib.style.context(["default", STYLE]):
                figure = matplotlib.figure.Figure(figsize=(10.2, 3.3 + 0.16 * len(methods)), layout="constrained")
                draw_plot(figure, methods)
                figure.savefig(picture, format=kind, metadata=metadata)
            contents[folder / f"{names[dataset]}.{kind}"] = picture.getvalue()
        contents[folder / f"{names[dataset]}.csv"] = curves_csv(methods).encode()
    make_folder(folder)
    with ExitStack() as stack:  # writes all files or none
        for path, content in contents.items():
            stack.enter_context(write_atomic(path)).write(content)
    return list(contents)


def draw_plot(figure: "Figure", methods: Sequence[MethodResult]) -> None:
    """Draws three plots side by side with the curves of all methods on one data set."""
    by_recall, by_f, by_e = figure.subplots(1, 3)
    figure.suptitle(f"{escape_math(methods[0].dataset)} ({len(methods[0].images)} images)", fontsize=10)
    recalls, precisions = ([r.curves[name] for r in methods] for name in ("recall", "precision"))
    lines = [by_recall.plot(x, y, **line_style(i))[0] for i, (x, y) in enumerate(zip(recalls, precisions, strict=True))]
    best = [f_measure(p, r, 0.3).max() for p, r in zip(precisions, recalls, strict=True)]
    set_axes(by_recall, precisions, "Precision-recall", "Recall", "Precision")
    by_recall.set_xlim(0, 1)
    draw_legend(by_recall, lines, "max F of mean precision and recall", best, methods)
    for axes, name, title, label in ((by_f, "F", "F-measure (β² = 0.3)", "max F"), (by_e, "E", "E-measure", "max E")):
        curves = [r.curves[name][::-1] for r in methods]  # in the order of ascending thresholds
        lines = [axes.plot(np.arange(256), curve, **line_style(i))[0] for i, curve in enumerate(curves)]
        for line, curve in zip(lines, curves, strict=True):
            axes.plot(curve.argmax(), curve.max(), "o", color=line.get_color(), markersize=3.5, clip_on=False)
        set_axes(axes, curves, title, "Threshold (grey value)", name)
        axes.set_xlim(0, 255)
        axes.set_xticks([0, 51, 102, 153, 204, 255])
        draw_legend(axes, lines, label, [curve.max() for curve in curves], methods)


def line_style(i: int) -> dict:
    """Returns colour and line style of method number `i`. 28 methods have different ones."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[(i % len(COLOURS) + i // len(COLOURS)) % len(LINES)]}


def set_axes(axes: "Axes", curves: list[np.ndarray], title: str, x_label: str, y_label: str) -> None:
    """Sets the titles and the range of the vertical axis. The range ignores the steep ends of the curves."""
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    middle = np.concatenate([curve[13:243] for curve in curves])
    low, high = math.floor(20 * middle.min() - 1) / 20, math.ceil(20 * middle.max() + 0.2) / 20
    axes.set_ylim(max(0, low), min(1, high))


def draw_legend(axes: "Axes", lines: list, label: str, best: list[float], methods: Sequence[MethodResult]) -> None:
    """Draws a legend below the plot, `0.873 NAME` for each method: matplotlib hides entries that begin with `_`."""
    names = [f"{value:.3f}  {escape_math(r.method)}".rstrip() for value, r in zip(best, methods, strict=True)]
    axes.legend(lines, names, title=label, loc="upper center", bbox_to_anchor=(0.5, -0.17), alignment="left")


def curves_csv(methods: Sequence[MethodResult]) -> str:
    """Returns a CSV table with full precision: a row for each method and each threshold ("map >= threshold")."""
    names = [name for name in CURVES if any(name in r.curves for r in methods)]
    rows: list[list[object]] = [["method", "threshold", *names]]
    for r in methods:
        for threshold in range(256):
            values = (r.curves[name][255 - threshold] if name in r.curves else None for name in names)
            rows.append([r.method, threshold, *map(format_number, values)])
    return csv_text(rows)


def escape_math(name: str) -> str:
    """Escapes `$`, so that matplotlib does not read the name as a formula."""
    return printable(name).replace("$", r"\$")
