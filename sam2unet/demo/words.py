"""Lines of text on the page, as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from .masks.session import Bench, Session
from .prompts.session import PromptBench


def heading(bench: Bench) -> str:
    names = " and ".join(f"<code>{html.escape(method.name)}</code>" for method in bench.methods)
    limits = bench.limits
    return (
        f"<h1>sam2unet</h1><p>Drop an image to see what {names} {'take' if len(bench.methods) > 1 else 'takes'} for "
        "foreground: the map, and as an overlay the part of it above a threshold.</p>"
        f"<p class=limits>Up to {limits.images} images or frames of a clip, {limits.megapixels:g} megapixels and "
        f"{limits.megabytes:g} MB each. A mask has its image's name. Files stay on the computer that runs this "
        "page and are deleted when it stops.</p>"
    )


def prompt_heading(bench: PromptBench) -> str:
    limits = bench.limits
    return (
        f"<h1>sam2unet</h1><p>Show <code>{html.escape(bench.method.name)}</code> what you mean: click in it, or drag a "
        "box around it; then click where the mask is wrong (with the right button: in the background).</p>"
        f"<p class=limits>Images of up to {limits.megapixels:g} megapixels and {limits.megabytes:g} MB. Files stay on "
        "the computer that runs this page and are deleted when it stops.</p>"
    )


def failure_html(lines: Sequence[str]) -> str:
    return f'<div class="bad" role="alert">{"<br>".join(html.escape(line) for line in lines)}</div>'


def put_aside(name: str, count: int) -> str:
    objects = "1 object" if count == 1 else f"{count} objects"
    return f'<div class="good" role="status">Undo brings back {html.escape(name)} with its {objects}.</div>'


def summary_html(session: Session, problems: Sequence[str]) -> str:
    """What there is now; and what was left out, if anything."""
    count, scored = len(session.items), sum(item.has_mask for item in session.items)
    line = f"{count} image{'s' * (count != 1)}" + (f", {scored} with a mask" if scored else "")
    return f'<div class="good" role="status">{line}</div>' + (failure_html(problems) if problems else "")
