"""The page for models that take prompts: a visitor clicks on an object or draws a box, and sees the mask."""

from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ..files import Example
from ..parts import DOWNLOAD, DROP, MODELLING, Page, example_gallery, read_field, read_index, run_work
from ..words import failure_html, prompt_heading_html, undo_hint_html
from .bundle import write_label_map, write_masks
from .panel import EMPTY, object_list_html, picture_html
from .session import PromptBench, PromptSession

FOREGROUND, BACKGROUND = 1, 0
CHOOSE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-number]");
  if (button) trigger("select", { number: Number(button.dataset.number) });
});"""


def build_prompt_page(bench: PromptBench, examples: Sequence[Example] = ()) -> gr.Blocks:
    script = (Path(__file__).parent / "page.js").read_text()
    with Page(title="sam2unet demo", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        session = gr.State(None, delete_callback=lambda visit: visit and visit.close())
        gr.HTML(prompt_heading_html(bench), js_on_load=DROP, elem_id="heading")
        status = gr.HTML("", elem_id="status")
        quiet = {"size": "sm", "min_width": 60, "interactive": False}
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                with gr.Row(elem_id="tools"):
                    choices = [("+ foreground", FOREGROUND), ("− background", BACKGROUND)]
                    options = {"label": "A click marks", "show_label": False, "container": False, "min_width": 290}
                    label = gr.Radio(choices, value=FOREGROUND, elem_id="label", **options)
                    undo = gr.Button("Undo", elem_id="undo", **quiet)
                    new = gr.Button("New object", elem_id="new", **quiet)
                    delete = gr.Button("Delete object", elem_id="delete", **quiet)
                    clear = gr.Button("Delete all", elem_id="clear", **quiet)
                picture = gr.HTML(EMPTY, js_on_load=script, elem_id="stage")
            with gr.Column(scale=1, min_width=280, elem_id="side"):
                image = gr.File(label="Image", file_types=list(EXTENSIONS), height=110, elem_id="image")
                if examples:
                    gallery = example_gallery(examples, columns=3)
                object_list = gr.HTML("", js_on_load=CHOOSE, elem_id="objects")
                with gr.Row():
                    labels = gr.Button("Label map (PNG)", variant="primary", elem_id="labels", **quiet)
                    masks = gr.Button("All masks (zip)", variant="primary", elem_id="masks", **quiet)
                link = gr.DownloadButton("file", elem_id="zip-link")

        def start(visit: PromptSession | None) -> PromptSession:
            return visit or PromptSession(bench)

        def view(visit: PromptSession) -> dict:
            has_objects, has_selection = bool(visit.state.objects), visit.selected is not None
            buttons = {undo: bool(visit.past), new: has_selection, delete: has_selection}
            buttons |= dict.fromkeys((clear, labels, masks), has_objects)
            updates = {button: gr.update(interactive=is_active) for button, is_active in buttons.items()}
            return {session: visit, picture: picture_html(visit), object_list: object_list_html(visit)} | updates

        def update(visit: PromptSession, work: Callable[[], str | None], reset_label: bool = False) -> dict:
            """Runs `work`, then shows the visit, or the error. `reset_label`: the next click marks foreground."""
            success, line = run_work(lambda: work() or "")
            changes = {status: line, session: visit}
            if not success:
                return changes
            return changes | view(visit) | ({label: FOREGROUND} if reset_label else {})

        def on_image(file, visit):
            visit = start(visit)
            return {image: None} | update(visit, lambda: set_image(visit, file), reset_label=True)

        def on_example(visit, event: gr.EventData):
            visit, example = start(visit), examples[read_index(event) % len(examples)]
            return update(visit, lambda: set_image(visit, example.image), reset_label=True)

        def on_prompt(visit, label, event: gr.EventData):
            visit = start(visit)
            if (box := read_field(event, "box")) is not None:
                return update(visit, lambda: visit.draw_box(*check_pixels_sent(box, 4)))
            label = BACKGROUND if read_field(event, "background") else label
            return update(visit, lambda: visit.click(*check_pixels_sent(read_field(event, "point"), 2), label))

        def on_choice(visit, event: gr.EventData):
            visit = start(visit)
            return update(visit, lambda: visit.select(read_field(event, "number")))

        def make_press_handler(work: Callable[[PromptSession], None], reset_label: bool = False) -> Callable:
            def on_press(visit):
                visit = start(visit)
                return update(visit, lambda: work(visit), reset_label)

            return on_press

        def make_save_handler(write: Callable[[PromptSession], Path]) -> Callable:
            def on_save(visit):
                try:
                    return str(write(start(visit))), ""
                except UserError as e:
                    return gr.skip(), failure_html([str(e)])

            return on_save

        outputs = [status, session, picture, object_list, label, undo, new, delete, clear, labels, masks]
        # All events run in one queue and in their order: a click refers to the mask before it, and a saved file
        # contains all earlier clicks.
        in_order = MODELLING | {"show_progress": "hidden", "trigger_mode": "multiple"}
        image.upload(on_image, [image, session], [image, *outputs], **MODELLING)
        if examples:
            gallery.select(on_example, session, outputs, **MODELLING)
        picture.select(on_prompt, [session, label], outputs, **in_order)
        object_list.select(on_choice, session, outputs, **in_order)
        for button, work, reset_label in (
            (undo, PromptSession.undo, False),
            (new, lambda visit: visit.select(None), True),
            (delete, PromptSession.delete, True),
            (clear, PromptSession.clear, True),
        ):
            button.click(make_press_handler(work, reset_label), session, outputs, **in_order)
        for button, write in ((labels, write_label_map), (masks, write_masks)):
            saved = button.click(make_save_handler(write), session, [link, status], **MODELLING)
            saved.success(None, js=DOWNLOAD, api_visibility="private")
    return page


def set_image(visit: PromptSession, file: Path | str | None) -> str:
    """Replaces the image of a visit. Returns a hint on how to restore its objects, if it had any."""
    if file is None:
        raise UserError("there is no file; drop an image")
    image, count = visit.image, len(visit.state.objects)
    visit.set_image(Path(file))
    return undo_hint_html(image.name, count) if count else ""


def check_pixels_sent(numbers: object, count: int) -> list[int]:
    """Returns `numbers`, a list of `count` integers from `page.js`. Raises UserError for anything else."""
    if not (isinstance(numbers, list) and len(numbers) == count and all(type(number) is int for number in numbers)):
        raise UserError(f"a prompt must be a list of {count} integers, in pixels of the image")
    return numbers
