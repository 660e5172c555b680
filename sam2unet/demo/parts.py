"""Parts that both pages use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import gradio as gr

from ..errors import UserError
from .access import report
from .files import Example
from .words import failure_html

# Two queues, so that drawing does not wait for the model to finish the images of another visitor.
MODELLING = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
DRAWING = {"concurrency_id": "drawing", "concurrency_limit": 4, "api_visibility": "private"}
GALLERY = {"show_label": False, "height": "auto", "allow_preview": False, "interactive": False, "buttons": []}
DROP = (Path(__file__).parent / "drop.js").read_text()
DOWNLOAD = "() => document.querySelector('#zip-link, #zip-link a')?.closest('a, button').click()"


class Page(gr.Blocks):
    """Prints one line in the terminal for input that the page cannot have sent. gradio prints a traceback."""

    async def preprocess_data(self, block_fn, *args, **kwargs):
        try:
            return await super().preprocess_data(block_fn, *args, **kwargs)
        except Exception as e:
            refuse_request(f"{block_fn.name} got input that the page does not send: {type(e).__name__}: {e}")


def refuse_request(reason: str) -> NoReturn:
    """Prints `reason` in the terminal. The visitor sees only that the request was refused."""
    report(f"refused a request: {reason}")
    raise gr.Error("The server refused this request.", print_exception=False)


def read_field(event: gr.EventData, name: str) -> object:
    """Returns a field of an event, or None. The event is what a visitor sent, so the value can be anything."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def read_index(event: gr.EventData) -> int:
    """Returns the index of the picture that a visitor chose in a gallery."""
    index = read_field(event, "index")
    if not (type(index) is int and index >= 0):
        refuse_request("it has no index of a picture")
    return index


def example_gallery(examples: Sequence[Example], columns: int) -> gr.Gallery:
    pictures = [(str(example.image), example.caption) for example in examples]
    return gr.Gallery(pictures, label="Examples", columns=columns, object_fit="cover", elem_id="examples", **GALLERY)


def run_work(work: Callable[[], str]) -> tuple[bool, str]:
    """Returns whether `work` succeeded, and the HTML to show: its result, or the error."""
    try:
        return True, work()
    except UserError as e:
        return False, failure_html(str(e).splitlines())
