"""Tables of scores for the terminal, for Markdown and for LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape

from ..errors import printable
from .columns import METRICS
from .results import MethodResult

Column = tuple[str, list[str]]  # title, a cell per row


def text_table(
    results: list[MethodResult], columns: Sequence[str], expected: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Aligned lines, a row per result. With `expected` (data set -> metric -> published figure), beside each number the
    published one and the difference of the two as printed; blank where there is none.
    """
    names = name_columns(results)
    numbers = [("images", [str(len(r.images)) for r in results])]
    for key in columns:
        numbers.append((METRICS[key].title, [digits(key, r.table.get(key, math.nan)) for r in results]))
        figures = [(expected or {}).get(r.dataset, {}).get(key) for r in results]
        if any(figure is not None for figure in figures):
            pairs = list(zip(figures, numbers[-1][1], strict=True))
            numbers.append(("paper", ["" if figure is None else digits(key, figure) for figure, _ in pairs]))
            numbers.append(("diff", [difference(key, figure, measured) for figure, measured in pairs]))
    return aligned(names, numbers)


def markdown(results: list[MethodResult], columns: Sequence[str]) -> str:
    """A pipe table; of several methods on a data set the best is bold and the second best underlined."""
    names = [(title, [markdown_text(cell) for cell in cells]) for title, cells in name_columns(results)]
    table = [*names, ("images", [str(len(r.images)) for r in results])]
    for key in columns:
        title = f"{METRICS[key].title} {'↑' if METRICS[key].higher else '↓'}"
        table.append((title, marked(results, key, ("**", "**"), ("<ins>", "</ins>"))))  # GitHub strips <u>
    titles, rows = transposed(table)
    rule = ["---"] * len(names) + ["---:"] * (len(table) - len(names))
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *rows))


def latex(results: list[MethodResult], columns: Sequence[str]) -> str:
    """A booktabs tabular, a block of rows per data set; of several methods the best bold, the second underlined."""
    names = [(title.capitalize(), [escaped(cell) for cell in cells]) for title, cells in name_columns(results)]
    table = list(names)
    for key in columns:
        arrow = r"$\uparrow$" if METRICS[key].higher else r"$\downarrow$"
        table.append((f"{METRICS[key].title} {arrow}", marked(results, key, (r"\textbf{", "}"), (r"\underline{", "}"))))
    titles, rows = transposed(table)
    several = len(names) > 1
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(titles) + r" \\",
    ]
    for i, row in enumerate(rows):
        first = i == 0 or results[i].dataset != results[i - 1].dataset
        if i == 0 or (first and several):
            lines.append(r"\midrule")
        lines.append(" & ".join(row if first else ["", *row[1:]]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def legend(columns: Sequence[str]) -> str:
    """A line per metric: its title, what it is, and which direction is better."""
    width = max(6, *(len(METRICS[key].title) for key in columns))
    return "\n".join(
        f"{METRICS[key].title:<{width}} {METRICS[key].legend}; {'higher' if METRICS[key].higher else 'lower'} is better"
        for key in columns
    )


def name_columns(results: list[MethodResult]) -> list[Column]:
    """The data set's name, and the method's where any has one; `printable`."""
    names = [("dataset", [printable(r.dataset) for r in results])]
    if any(r.method for r in results):
        names.append(("method", [printable(r.method) for r in results]))
    return names


def decimals(key: str) -> int:
    return 0 if key == "dichotomous_HCE" else 3  # HCE counts clicks, up to thousands


def digits(key: str, value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.{decimals(key)}f}"


def difference(key: str, figure: float | None, measured: str) -> str:
    """Signed, of the two as printed, so that the line adds up."""
    if figure is None or measured == "--":
        return ""
    delta = round(float(measured) - float(digits(key, figure)), decimals(key))
    return f"{delta:+.{decimals(key)}f}" if delta else digits(key, 0.0)


def marked(results: list[MethodResult], key: str, best: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """A cell per result, with `best` and `second` around the best and second best among a data set's methods.

    Ranked as printed, so that equal prints share a mark; nothing is marked where fewer than two methods have a number.
    """
    cells = [digits(key, r.table.get(key, math.nan)) for r in results]
    marks = {}
    for dataset in {r.dataset for r in results}:
        printed = [cell for r, cell in zip(results, cells, strict=True) if r.dataset == dataset and cell != "--"]
        if len(printed) > 1:
            order = sorted(set(printed), key=float, reverse=METRICS[key].higher)
            marks |= {(dataset, cell): mark for cell, mark in zip(order, (best, second), strict=False)}
    around = [marks.get((r.dataset, cell), ("", "")) for r, cell in zip(results, cells, strict=True)]
    return [f"{before}{cell}{after}" for cell, (before, after) in zip(cells, around, strict=True)]


def aligned(left: list[Column], right: list[Column]) -> str:
    """Titles and rows in columns two spaces apart: `left` flush left, then `right` flush right."""
    titles, rows = transposed([*left, *right])
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = []
    for row in (titles, *rows):
        cells = [
            cell.ljust(width) if i < len(left) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def transposed(table: list[Column]) -> tuple[list[str], list[list[str]]]:
    """Titles, and a list of cells per row."""
    return [title for title, _ in table], [list(row) for row in zip(*(cells for _, cells in table), strict=True)]


def markdown_text(name: str) -> str:
    """For a cell of a pipe table: neither HTML, nor a link or an image, nor the end of the cell."""
    return re.sub(r"[\\`*\[\]|~]", r"\\\g<0>", escape(printable(name), quote=False))


def markdown_code(name: str) -> str:
    return f"`{printable(name).replace('`', chr(39))}`"


def escaped(name: str) -> str:
    """For LaTeX text."""
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: words.get(found[0], "\\" + found[0]), name)
