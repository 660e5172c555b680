"""The HTML of the picture with its objects and prompts, and of the list of objects. `page.js` handles the clicks."""

import html

import cv2
import numpy as np

from ..draw import draw_outline, get_colour, tint
from ..thumbnails import encode_source
from .session import PromptSession
from .state import Object

WHITE = (255, 255, 255)


def picture_html(session: PromptSession) -> str:
    """The picture contains the masks. Points, boxes and numbers are HTML, so that their size fits the screen.

    Returns an empty text if there is no image.
    """
    image = session.image
    if image is None:
        return ""
    selected = session.selected
    marks = [number_html(item, item is selected) for item in session.state.objects]
    if selected is not None:
        marks.append(prompt_html(selected, image.width, image.height))
    return (
        f'<div class="stage" data-width="{image.width}" data-height="{image.height}" '
        f'style="--ratio: {image.width / image.height:.4f}">'
        f'<img alt="{html.escape(image.name)}" draggable="false" src="{encode_source(draw_objects(session))}">'
        f"{''.join(marks)}</div>"
    )


def draw_objects(session: PromptSession) -> np.ndarray:
    """Draws each mask with its colour and its outline. The selected one is stronger, on top, with a white line."""
    assert session.image is not None
    picture, selected = session.image.view, session.selected
    views = {item: item.view.decompress() for item in session.state.objects}
    for item, view in views.items():
        picture = tint(picture, view, 0.45 if item is selected else 0.25, get_colour(item.number))
    for item, view in sorted(views.items(), key=lambda pair: pair[0] is selected):
        picture = draw_outline(picture, view, WHITE if item is selected else get_colour(item.number))
    return picture


def number_html(item: Object, is_selected: bool) -> str:
    """The number of an object, in the middle of the thickest part of its mask."""
    view = item.view.decompress()
    if not view.any():  # the mask is too small for the size in which the page shows it
        return ""
    depth = cv2.distanceTransform(np.pad(view, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = map(int, np.unravel_index(depth.argmax(), depth.shape))
    height, width = view.shape
    style = f"left: {to_percent(x, width)}; top: {to_percent(y, height)}; background: rgb{get_colour(item.number)}"
    return f'<span class="number{" chosen" * is_selected}" style="{style}">{item.number}</span>'


def prompt_html(item: Object, width: int, height: int) -> str:
    """The box and the points of an object."""
    marks = []
    if item.box is not None:
        x0, y0, x1, y1 = item.box
        style = f"left: {x0 / width:.3%}; top: {y0 / height:.3%}; "
        style += f"width: {(x1 + 1 - x0) / width:.3%}; height: {(y1 + 1 - y0) / height:.3%}"
        marks.append(f'<b class="box" data-box="{x0} {y0} {x1} {y1}" style="{style}"></b>')
    for x, y, label in item.clicks:
        style = f"left: {to_percent(x, width)}; top: {to_percent(y, height)}"
        kind, sign = ("foreground", "+") if label else ("background", "−")
        marks.append(f'<i class="point {kind}" data-point="{x} {y}" style="{style}">{sign}</i>')
    return "".join(marks)


def to_percent(pixel: int, count: int) -> str:
    """The middle of a pixel of a side with `count` pixels, as a CSS length."""
    return f"{(pixel + 0.5) / count:.3%}"


def place_html(session: PromptSession) -> str:
    """The name of the image, its size, and its place in the queue. The time of the encoder is a tooltip."""
    image = session.image
    if image is None:
        return ""
    took = f"The model encoded the image in {image.milliseconds:.0f} ms."
    return (
        f'<p title="{took}"><b>{html.escape(image.name)}</b> <span>{session.position + 1} of {len(session.queue)} · '
        f"{image.width} x {image.height}</span></p>"
    )


def object_list_html(session: PromptSession) -> str:
    """A button for each object, and what the next click does."""
    if session.image is None:
        return ""
    selected = session.selected
    buttons = "".join(object_button_html(item, item is selected) for item in session.state.objects)
    if selected is None:
        hint = f"The next mark or box starts object {session.next_number}."
    else:
        hint = f"The next mark corrects object {selected.number}. “New object” starts another one."
    return f'<div class="objects">{buttons}<p class="hint" role="status">{hint}</p></div>'


def object_button_html(item: Object, is_selected: bool) -> str:
    """The number, the class, the prompts and the area. The expected IoU and the time are a tooltip."""
    prompts = ["a box"] if item.box else []
    if item.clicks:
        prompts.append(f"{len(item.clicks)} point{'s' * (len(item.clicks) > 1)}")
    tooltip = "The mask is from a label map."
    if not np.isnan(item.quality):
        tooltip = (
            f"Expected IoU {min(max(item.quality, 0), 1):.2f}: the intersection over union as the model expects it. "
        )
        tooltip += f"It is an estimate, not a measurement. The last answer took {item.milliseconds:.0f} ms."
    mask = item.mask.decompress()
    facts = " · ".join([f"area {mask.mean():.1%} ({mask.sum()} pixels)", *([" and ".join(prompts)] if prompts else [])])
    return (
        f'<button type="button" data-index="{item.number}" aria-pressed="{str(is_selected).lower()}" title="{tooltip}">'
        f'<i style="background: rgb{get_colour(item.number)}">{item.number}</i>'
        f"<b>{html.escape(item.class_name) or f'object {item.number}'}</b>"
        f"<span>{facts}</span></button>"
    )
