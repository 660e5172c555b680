"""The tables of the report as HTML: scores, what they mean in words, and the differences of methods."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape as escape_html

import numpy as np

from ...errors import printable
from ..aggregate import MethodResult
from ..columns import Metric
from ..compare import Difference
from ..tables.comparison_tables import explain_comparison, format_interval, format_p, format_signed
from ..tables.score_tables import mark_best
from .words import describe_scores, judge_difference

DIFFERENCE_TITLES = ("Difference", "Metric", "Images", "Mean", "95 % interval", "p (Holm)", "In words")
LONGEST_OPEN = 12  # a longer list of sentences is closed until the reader opens it


def escape(text: str) -> str:
    return escape_html(printable(text))


def report_tables(
    datasets: Mapping[str, Sequence[MethodResult]],
    columns: Sequence[str],
    metrics: Mapping[str, Metric],
    differences: Sequence[Difference],
) -> str:
    """Returns HTML: for each data set a table, sentences and the differences; then the meaning of the columns."""
    meanings = "".join(f"<dt>{escape(metrics[key].title)}<dd>{escape(metrics[key].legend)}" for key in columns)
    legend = f'<details class="legend"><summary>What the columns mean</summary><dl>{meanings}</dl></details>'
    parts = []
    for name, methods in datasets.items():
        parts += [report_table(name, methods, columns, metrics), report_words(methods, columns, metrics)]
        parts += report_differences([d for d in differences if d.dataset == name])
    return "\n".join([*parts, legend])


def report_words(methods: Sequence[MethodResult], columns: Sequence[str], metrics: Mapping[str, Metric]) -> str:
    names = [method.method for method in methods]
    sentences = [
        describe_scores(key, metrics[key], names, [method.table.get(key, np.nan) for method in methods])
        for key in columns
    ]
    items = "".join(f"<li>{escape(sentence)}" for sentence in sentences)
    state = " open" * (len(columns) <= LONGEST_OPEN)
    return f'<details class="legend words"{state}><summary>In words</summary><ul>{items}</ul></details>'


def report_differences(differences: Sequence[Difference]) -> Iterator[str]:
    """Yields HTML: the table of differences and its note. Yields nothing if there are none."""
    if not differences:
        return
    heads = "".join(f'<th scope="col">{title}' for title in DIFFERENCE_TITLES)
    rows = (
        f'<tr><th scope="row">{escape(f"{d.method} − {d.baseline}")}<td class="text">{escape(d.column.title)}'
        f"<td>{d.images}<td>{format_signed(d, d.mean)}<td>{format_interval(d)}<td>{format_p(d.p_holm)}"
        f'<td class="text">{judge_difference(d)}'
        for d in differences
    )
    yield '<div class="scroll" tabindex="0"><table class="differences"><thead><tr>'
    yield f"{heads}<tbody>{''.join(rows)}</table></div>"
    yield f'<p class="muted">{escape(explain_comparison(list(differences)).replace(chr(10), " "))}</p>'


def report_table(
    dataset: str, methods: Sequence[MethodResult], columns: Sequence[str], metrics: Mapping[str, Metric]
) -> str:
    heads, rows = [], [[f'<th scope="row">{escape(method.method)}'] for method in methods]
    for key in columns:
        metric = metrics[key]
        better = "↑" if metric.higher else "↓"
        heads.append(f'<th scope="col" title="{escape(metric.legend)}">{escape(metric.title)} <span>{better}</span>')
        cells = mark_best(methods, key, metric, ("<strong>", "</strong>"), ("<u>", "</u>"))
        for row, cell in zip(rows, cells, strict=True):
            row.append(f"<td>{cell}")
    body = "".join(f"<tr>{''.join(row)}" for row in rows)
    # The heading is outside the element that scrolls sideways.
    return (
        f'<h3>{escape(dataset)} <small>{len(methods[0].images)} images</small></h3><div class="scroll" tabindex="0">'
        f'<table><thead><tr><th scope="col">Method{"".join(heads)}<tbody>{body}</table></div>'
    )
