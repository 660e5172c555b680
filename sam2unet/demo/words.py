"""Texts of the pages, as HTML."""

import html
from collections.abc import Sequence

from .masks.session import Bench, Session
from .prompts.session import PromptBench

PRIVACY = "Your files stay on the computer that runs this page. They are deleted when the page stops."


def mask_title(bench: Bench) -> str:
    """What the page for maps does."""
    target = "classes" if bench.classes else "foreground"
    return f"Compare the {target} of two models" if len(bench.methods) > 1 else f"Find the {target} in images"


def mask_heading_html(bench: Bench) -> str:
    names = " and ".join(f"<code>{html.escape(method.name)}</code>" for method in bench.methods)
    limits, verb = bench.limits, "find" if len(bench.methods) > 1 else "finds"
    what, how = "foreground", "a map, and an overlay of the pixels above a threshold"
    if bench.classes:
        what, how = "classes", "a map, and the area of each class"
    masks = "" if bench.classes else "A mask must have the name of its image. "
    return heading_html(
        mask_title(bench),
        f"Drop images anywhere on this page. It shows the {what} that {names} {verb}: {how}.",
        f"{limits.images} images or frames of a clip, {limits.megapixels:g} megapixels per image, {limits.megabytes:g} "
        f"MB per file. {masks}",
    )


PROMPT_TITLE = "Outline objects with clicks and boxes"
DOWNLOADS = (
    '<p class="hint">Label map: one picture; the value of a pixel is the number of its object. All masks: '
    "a zip of all images with objects, each with its label map, a black and white picture for each object, and a table "
    "with classes and areas.</p>"
)
KEYS = (
    "<details><summary>Keys and zoom</summary><p>Press Tab until the picture has a frame. Then:</p><ul>"
    "<li>Arrows move a cross; with Shift by one pixel.</li><li>Enter marks foreground, Shift+Enter background.</li>"
    "<li>B sets a corner of a box; a second B draws it. Esc forgets the corner.</li>"
    "<li>N: new object. Delete: delete the object. Ctrl+Z: undo.</li>"
    "<li>+, − and 0 zoom. With a mouse: the wheel with Ctrl. The wheel alone and the middle button move the picture. "
    'With fingers: two fingers.</li></ul></details><p id="cross-place" class="hidden-text" role="status"></p>'
)
ZOOM = "".join(
    f'<button type="button" data-zoom="{key}" aria-label="{name}" title="{name}">{sign}</button>'
    for key, name, sign in (("-", "Zoom out", "−"), ("0", "Show the whole picture", "fit"), ("+", "Zoom in", "+"))
)


def prompt_heading_html(bench: PromptBench) -> str:
    limits, name = bench.limits, html.escape(bench.method.name)
    return heading_html(
        PROMPT_TITLE,
        f"Tap or click on an object, or draw a box around it. <code>{name}</code> predicts its mask. Then mark where "
        'the mask is wrong. <span class="mouse">The right mouse button marks background.</span>',
        f"{limits.images} images in one drop, {limits.megapixels:g} megapixels and {limits.megabytes:g} MB per image. ",
    )


def heading_html(title: str, text: str, limits: str) -> str:
    return f"<h1>{title}</h1><p>{text}</p><p class=limits>Limits: {limits}{PRIVACY}</p>"


def failure_html(lines: Sequence[str]) -> str:
    """The look of all errors. Empty without lines."""
    if not lines:
        return ""
    return f'<div class="bad" role="alert">{"<br>".join(html.escape(line) for line in lines)}</div>'


def notice_html(text: str) -> str:
    """A message that is not an error."""
    return f'<div class="good" role="status">{html.escape(text)}</div>'


def undo_label(count: int) -> str:
    """The text of the button that shows the `count` earlier images again."""
    return "Undo: show the earlier image again" if count == 1 else f"Undo: show the {count} earlier images again"


def summary_html(session: Session, problems: Sequence[str]) -> str:
    """The number of images and masks, then the problems with files that were left out."""
    count, scored = len(session.items), sum(item.has_mask for item in session.items)
    line = f"{count} image{'s' * (count != 1)}" + (f", {scored} with a mask" if scored else "")
    return notice_html(line) + failure_html(problems)
