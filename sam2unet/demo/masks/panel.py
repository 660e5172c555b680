"""The HTML for one image of a visit: pictures side by side, and a table of scores."""

import base64
import html
import math
from collections.abc import Sequence

import numpy as np

from ...classes import IGNORED
from ...data.class_pictures import paint_classes, tint_classes_
from ...data.reading import FOREGROUND
from ...scoring.columns import METRICS, RELEASED
from ..draw import ONLY_FIRST, ONLY_SECOND, TRUTH, draw_differences, draw_overlay, to_jpeg
from .session import Session, SessionItem


def panel_html(session: Session, index: int, shown: float | Sequence[int], opacity: float) -> str:
    """Returns an empty text if there is no image at `index`.

    `shown` is the threshold in [0, 1], or with classes the indices that are switched on. `opacity` is in [0, 1].
    """
    if not 0 <= index < len(session.items):
        return ""
    item = session.items[index]
    if session.bench.classes:
        return class_pictures_html(session, item, shown, opacity)
    table = scores_html(session, item) if item.has_mask else ""
    return f"{pictures_html(session, item, shown, opacity)}{table}"


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
        share = f"{masks[number].mean():.1%} above {threshold:.2f}"
        note = f"{share} {legend_html(TRUTH, 'mask')}" if truth is not None else share
        picture = draw_overlay(photo, masks[number], opacity, truth)
        figures.append(figure_html(f"overlay-{number}", picture, f"Overlay{suffix}", note))
        grey = np.rint(maps[number] * 255).astype(np.uint8)
        figures.append(figure_html(f"map-{number}", grey, f"Map{suffix}", "white is foreground"))
    if several:
        note = f"{legend_html(ONLY_FIRST, f'only {names[0]}')} {legend_html(ONLY_SECOND, f'only {names[1]}')}"
        figures.append(figure_html("differences", draw_differences(photo, *masks), "Differences", note))
    return f'<div class="pictures {"two" if several else "one"}">{"".join(figures)}</div>'


def class_pictures_html(session: Session, item: SessionItem, shown: Sequence[int], opacity: float) -> str:
    """Shows the classes in `shown` in their colours, and below each overlay the names and the areas of all classes."""
    classes, photo = session.bench.classes, item.load("view_photo")
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
        note = legend_html(ONLY_FIRST, f"another class: {differ.mean():.1%}")
        picture = draw_differences(photo, differ, np.zeros_like(differ))
        figures.append(figure_html("differences", picture, "Differences", note))
    return f'<div class="pictures {"two" if len(maps) > 1 else "one"}">{"".join(figures)}</div>'


def hide_classes(indices: np.ndarray, shown: Sequence[int]) -> np.ndarray:
    """Returns a map in which the classes that are not in `shown` are ignored pixels, which are black."""
    return np.where(np.isin(indices, shown), indices, np.uint8(IGNORED))


def resize_view(truth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes a mask (H, W) to `shape` by nearest pixels."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape, truth.shape, strict=True))
    return truth[rows[:, None], columns]


def figure_html(part: str, picture: np.ndarray, title: str, note: str) -> str:
    """`note` is HTML of this module, or a name that is safe in HTML."""
    source = base64.b64encode(to_jpeg(picture)).decode()
    return (
        f'<figure data-part="{part}"><img alt="{html.escape(title)}" src="data:image/jpeg;base64,{source}">'
        f"<figcaption><b>{html.escape(title)}</b> <span>{note}</span></figcaption></figure>"
    )


def legend_html(colour: tuple[int, int, int], text: str) -> str:
    return f'<em><i style="background: rgb{colour}"></i>{html.escape(text)}</em>'


def scores_html(session: Session, item: SessionItem) -> str:
    """The scores of this image, then the means if several images have masks. The best of two methods is bold."""
    names = [method.name for method in session.bench.methods]
    count, means = session.means()
    metrics = [METRICS[key] for key in RELEASED]
    heads = "".join(f'<th title="{html.escape(m.legend)}">{m.title} {"↑" if m.higher else "↓"}</th>' for m in metrics)
    groups = [rows_html(item.name, names, item.scores)]
    if count > 1:
        groups.append(rows_html(f"mean of {count} images", names, means))
    table = f"<thead><tr><th></th><th></th>{heads}</tr></thead><tbody>{''.join(groups)}</tbody>"
    return f'<div class="numbers"><table>{table}</table></div>'


def rows_html(title: str, names: Sequence[str], scores: Sequence[dict[str, float]]) -> str:
    best = {k: find_best([row[k] for row in scores], METRICS[k].higher) for k in RELEASED}
    lines = []
    for number, (name, row) in enumerate(zip(names, scores, strict=True)):
        cells = "".join(
            f"<td{' class=best' if number in best[k] else ''} data-metric={k}>{row[k]:.3f}</td>" for k in RELEASED
        )
        head = html.escape(title) if number == 0 else ""
        lines.append(f"<tr><th>{head}</th><th>{html.escape(name)}</th>{cells}</tr>")
    return "".join(lines)


def find_best(values: Sequence[float], higher: bool) -> list[int]:
    """Returns the indices of the best values, rounded to 3 decimals. Returns none if there is no difference."""
    rounded = [round(value if higher else -value, 3) for value in values]
    known = [value for value in rounded if not math.isnan(value)]
    if len(set(known)) < 2:
        return []
    return [index for index, value in enumerate(rounded) if value == max(known)]
