"""The page for models that are asked: a visitor clicks or draws a box, and sees the mask. Work is done beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ..files import Example
from ..parts import DOWNLOAD, DROP, MODELLING, Page, attempt, example_gallery, read_field, read_index
from ..words import failure_html, prompt_heading, put_aside
from .bundle import label_file, masks_file
from .panel import EMPTY, objects, stage
from .session import PromptBench, PromptSession

FOREGROUND, BACKGROUND = 1, 0
CHOOSE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-number]");
  if (button) trigger("select", { number: Number(button.dataset.number) });
});"""


def build_prompt_page(bench: PromptBench, examples: Sequence[Example] = ()) -> gr.Blocks:
    script = (Path(__file__).parent / "page.js").read_text()
    with Page(title="sam2unet demo", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        session = gr.State(None, delete_callback=lambda left: left and left.close())
        gr.HTML(prompt_heading(bench), js_on_load=DROP, elem_id="heading")
        status = gr.HTML("", elem_id="status")
        quiet = {"size": "sm", "min_width": 60, "interactive": False}
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                with gr.Row(elem_id="tools"):
                    label = gr.Radio(
                        [("+ foreground", FOREGROUND), ("− background", BACKGROUND)],
                        value=FOREGROUND,
                        label="A click is a point in the",
                        show_label=False,
                        container=False,
                        min_width=290,
                        elem_id="label",
                    )
                    undo = gr.Button("Undo", elem_id="undo", **quiet)
                    new = gr.Button("New object", elem_id="new", **quiet)
                    delete = gr.Button("Delete object", elem_id="delete", **quiet)
                    clear = gr.Button("Clear", elem_id="clear", **quiet)
                picture = gr.HTML(EMPTY, js_on_load=script, elem_id="stage")
            with gr.Column(scale=1, min_width=280, elem_id="side"):
                image = gr.File(label="Image", file_types=list(EXTENSIONS), height=110, elem_id="image")
                if examples:
                    shown = example_gallery(examples, columns=3)
                listed = gr.HTML("", js_on_load=CHOOSE, elem_id="objects")
                with gr.Row():
                    labels = gr.Button("Label map (PNG)", variant="primary", elem_id="labels", **quiet)
                    masks = gr.Button("All masks (zip)", variant="primary", elem_id="masks", **quiet)
                link = gr.DownloadButton("file", elem_id="zip-link")

        def start(visit: PromptSession | None) -> PromptSession:
            return visit or PromptSession(bench)

        def view(visit: PromptSession) -> dict:
            there, chosen = bool(visit.state.objects), visit.selected is not None
            return {
                session: visit,
                picture: stage(visit),
                listed: objects(visit),
                undo: gr.update(interactive=bool(visit.past)),
                new: gr.update(interactive=chosen),
                delete: gr.update(interactive=chosen),
                **{button: gr.update(interactive=there) for button in (clear, labels, masks)},
            }

        def after(visit: PromptSession, work: Callable[[], str | None], afresh: bool = False) -> dict:
            """What is seen when `work` was done, or why it was not; `afresh`: the next click is in the foreground."""
            fine, line = attempt(lambda: work() or "")
            found = {status: line, session: visit}
            if not fine:
                return found
            return found | view(visit) | ({label: FOREGROUND} if afresh else {})

        def on_image(file, visit):
            visit = start(visit)
            return {image: None} | after(visit, lambda: show(visit, file), afresh=True)

        def on_example(visit, event: gr.EventData):
            visit, chosen = start(visit), examples[read_index(event) % len(examples)]
            return after(visit, lambda: show(visit, chosen.image), afresh=True)

        def on_prompt(visit, kind, event: gr.EventData):
            visit = start(visit)
            if (box := read_field(event, "box")) is not None:
                return after(visit, lambda: visit.draw_box(*whole(box, 4)))
            kind = BACKGROUND if read_field(event, "background") else kind
            return after(visit, lambda: visit.click(*whole(read_field(event, "point"), 2), kind))

        def on_choice(visit, event: gr.EventData):
            visit = start(visit)
            return after(visit, lambda: visit.select(read_field(event, "number")))

        def pressed(work: Callable[[PromptSession], None], afresh: bool = False) -> Callable:
            def on_press(visit):
                visit = start(visit)
                return after(visit, lambda: work(visit), afresh)

            return on_press

        def saving(write: Callable[[PromptSession], Path]) -> Callable:
            def on_save(visit):
                try:
                    return str(write(start(visit))), ""
                except UserError as e:
                    return gr.skip(), failure_html([str(e)])

            return on_save

        seen = [status, session, picture, listed, label, undo, new, delete, clear, labels, masks]
        # One queue, and nothing left out: a click belongs to what was there, a file holds all clicks before it.
        in_order = MODELLING | {"show_progress": "hidden", "trigger_mode": "multiple"}
        image.upload(on_image, [image, session], [image, *seen], **MODELLING)
        if examples:
            shown.select(on_example, session, seen, **MODELLING)
        picture.select(on_prompt, [session, label], seen, **in_order)
        listed.select(on_choice, session, seen, **in_order)
        undo.click(pressed(PromptSession.undo), session, seen, **in_order)
        new.click(pressed(lambda visit: visit.select(None), afresh=True), session, seen, **in_order)
        delete.click(pressed(PromptSession.delete, afresh=True), session, seen, **in_order)
        clear.click(pressed(PromptSession.clear, afresh=True), session, seen, **in_order)
        for button, write in ((labels, label_file), (masks, masks_file)):
            made = button.click(saving(write), session, [link, status], **MODELLING)
            made.success(None, js=DOWNLOAD, api_visibility="private")
    return page


def show(visit: PromptSession, file: Path | str | None) -> str:
    """The image in place of the one before; returns the line that says what became of its objects."""
    if file is None:
        raise UserError("there is no file; drop an image")
    before, count = visit.image, len(visit.state.objects)
    visit.set_image(Path(file))
    return put_aside(before.name, count) if count else ""


def whole(numbers: object, count: int) -> list[int]:
    """As the page's script sends them; whoever sends something else is told so."""
    if not (isinstance(numbers, list) and len(numbers) == count and all(type(each) is int for each in numbers)):
        raise UserError(f"a prompt is {count} whole numbers, pixels of the image")
    return numbers
