"""The page for models that take prompts: a visitor clicks on an object or draws a box, and sees the mask."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ..files import Example
from ..parts import (
    CHOOSE,
    DOWNLOAD,
    MODELLING,
    example_list,
    list_paths,
    open_page,
    read_field,
    read_index,
    run_work,
    saved_file_link,
    status_line,
    visit_state,
)
from ..words import DOWNLOADS, KEYS, PROMPT_TITLE, ZOOM, failure_html, notice_html, prompt_heading_html
from .bundle import write_label_map, write_masks
from .panel import object_list_html, picture_html, place_html
from .session import PromptBench, PromptSession

FOREGROUND, BACKGROUND = 1, 0
SCRIPT = "".join((Path(__file__).parent / name).read_text() for name in ("page.js", "keys.js"))


def build_prompt_page(bench: PromptBench, examples: Sequence[Example] = ()) -> gr.Blocks:
    with open_page(PROMPT_TITLE) as blocks:
        PromptPage(bench, examples)
    return blocks


class PromptPage:
    """The parts of the page, and the functions that its events call. The picture comes before the uploads."""

    def __init__(self, bench: PromptBench, examples: Sequence[Example]):
        self.bench, self.examples = bench, examples
        self.session = visit_state()
        gr.HTML(prompt_heading_html(bench), elem_id="heading")
        self.status = status_line(bench.limits)
        self.buttons: dict[str, gr.Button] = {}
        with gr.Row(elem_id="work"):
            with gr.Column(scale=3, min_width=320, visible=False, elem_id="results") as self.results:
                self.add_picture()
            with gr.Column(scale=1, min_width=280, elem_id="side"):
                with gr.Column(visible=False, elem_id="controls") as self.controls:
                    self.add_objects()
                self.add_uploads()
        self.connect()

    def add_button(self, name: str, text: str, **options: Any) -> None:
        quiet: dict[str, Any] = {"size": "sm", "min_width": 50, "interactive": False, "elem_id": name}
        self.buttons[name] = gr.Button(text, **(quiet | options))

    def add_picture(self) -> None:
        with gr.Row(elem_id="tools"):
            choices = [("+ foreground", FOREGROUND), ("− background", BACKGROUND)]
            options: dict[str, Any] = {"label": "A mark is", "show_label": False, "container": False, "min_width": 270}
            self.label = gr.Radio(choices, value=FOREGROUND, elem_id="label", **options)
            for name, text in (
                ("undo", "Undo"),
                ("new", "New object"),
                ("delete", "Delete object"),
                ("clear", "Delete all"),
            ):
                self.add_button(name, text)
        self.picture = gr.HTML("", js_on_load=SCRIPT, elem_id="stage")
        with gr.Row(elem_id="queue"):
            self.add_button("back", "◀ Back", scale=0, min_width=80)
            self.place = gr.HTML("", elem_id="place")
            self.add_button("next", "Next ▶", scale=0, min_width=80)
            gr.HTML(ZOOM, elem_id="zoom")

    def add_objects(self) -> None:
        self.object_list = gr.HTML("", js_on_load=CHOOSE, elem_id="objects")
        self.class_name = gr.Textbox(label="Class of the object", placeholder="for example polyp", elem_id="class")
        with gr.Row(elem_id="downloads"):
            self.add_button("labels", "Label map (PNG)", variant="primary")
            self.add_button("masks", "All masks (zip)", variant="primary")
        gr.HTML(DOWNLOADS)
        options: dict[str, Any] = {"size": "sm", "file_types": [".png"], "elem_id": "label-map"}
        self.label_map = gr.UploadButton("Continue a saved label map", **options)
        gr.HTML(KEYS, elem_id="keys")
        self.link = saved_file_link()

    def add_uploads(self) -> None:
        options: dict[str, Any] = {"file_count": "multiple", "height": 80, "elem_id": "images"}
        with gr.Column(elem_id="uploads"):
            self.images = gr.File(label="Images", file_types=list(EXTENSIONS), **options)
            folder: dict[str, Any] = {"size": "sm", "file_count": "directory", "elem_id": "folder"}
            self.folder = gr.UploadButton("Open a folder of images", **folder)
        self.example_buttons = example_list(self.examples, "an image") if self.examples else None

    def connect(self) -> None:
        """Connects the events with the functions. Only the status line shows progress.

        All events run in one queue and in their order: a click refers to the mask before it, and a saved file contains
        all earlier clicks.
        """
        outputs = [self.status, self.session, self.results, self.controls, self.picture, self.object_list, self.place]
        outputs += [self.label, self.class_name, *self.buttons.values()]
        modelling = MODELLING | {"show_progress_on": self.status}
        in_order = MODELLING | {"show_progress": "hidden", "trigger_mode": "multiple"}
        for upload in (self.images, self.folder):
            upload.upload(self.on_images, [upload, self.session], [self.images, *outputs], **modelling)
        self.label_map.upload(self.on_label_map, [self.label_map, self.session], outputs, **modelling)
        if self.example_buttons:
            self.example_buttons.select(self.on_example, self.session, outputs, **modelling)
        self.picture.select(self.on_prompt, [self.session, self.label], outputs, **in_order)
        self.object_list.select(self.on_choice, self.session, outputs, **in_order)
        named = [part for part in outputs if part is not self.class_name]  # the visitor can already write the next name
        events = [self.class_name.submit, self.class_name.blur]
        gr.on(events, self.on_class, [self.class_name, self.session], named, **in_order)
        for name, work in self.actions().items():
            options = modelling if name in ("back", "next") else in_order
            self.buttons[name].click(work, self.session, outputs, **options)
        for name, write in (("labels", write_label_map), ("masks", write_masks)):
            save = self.make_save_handler(write)
            saved = self.buttons[name].click(save, self.session, [self.link, self.status], **in_order)
            saved.success(None, js=DOWNLOAD, api_visibility="private")

    def actions(self) -> dict[str, Callable]:
        """The functions of the buttons that change the visit."""
        return {
            "undo": self.make_press_handler(PromptSession.undo, reset_label=False),
            "new": self.make_press_handler(lambda visit: visit.select(None)),
            "delete": self.make_press_handler(PromptSession.delete),
            "clear": self.make_press_handler(PromptSession.clear),
            "back": self.make_press_handler(lambda visit: failure_html(visit.move(-1))),
            "next": self.make_press_handler(lambda visit: failure_html(visit.move(1))),
        }

    def start(self, visit: PromptSession | None) -> PromptSession:
        return visit or PromptSession(self.bench)

    def view(self, visit: PromptSession) -> dict:
        """The changes of all parts that show the visit."""
        selected, has_objects = visit.selected, bool(visit.state.objects)
        active = {"undo": bool(visit.past), "new": selected is not None, "delete": selected is not None}
        active |= dict.fromkeys(("clear", "labels"), has_objects)
        active["masks"] = any(item.state.objects for item in visit.queue)
        active |= {"back": visit.position > 0, "next": visit.position < len(visit.queue) - 1}
        updates = {self.buttons[name]: gr.update(interactive=is_active) for name, is_active in active.items()}
        target = "new objects" if selected is None else f"object {selected.number}"
        class_name = visit.class_name if selected is None else selected.class_name
        has_image = gr.update(visible=visit.image is not None)
        return updates | {
            self.session: visit,
            self.results: has_image,
            self.controls: has_image,
            self.picture: picture_html(visit),
            self.object_list: object_list_html(visit),
            self.place: place_html(visit),
            self.class_name: gr.update(value=class_name, label=f"Class of {target}"),
        }

    def update(self, visit: PromptSession, work: Callable[[], str | None], reset_label: bool = False) -> dict:
        """Runs `work`, then shows the visit, or the error. `reset_label`: the next click marks foreground."""
        success, line = run_work(lambda: work() or "")
        changes = {self.status: line, self.session: visit}
        if not success:
            return changes
        return changes | self.view(visit) | ({self.label: FOREGROUND} if reset_label else {})

    def on_images(self, files: Any, visit: Any) -> dict:
        visit = self.start(visit)
        changes = self.update(visit, lambda: add_images(visit, list_paths(files)), reset_label=True)
        return {self.images: None} | changes

    def on_label_map(self, file: Any, visit: Any) -> dict:
        visit = self.start(visit)

        def work() -> str:
            count = visit.load_label_map(Path(file or ""))
            return notice_html(f"{count} object{'s' * (count > 1)} loaded. Choose one to correct it.")

        return self.update(visit, work)

    def on_example(self, visit: Any, event: gr.EventData) -> dict:
        visit, example = self.start(visit), self.examples[read_index(event) % len(self.examples)]
        return self.update(visit, lambda: add_images(visit, [example.image]), reset_label=True)

    def on_prompt(self, visit: Any, label: Any, event: gr.EventData) -> dict:
        visit = self.start(visit)
        if (box := read_field(event, "box")) is not None:
            return self.update(visit, lambda: visit.draw_box(*check_pixels_sent(box, 4)))
        label = BACKGROUND if read_field(event, "background") else label
        return self.update(visit, lambda: visit.click(*check_pixels_sent(read_field(event, "point"), 2), label))

    def on_choice(self, visit: Any, event: gr.EventData) -> dict:
        visit = self.start(visit)
        return self.update(visit, lambda: visit.select(read_field(event, "index")))

    def on_class(self, text: Any, visit: Any) -> dict:
        visit = self.start(visit)
        changes = self.update(visit, lambda: visit.name_class(text or ""))
        changes.pop(self.class_name, None)
        return changes

    def make_press_handler(self, work: Callable[[PromptSession], str | None], reset_label: bool = True) -> Callable:
        def on_press(visit: Any) -> dict:
            visit = self.start(visit)
            return self.update(visit, lambda: work(visit), reset_label)

        return on_press

    def make_save_handler(self, write: Callable[[PromptSession], Path]) -> Callable:
        def on_save(visit: Any) -> tuple:
            try:
                return str(write(self.start(visit))), ""
            except UserError as e:
                return gr.skip(), failure_html([str(e)])

        return on_save


def add_images(visit: PromptSession, files: Sequence[Path]) -> str:
    """Adds images to a visit. Returns what happened to the earlier image, and the problems with files."""
    if not files:
        raise UserError("there is no file; drop an image")
    before, count = visit.image, len(visit.state.objects)
    problems = visit.add_images(files)
    objects = "its object" if count == 1 else f"its {count} objects"
    line = notice_html(f"{before.name} is kept with {objects}. Press Back to return to it.") if before and count else ""
    return line + failure_html(problems)


def check_pixels_sent(numbers: object, count: int) -> list[int]:
    """Returns `numbers`, a list of `count` integers from `page.js`. Raises UserError for anything else."""
    if not (isinstance(numbers, list) and len(numbers) == count and all(type(number) is int for number in numbers)):
        raise UserError(f"a prompt must be a list of {count} integers, in pixels of the image")
    return numbers
