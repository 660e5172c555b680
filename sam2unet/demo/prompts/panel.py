"""The HTML of the picture with its objects and prompts, and of the list of objects. `page.js` handles the clicks."""

import base64
import html

import cv2
import numpy as np

from ..draw import draw_outline, get_colour, tint, to_jpeg
from .session import PromptSession
from .state import Object

EMPTY = '<div class="stage empty"><p>Drop an image, or choose one of the examples.</p></div>'
EXPECTED = "The IoU (intersection over union) that the model expects of its mask. It is an estimate, not a measurement."


def picture_html(session: PromptSession) -> str:
    """The picture contains the masks. Points, boxes and numbers are HTML, so that their size fits the screen."""
    image = session.image
    if image is None:
        return EMPTY
    selected = session.selected
    marks = [number_html(item, item is selected) for item in session.state.objects]
    if selected is not None:
        marks.append(prompt_html(selected, image.width, image.height))
    source = base64.b64encode(to_jpeg(draw_objects(session))).decode()
    return (
        f'<div class="stage" data-width="{image.width}" data-height="{image.height}" '
        f'style="--ratio: {image.width / image.height:.4f}">'
        f'<img alt="{html.escape(image.name)}" draggable="false" src="data:image/jpeg;base64,{source}">'
        f"{''.join(marks)}</div>"
    )


def draw_objects(session: PromptSession) -> np.ndarray:
    """Draws each mask with its colour and its outline. The selected object is stronger, and its outline is on top."""
    picture, selected = session.image.view, session.selected
    for item in session.state.objects:
        picture = tint(picture, item.view, 0.45 if item is selected else 0.25, get_colour(item.number))
    for item in sorted(session.state.objects, key=lambda item: item is selected):
        if item is selected:
            picture = draw_outline(picture, item.view, (255, 255, 255), factor=3)
        picture = draw_outline(picture, item.view, get_colour(item.number))
    return picture


def number_html(item: Object, is_selected: bool) -> str:
    """The number of an object, in the middle of the thickest part of its mask."""
    if not item.view.any():
        return ""
    depth = cv2.distanceTransform(np.pad(item.view, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    height, width = item.view.shape
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


def object_list_html(session: PromptSession) -> str:
    """A button for each object, and what the next click does."""
    if session.image is None:
        return ""
    selected = session.selected
    buttons = "".join(object_button_html(item, item is selected) for item in session.state.objects)
    if selected is None:
        hint = f"The next click or box starts object {session.next_number}."
    else:
        hint = f"The next click corrects object {selected.number}."
    times = f"The model encoded the image in {session.image.milliseconds:.0f} ms."
    if selected is not None:
        times += f" The last answer took {selected.milliseconds:.0f} ms."
    return f'<div class="objects">{buttons}<p>{hint}</p><p class="took">{times}</p></div>'


def object_button_html(item: Object, is_selected: bool) -> str:
    prompts = ["a box"] if item.box else []
    if item.clicks:
        prompts.append(f"{len(item.clicks)} point{'s' * (len(item.clicks) > 1)}")
    return (
        f'<button type="button" data-number="{item.number}" aria-pressed="{str(is_selected).lower()}">'
        f'<i style="background: rgb{get_colour(item.number)}">{item.number}</i>'
        f'<b title="{EXPECTED}">expected IoU <em>{min(max(item.quality, 0), 1):.2f}</em></b>'
        f"<span>{' and '.join(prompts)} · area {item.view.mean():.1%}</span></button>"
    )
