"""The HTML for one image of a visit: pictures side by side, and a table of scores; and the list of all images."""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ...classes import IGNORED
from ...data.images.class_pictures import paint_classes, tint_classes_
from ...data.images.masks import FOREGROUND
from ...scoring.columns import METRICS, RELEASED
from ..draw import (
    BOTH,
    NEITHER,
    ONLY_FIRST,
    ONLY_SECOND,
    PREDICTION,
    TRUTH,
    draw_differences,
    draw_overlay,
)
from ..thumbnails import Thumbnail, encode_source, thumbnails_html
from .session import Session, SessionItem


def panel_html(session: Session, index: int, shown: Any, opacity: float) -> str:
    """Returns an empty text if there is no image at `index`.

    `shown` is the threshold in [0, 1], or with classes the indices that are switched on. `opacity` is in [0, 1].
    """
    if not 0 <= index < len(session.items):
        return ""
    draw: Callable[..., str] = class_pictures_html if session.bench.classes else pictures_html
    return draw(session, session.items[index], shown, opacity)


def gallery_html(session: Session, index: int, shown: Any, opacity: float) -> str:
    """A button for each image, with the overlay of the first method. Returns an empty text for a single image."""
    if len(session.items) < 2:
        return ""
    thumbnails = []
    for number, item in enumerate(session.items, 1):
        photo, grey_map = item.load("thumb_photo"), item.load("thumb_map0")
        if classes := session.bench.classes:
            picture = tint_classes_(photo, hide_classes(grey_map, shown), classes, opacity)
        else:
            picture = draw_overlay(photo, grey_map > shown, opacity)
        note = ", with a mask" * item.has_mask
        thumbnails.append(Thumbnail(picture, f"Overlay {number} of {len(session.items)}{note}:", item.name))
    return thumbnails_html(thumbnails, index)


def pictures_html(session: Session, item: SessionItem, threshold: float, opacity: float) -> str:
    names = [method.name for method in session.bench.methods]
    photo = item.load("view_photo")
    maps = [item.load(f"view_map{number}") for number in range(len(names))]
    masks = [grey_map > threshold for grey_map in maps]
    truth = item.load("view_mask") > FOREGROUND if item.has_mask else None
    if truth is not None and truth.shape != masks[0].shape:  # the mask has another size than its image
        truth = resize_view(truth, masks[0].shape)
    several = len(names) > 1
    figures = [figure_html("image", photo, "Image", item.name)]
    for number, name in enumerate(names):
        suffix = f" · {name}" if several else ""
        note = legend_html(PREDICTION, f"{masks[number].mean():.1%} above {threshold:.2f}")
        if truth is not None:
            note += f" {legend_html(TRUTH, 'outline of the mask')}"
        picture = draw_overlay(photo, masks[number], opacity, truth)
        figures.append(figure_html(f"overlay-{number}", picture, f"Overlay{suffix}", note))
        grey = np.rint(maps[number] * 255).astype(np.uint8)
        figures.append(figure_html(f"map-{number}", grey, f"Map{suffix}", "white is foreground"))
    if several:
        colours = (ONLY_FIRST, ONLY_SECOND, BOTH, NEITHER)
        meanings = (f"only {names[0]}", f"only {names[1]}", "both", "neither")
        note = " ".join(legend_html(*item) for item in zip(colours, meanings, strict=True))
        figures.append(figure_html("differences", draw_differences(photo, *masks), "Where they differ", note))
    return join_figures(figures, len(names))


