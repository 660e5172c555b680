"""Texts of the pages, as HTML."""

import html
from collections.abc import Sequence

from .masks.session import Bench, Session
from .prompts.session import PromptBench

PRIVACY = "Your files stay on the computer that runs this page. They are deleted when the page stops."


def heading_html(bench: Bench) -> str:
    names = " and ".join(f"<code>{html.escape(method.name)}</code>" for method in bench.methods)
    limits = bench.limits
    what, how = "foreground", ": a map, and an overlay of the pixels above a threshold"
    if bench.classes:
        what, how = "classes", ", and the area of each class"
    masks = "" if bench.classes else "A mask must have the name of its image. "
    return (
        f"<h1>sam2unet</h1><p>Drop an image. The page shows the {what} that {names} "
        f"{'find' if len(bench.methods) > 1 else 'finds'}{how}.</p>"
        f"<p class=limits>Limits: {limits.images} images or frames of a clip, {limits.megapixels:g} megapixels per "
        f"image, {limits.megabytes:g} MB per file. {masks}{PRIVACY}</p>"
    )


def prompt_heading_html(bench: PromptBench) -> str:
    limits, name = bench.limits, html.escape(bench.method.name)
    return (
        f"<h1>sam2unet</h1><p>Click on an object, or drag a box around it. <code>{name}</code> predicts its mask. Then "
        "click where the mask is wrong. The left button marks foreground, the right button marks background.</p>"
        f"<p class=limits>Limits: {limits.megapixels:g} megapixels and {limits.megabytes:g} MB per image. {PRIVACY}</p>"
    )


def failure_html(lines: Sequence[str]) -> str:
    return f'<div class="bad" role="alert">{"<br>".join(html.escape(line) for line in lines)}</div>'


def undo_hint_html(name: str, count: int) -> str:
    objects = "1 object" if count == 1 else f"{count} objects"
    return f'<div class="good" role="status">Undo restores {html.escape(name)} with its {objects}.</div>'


def summary_html(session: Session, problems: Sequence[str]) -> str:
    """The number of images and masks, then the problems with files that were left out."""
    count, scored = len(session.items), sum(item.has_mask for item in session.items)
    line = f"{count} image{'s' * (count != 1)}" + (f", {scored} with a mask" if scored else "")
    return f'<div class="good" role="status">{line}</div>' + (failure_html(problems) if problems else "")
