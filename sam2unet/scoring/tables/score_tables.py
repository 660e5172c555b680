"""Formats tables of scores for the terminal, for Markdown and for LaTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape

from ...errors import printable
from ..aggregate import MethodResult
from ..columns import METRICS, Metric
from ..expected import Figures, find_figures

Column = tuple[str, list[str]]  # title, a cell per row


def format_table(
    results: Sequence[MethodResult],
    columns: Sequence[str],
    expected: Figures | None = None,
    metrics: Mapping[str, Metric] = METRICS,
) -> str:
    """Returns a table with aligned columns and a row for each result. `metrics` explains the columns.

    With `expected`, the published figure and its difference from the printed number are beside each number.
    """
    names = name_columns(results)
    numbers = [("images", [str(len(r.images)) for r in results])]
    for key in columns:
        metric = metrics[key]
        numbers.append((metric.title, [format_value(metric, r.table.get(key, math.nan)) for r in results]))
        figures = [find_figures(expected or {}, r.dataset).get(key) for r in results]
        if any(figure is not None for figure in figures):
            pairs = list(zip(figures, numbers[-1][1], strict=True))
            numbers.append(("paper", ["" if figure is None else format_value(metric, figure) for figure, _ in pairs]))
            numbers.append(("diff", [format_difference(metric, figure, measured) for figure, measured in pairs]))
    return align_columns(names, numbers)


def format_markdown(
    results: Sequence[MethodResult], columns: Sequence[str], metrics: Mapping[str, Metric] = METRICS
) -> str:
    """Returns a pipe table. If a data set has several methods, the best is bold and the second best is underlined."""
    names = [(title, [markdown_text(cell) for cell in cells]) for title, cells in name_columns(results)]
    numbers = [("images", [str(len(r.images)) for r in results])]
    for key in columns:
        title = f"{markdown_text(metrics[key].title)} {'↑' if metrics[key].higher else '↓'}"
        # GitHub removes <u>
        numbers.append((title, mark_best(results, key, metrics[key], ("**", "**"), ("<ins>", "</ins>"))))
    return markdown_table(names, numbers)


def format_latex(
    results: Sequence[MethodResult], columns: Sequence[str], metrics: Mapping[str, Metric] = METRICS
) -> str:
    """Returns a booktabs tabular with a block of rows for each data set. Marks are those of `format_markdown`."""
    names = [(title.capitalize(), [escape_latex(cell) for cell in cells]) for title, cells in name_columns(results)]
    numbers = []
    for key in columns:
        arrow = r"$\uparrow$" if metrics[key].higher else r"$\downarrow$"
        cells = mark_best(results, key, metrics[key], (r"\textbf{", "}"), (r"\underline{", "}"))
        numbers.append((f"{escape_latex(printable(metrics[key].title))} {arrow}", cells))
    breaks = [len(names) > 1 and i > 0 and r.dataset != results[i - 1].dataset for i, r in enumerate(results)]
    return latex_table(names, numbers, breaks)


def format_legend(columns: Sequence[str], metrics: Mapping[str, Metric] = METRICS) -> str:
    """Returns a line for each metric: its title, its meaning, and which direction is better."""
    shown = [metrics[key] for key in columns]
    width = max(6, *(len(metric.title) for metric in shown))
    return "\n".join(
        f"{metric.title:<{width}} {metric.legend}; {'higher' if metric.higher else 'lower'} is better"
        for metric in shown
    )


def name_columns(results: Sequence[MethodResult]) -> list[Column]:
    """Returns the column of data sets, and the column of methods if any result has a method."""
    names = [("dataset", [printable(r.dataset) for r in results])]
    if any(r.method for r in results):
        names.append(("method", [printable(r.method) for r in results]))
    return names


def format_value(metric: Metric, value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.{metric.digits}f}"


def format_difference(metric: Metric, figure: float | None, measured: str) -> str:
    """Returns the signed difference of the two printed numbers, so that the line adds up."""
    if figure is None or measured == "--":
        return ""
    delta = round(float(measured) - float(format_value(metric, figure)), metric.digits)
    return f"{delta:+.{metric.digits}f}" if delta else format_value(metric, 0.0)


def mark_best(
    results: Sequence[MethodResult], key: str, metric: Metric, best: tuple[str, str], second: tuple[str, str]
) -> list[str]:
    """Returns a cell for each result. `best` and `second` enclose the best and second best method of a data set.

    Equal printed numbers have the same mark. Nothing is marked if fewer than two methods have a number.
    """
    cells = [format_value(metric, r.table.get(key, math.nan)) for r in results]
    marks: dict[tuple[str, str], tuple[str, str]] = {}
    for dataset in {r.dataset for r in results}:
        printed = [cell for r, cell in zip(results, cells, strict=True) if r.dataset == dataset and cell != "--"]
        if len(printed) > 1:
            order = sorted(set(printed), key=float, reverse=metric.higher)
            marks |= {(dataset, cell): mark for cell, mark in zip(order, (best, second), strict=False)}
    pairs = [marks.get((r.dataset, cell), ("", "")) for r, cell in zip(results, cells, strict=True)]
    return [f"{before}{cell}{after}" for cell, (before, after) in zip(cells, pairs, strict=True)]


def align_columns(left: list[Column], right: list[Column]) -> str:
    """Returns lines with columns two spaces apart. `left` columns are aligned left, `right` columns right."""
    titles, rows = to_rows([*left, *right])
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = []
    for row in (titles, *rows):
        cells = [
            cell.ljust(width) if i < len(left) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(left: list[Column], right: list[Column]) -> str:
    """Returns a pipe table. `left` columns are aligned left, `right` columns right."""
    titles, rows = to_rows([*left, *right])
    rule = ["---"] * len(left) + ["---:"] * len(right)
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *rows))


def latex_table(left: list[Column], right: list[Column], breaks: Sequence[bool]) -> str:
    """Returns a booktabs tabular. `breaks` says which rows begin a block.

    Rows with the data set of the row above leave it out.
    """
    titles, rows = to_rows([*left, *right])
    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{'l' * len(left)}{'r' * len(right)}}}"]
    lines += [r"\toprule", " & ".join(titles) + r" \\", r"\midrule"]
    for i, (row, begins) in enumerate(zip(rows, breaks, strict=True)):
        lines += [r"\midrule"] * begins
        first = i == 0 or row[0] != rows[i - 1][0]
        lines.append(" & ".join(row if first else ["", *row[1:]]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_rows(table: list[Column]) -> tuple[list[str], list[list[str]]]:
    """Returns the titles, and a list of cells for each row."""
    return [title for title, _ in table], [list(row) for row in zip(*(cells for _, cells in table), strict=True)]


def markdown_text(name: str) -> str:
    """Escapes a name for a cell of a pipe table: it is not read as HTML, a link, an image or the end of the cell."""
    return re.sub(r"[\\`*\[\]|~]", r"\\\g<0>", escape(printable(name), quote=False))


def markdown_code(name: str) -> str:
    return f"`{printable(name).replace('`', chr(39))}`"


def escape_latex(name: str) -> str:
    """Escapes a name for LaTeX text. Without braces, `[` and `*` at the start of a row belong to the row above."""
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    words |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"}
    return re.sub(r"[\\~^&%$#_{}<>|[*]", lambda match: words.get(match[0], "\\" + match[0]), name)