def class_pictures_html(session: Session, item: SessionItem, shown: Sequence[int], opacity: float) -> str:
    """Shows the classes in `shown` in their colours, and below each overlay the names and the areas of all classes."""
    classes, photo = session.bench.classes, item.load("view_photo")
    assert classes is not None
    maps = [item.load(f"view_map{number}") for number in range(len(session.bench.methods))]
    figures = [figure_html("image", photo, "Image", item.name)]
    for number, (method, map_) in enumerate(zip(session.bench.methods, maps, strict=True)):
        suffix = f" · {method.name}" if len(maps) > 1 else ""
        visible = hide_classes(map_, shown)
        areas = zip(classes.items, item.areas[number], strict=True)
        note = " ".join(legend_html(label.color, f"{label.name} {area:.1%}") for label, area in areas)
        picture = tint_classes_(photo.copy(), visible, classes, opacity)
        figures.append(figure_html(f"overlay-{number}", picture, f"Overlay{suffix}", note))
        figures.append(figure_html(f"map-{number}", paint_classes(visible, classes), f"Map{suffix}", ""))
    if len(maps) > 1:
        differ = maps[0] != maps[1]
        note = f"{legend_html(ONLY_FIRST, f'another class: {differ.mean():.1%}')} {legend_html(NEITHER, 'same class')}"
        picture = draw_differences(photo, differ, np.zeros_like(differ))
        figures.append(figure_html("differences", picture, "Where they differ", note))
    return join_figures(figures, len(maps))


def join_figures(figures: Sequence[str], methods: int) -> str:
    return f'<div class="pictures {"two" if methods > 1 else "one"}">{"".join(figures)}</div>'


def hide_classes(indices: np.ndarray, shown: Sequence[int]) -> np.ndarray:
    """Returns a map in which the classes that are not in `shown` are ignored pixels, which are black."""
    return np.where(np.isin(indices, shown), indices, np.uint8(IGNORED))


def resize_view(truth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes a mask (H, W) to `shape` by nearest pixels."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape, truth.shape, strict=True))
    return truth[rows[:, None], columns]


def figure_html(part: str, picture: np.ndarray, title: str, note: str) -> str:
    """`note` is HTML of this module, or a name that is safe in HTML."""
    return (
        f'<figure data-part="{part}"><img alt="{html.escape(title)}" src="{encode_source(picture)}">'
        f"<figcaption><b>{html.escape(title)}</b> <span>{note}</span></figcaption></figure>"
    )


def legend_html(colour: tuple[int, int, int], text: str) -> str:
    return f'<em><i style="background: rgb{colour}"></i>{html.escape(text)}</em>'


def scores_html(session: Session, index: int) -> str:
    """A table with a row for each metric, so that it fits a phone. Empty if the image has no mask.

    The columns are the methods for this image, then for the mean of all images with masks. The best of two methods is
    bold.
    """
    if not (0 <= index < len(session.items) and session.items[index].has_mask):
        return ""
    item, methods = session.items[index], session.bench.methods
    count, means = session.means()
    groups = {item.name: item.scores} | ({f"mean of {count} images": means} if count > 1 else {})
    heads = "".join(f'<th scope="colgroup" colspan="{len(methods)}">{html.escape(name)}</th>' for name in groups)
    names = "".join(f'<th scope="col">{html.escape(method.name)}</th>' for method in methods) * len(groups)
    rows = "".join(metric_row_html(key, groups.values()) for key in RELEASED)
    return (
        f'<div class="numbers"><table><caption>Scores</caption><thead><tr><td></td>{heads}</tr>'
        f"<tr><td></td>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def metric_row_html(key: str, groups: Iterable[Sequence[dict[str, float]]]) -> str:
    """The row of a metric. A group contains the scores of each method."""
    metric, cells = METRICS[key], []
    for group in groups:
        best = find_best([scores[key] for scores in group], metric.higher)
        for number, scores in enumerate(group):
            cells.append(f"<td{' class=best' if number in best else ''} data-metric={key}>{scores[key]:.3f}</td>")
    head = f"{metric.title} {'↑' if metric.higher else '↓'}"
    return f'<tr><th scope="row" title="{html.escape(metric.legend)}">{head}</th>{"".join(cells)}</tr>'


def find_best(values: Sequence[float], higher: bool) -> list[int]:
    """Returns the indices of the best values, rounded to 3 decimals. Returns none if there is no difference."""
    rounded = [round(value if higher else -value, 3) for value in values]
    known = [value for value in rounded if not math.isnan(value)]
    if len(set(known)) < 2:
        return []
    return [index for index, value in enumerate(rounded) if value == max(known)]
