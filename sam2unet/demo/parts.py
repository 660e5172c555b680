"""What the pages have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio as gr

from ..errors import UserError
from .files import Example
from .words import failed

# Two queues: what is only drawn never waits for another visitor's images.
MODELLING = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
DRAWING = {"concurrency_id": "drawing", "concurrency_limit": 4, "api_visibility": "private"}
DOWNLOAD = "() => document.querySelector('#zip-link, #zip-link a')?.closest('a, button').click()"


def example_gallery(examples: Sequence[Example], columns: int) -> gr.Gallery:
    return gr.Gallery(
        [(str(each.image), each.caption) for each in examples],
        label="Or try one of these",
        show_label=False,
        columns=columns,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="examples",
    )


def attempt(work: Callable[[], str]) -> tuple[bool, str]:
    """Whether `work` went well, and the line to show."""
    try:
        return True, work()
    except UserError as e:
        return False, failed(str(e).splitlines())
