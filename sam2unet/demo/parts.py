"""Parts that both pages use."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import numpy as np
from gradio.blocks import BlockFunction

from ..data.images.reading import read_image
from ..data.pairs import EXTENSIONS
from ..errors import UserError
from .access import report
from .files import Example, Limits
from .thumbnails import Thumbnail, thumbnails_html
from .words import failure_html

# Two queues, so that drawing does not wait for the model to finish the images of another visitor.
MODELLING: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
DRAWING: dict[str, Any] = {"concurrency_id": "drawing", "concurrency_limit": 4, "api_visibility": "private"}
DRAWING |= {"show_progress": "hidden"}
DROP, CHOOSE = ((Path(__file__).parent / name).read_text() for name in ("drop.js", "choose.js"))
DOWNLOAD = "() => document.querySelector('#zip-link, #zip-link a')?.closest('a, button').click()"


class Page(gr.Blocks):
    """Prints one line in the terminal for input that the page cannot have sent. gradio prints a traceback."""

    async def preprocess_data(self, block_fn: BlockFunction, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().preprocess_data(block_fn, *args, **kwargs)
        except Exception as e:
            refuse_request(f"{block_fn.name} got input that the page does not send: {type(e).__name__}: {e}")


@contextmanager
def open_page(title: str) -> Iterator[gr.Blocks]:
    """Yields the blocks of a new page. The title of its tab says what the page does."""
    with Page(title=f"{title} · sam2unet", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        yield blocks


def refuse_request(reason: str) -> NoReturn:
    """Prints `reason` in the terminal. The visitor sees only that the request was refused."""
    report(f"refused a request: {reason}")
    raise gr.Error("The server refused this request.", print_exception=False)


def read_field(event: gr.EventData, name: str) -> object:
    """Returns a field of an event, or None. The event is what a visitor sent, so the value can be anything."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def read_index(event: gr.EventData) -> int:
    """Returns the index of the picture that a visitor chose."""
    index = read_field(event, "index")
    if not (type(index) is int and index >= 0):
        refuse_request("it has no index of a picture")
    return index


def status_line(limits: Limits) -> gr.HTML:
    """The one place of the page for progress, messages and errors."""
    return gr.HTML("", js_on_load=DROP, elem_id="status", max_mb=limits.megabytes, endings=list(EXTENSIONS))


def visit_state() -> gr.State:
    """The state of a visit. Its files are removed when the visitor leaves."""
    return gr.State(None, delete_callback=lambda visit: visit and visit.close())


def example_list(examples: Sequence[Example], note: str) -> gr.HTML:
    """Buttons with pictures of the examples. `note` tells assistive technology what an example contains."""
    names = [f"Example {number} of {len(examples)}, {note}:" for number in range(1, len(examples) + 1)]
    photos = [np.asarray(read_image(example.image)) for example in examples]
    items = [Thumbnail(*item) for item in zip(photos, names, [example.caption for example in examples], strict=True)]
    return gr.HTML(f"<h2>Examples</h2>{thumbnails_html(items)}", js_on_load=CHOOSE, elem_id="examples")


def saved_file_link() -> gr.DownloadButton:
    """The link to the file that the server wrote. `DOWNLOAD` presses it; the visitor does not see it."""
    return gr.DownloadButton("saved file", elem_id="zip-link")


def list_paths(files: Sequence[str] | str | None) -> list[Path]:
    return [Path(file) for file in ([files] if isinstance(files, str) else files or [])]


def run_work(work: Callable[[], str]) -> tuple[bool, str]:
    """Returns whether `work` succeeded, and the HTML to show: its result, or the error."""
    try:
        return True, work()
    except UserError as e:
        return False, failure_html(str(e).splitlines())
