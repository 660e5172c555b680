"""The image with its objects and prompts, and the list of objects, as HTML. What is clicked is for `page.js`."""

from __future__ import annotations

import base64
import html

import cv2
import numpy as np

from ..draw import colour_of, outline, tint, to_jpeg
from .session import Object, PromptSession

EMPTY = '<div class="stage empty"><p>Drop an image, or take one of the examples.</p></div>'
EXPECTED = "the intersection over union with the true mask that the model itself expects; nothing is measured"


def stage(session: PromptSession) -> str:
    """Masks are in the picture; points, boxes and numbers stand on it, so that they are as large on every screen."""
    image = session.image
    if image is None:
        return EMPTY
    chosen = session.selected
    marks = [number_mark(each, each is chosen) for each in session.state.objects]
    if chosen is not None:
        marks.append(prompt_marks(chosen, image.width, image.height))
    source = base64.b64encode(to_jpeg(draw_stage(session))).decode()
    return (
        f'<div class="stage" data-width="{image.width}" data-height="{image.height}" '
        f'style="--ratio: {image.width / image.height:.4f}">'
        f'<img alt="{html.escape(image.name)}" draggable="false" src="data:image/jpeg;base64,{source}">'
        f"{''.join(marks)}</div>"
    )


def draw_stage(session: PromptSession) -> np.ndarray:
    """Every mask in its colour, with its outline; the selected one's stronger, and on top."""
    picture, chosen = session.image.view, session.selected
    for each in session.state.objects:
        picture = tint(picture, each.view, 0.45 if each is chosen else 0.25, colour_of(each.number))
    for each in sorted(session.state.objects, key=lambda each: each is chosen):
        if each is chosen:
            picture = outline(picture, each.view, (255, 255, 255), factor=3)
        picture = outline(picture, each.view, colour_of(each.number))
    return picture


def number_mark(each: Object, chosen: bool) -> str:
    """In the middle of the mask's thickest part."""
    if not each.view.any():
        return ""
    depth = cv2.distanceTransform(np.pad(each.view, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    height, width = each.view.shape
    style = f"left: {percent(x, width)}; top: {percent(y, height)}; background: rgb{colour_of(each.number)}"
    return f'<span class="number{" chosen" * chosen}" style="{style}">{each.number}</span>'


def prompt_marks(each: Object, width: int, height: int) -> str:
    marks = []
    if each.box is not None:
        x0, y0, x1, y1 = each.box
        style = f"left: {x0 / width:.3%}; top: {y0 / height:.3%}; "
        style += f"width: {(x1 + 1 - x0) / width:.3%}; height: {(y1 + 1 - y0) / height:.3%}"
        marks.append(f'<b class="box" data-box="{x0} {y0} {x1} {y1}" style="{style}"></b>')
    for x, y, label in each.clicks:
        style = f"left: {percent(x, width)}; top: {percent(y, height)}"
        kind, sign = ("foreground", "+") if label else ("background", "−")
        marks.append(f'<i class="point {kind}" data-point="{x} {y}" style="{style}">{sign}</i>')
    return "".join(marks)


def percent(pixel: int, count: int) -> str:
    """The middle of a pixel."""
    return f"{(pixel + 0.5) / count:.3%}"


def objects(session: PromptSession) -> str:
    """A button for each, and what the next click does."""
    if session.image is None:
        return ""
    chosen = session.selected
    buttons = "".join(object_button(each, each is chosen) for each in session.state.objects)
    what = f"object {session.next_number if chosen is None else chosen.number}"
    hint = f"The next click or box starts {what}." if chosen is None else f"The next click corrects {what}."
    took = f"The image was encoded in {session.image.milliseconds:.0f} ms"
    if chosen is not None:
        took += f", the answer took {chosen.milliseconds:.0f} ms"
    return f'<div class="objects">{buttons}<p>{hint}</p><p class="took">{took}.</p></div>'


def object_button(each: Object, chosen: bool) -> str:
    asked = ["a box"] if each.box else []
    if each.clicks:
        asked.append(f"{len(each.clicks)} point{'s' * (len(each.clicks) > 1)}")
    return (
        f'<button type="button" data-number="{each.number}" aria-pressed="{str(chosen).lower()}">'
        f'<i style="background: rgb{colour_of(each.number)}">{each.number}</i>'
        f'<b title="{EXPECTED}">expected IoU <em>{min(max(each.quality, 0), 1):.2f}</em></b>'
        f"<span>{' and '.join(asked)} · area {each.view.mean():.1%}</span></button>"
    )
