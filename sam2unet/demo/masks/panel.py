"""The part of the page that shows one image: pictures side by side and the numbers, as HTML that needs no script."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

import numpy as np

from ...data.reading import FOREGROUND
from ...scoring.columns import METRICS, RELEASED
from ..draw import ONLY_FIRST, ONLY_SECOND, TRUTH, draw_differences, draw_overlay, to_jpeg
from .session import Session, SessionItem


def panel(session: Session, index: int, threshold: float, opacity: float) -> str:
    """Nothing where there is no such image."""
    if not 0 <= index < len(session.items):
        return ""
    item = session.items[index]
    table = panel_numbers(session, item) if item.has_mask else ""
    return f"{pictures(session, item, threshold, opacity)}{table}"


def pictures(session: Session, item: SessionItem, threshold: float, opacity: float) -> str:
    names = [method.name for method in session.bench.methods]
    photo = item.load("view_photo")
    maps = [item.load(f"view_map{number}") for number in range(len(names))]
    cuts = [found > threshold for found in maps]
    truth = item.load("view_mask") > FOREGROUND if item.has_mask else None
    if truth is not None and truth.shape != cuts[0].shape:  # a mask of another size than its image
        truth = resize_view(truth, cuts[0].shape)
    several = len(names) > 1
    figures = [figure("image", photo, "Image", item.name)]
    for number, name in enumerate(names):
        of = f" · {name}" if several else ""
        share = f"{cuts[number].mean():.1%} above {threshold:.2f}"
        note = f"{share} {panel_key(TRUTH, 'mask')}" if truth is not None else share
        drawn = draw_overlay(photo, cuts[number], opacity, truth)
        figures.append(figure(f"overlay-{number}", drawn, f"Overlay{of}", note))
        grey = np.rint(maps[number] * 255).astype(np.uint8)
        figures.append(figure(f"map-{number}", grey, f"Map{of}", "white is foreground"))
    if several:
        note = f"{panel_key(ONLY_FIRST, f'only {names[0]}')} {panel_key(ONLY_SECOND, f'only {names[1]}')}"
        figures.append(figure("differences", draw_differences(photo, *cuts), "Where they differ", note))
    return f'<div class="pictures {"two" if several else "one"}">{"".join(figures)}</div>'


def resize_view(truth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape, truth.shape, strict=True))
    return truth[rows[:, None], columns]


def figure(part: str, picture: np.ndarray, title: str, note: str) -> str:
    """`note` is HTML made here or a name that holds none."""
    source = base64.b64encode(to_jpeg(picture)).decode()
    return (
        f'<figure data-part="{part}"><img alt="{html.escape(title)}" src="data:image/jpeg;base64,{source}">'
        f"<figcaption><b>{html.escape(title)}</b> <span>{note}</span></figcaption></figure>"
    )


def panel_key(colour: tuple[int, int, int], text: str) -> str:
    return f'<em><i style="background: rgb{colour}"></i>{html.escape(text)}</em>'


def panel_numbers(session: Session, item: SessionItem) -> str:
    """Scores of this image and, where several have masks, their means; the best of two in bold."""
    names = [method.name for method in session.bench.methods]
    count, means = session.means()
    heads = "".join(
        f'<th title="{html.escape(METRICS[k].legend)}">{METRICS[k].title} {"↑" if METRICS[k].higher else "↓"}</th>'
        for k in RELEASED
    )
    groups = [panel_rows(item.name, names, item.scores)]
    if count > 1:
        groups.append(panel_rows(f"mean of {count} images", names, means))
    return (
        '<div class="numbers"><table><thead><tr><th></th><th></th>'
        f"{heads}</tr></thead><tbody>{''.join(groups)}</tbody></table></div>"
    )


def panel_rows(title: str, names: Sequence[str], scores: Sequence[dict[str, float]]) -> str:
    best = {k: best_of([found[k] for found in scores], METRICS[k].higher) for k in RELEASED}
    lines = []
    for number, (name, found) in enumerate(zip(names, scores, strict=True)):
        cells = "".join(
            f"<td{' class=best' if number in best[k] else ''} data-metric={k}>{found[k]:.3f}</td>" for k in RELEASED
        )
        head = html.escape(title) if number == 0 else ""
        lines.append(f"<tr><th>{head}</th><th>{html.escape(name)}</th>{cells}</tr>")
    return "".join(lines)


def best_of(values: Sequence[float], higher: bool) -> list[int]:
    """Places of the best as printed, if there is something to compare and not all are the same."""
    shown = [round(value if higher else -value, 3) for value in values]
    known = [value for value in shown if not math.isnan(value)]
    if len(set(known)) < 2:
        return []
    return [place for place, value in enumerate(shown) if value == max(known)]
