"""What the pages have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import gradio as gr

from ..errors import UserError
from .access import report
from .files import Example
from .words import failure_html

# Two queues: what is only drawn never waits for another visitor's images.
MODELLING = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
DRAWING = {"concurrency_id": "drawing", "concurrency_limit": 4, "api_visibility": "private"}
DROP = (Path(__file__).parent / "drop.js").read_text()
DOWNLOAD = "() => document.querySelector('#zip-link, #zip-link a')?.closest('a, button').click()"


class Page(gr.Blocks):
    """Input that the page cannot have sent is one line in the terminal instead of gradio's traceback."""

    async def preprocess_data(self, block_fn, *args, **kwargs):
        try:
            return await super().preprocess_data(block_fn, *args, **kwargs)
        except Exception as e:
            refuse_request(f"{block_fn.name} got no possible input: {type(e).__name__}: {e}")


def refuse_request(reason: str) -> NoReturn:
    report(f"refused a request: {reason}")
    raise gr.Error("The server refused this request.", print_exception=False)


def read_field(event: gr.EventData, name: str) -> object:
    """None if the event does not have the field; the event is what a visitor sent."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def read_index(event: gr.EventData) -> int:
    """Which picture of a gallery was chosen."""
    index = read_field(event, "index")
    if not (type(index) is int and index >= 0):
        refuse_request("it chooses no picture of a gallery")
    return index


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
        return False, failure_html(str(e).splitlines())
