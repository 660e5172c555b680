"""The page for models that predict maps: a visitor drops images and sees their maps."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ...classes import Classes
from ...data.pairs import EXTENSIONS
from ...errors import UserError, printable
from ...masks.files.find_inputs import VIDEOS
from ..files import Example
from ..parts import (
    CHOOSE,
    DOWNLOAD,
    DRAWING,
    MODELLING,
    example_list,
    list_paths,
    open_page,
    read_index,
    run_work,
    saved_file_link,
    status_line,
    visit_state,
)
from ..words import failure_html, mask_heading_html, mask_title, summary_html, undo_label
from .bundle import bundle
from .panel import gallery_html, panel_html, scores_html
from .session import Bench, Session

THRESHOLD, OPACITY = 0.5, 0.5
THRESHOLD_INFO = (
    "Map values above it are foreground, in the overlays, the thumbnails and the saved masks. Maps are stretched: the "
    "lowest value of an image becomes 0, the highest becomes 1, also without an object."
)


def build_mask_page(bench: Bench, examples: Sequence[Example] = ()) -> gr.Blocks:
    with open_page(mask_title(bench)) as blocks:
        MaskPage(bench, examples)
    return blocks


class MaskPage:
    """The parts of the page, and the functions that its events call. Results come before the uploads."""

    def __init__(self, bench: Bench, examples: Sequence[Example]):
        self.bench, self.examples = bench, examples
        self.session, self.index = visit_state(), gr.State(0)
        gr.HTML(mask_heading_html(bench), elem_id="heading")
        self.status = status_line(bench.limits)
        with gr.Row(elem_id="work"):
            with gr.Column(scale=3, min_width=320, visible=False, elem_id="results") as self.results:
                self.pictures = gr.HTML("", elem_id="panel")
                self.gallery = gr.HTML("", js_on_load=CHOOSE, elem_id="gallery")
            with gr.Column(scale=1, min_width=280, elem_id="side"):
                self.undo = gr.Button("Undo", size="sm", visible=False, elem_id="undo")
                with gr.Column(visible=False, elem_id="controls") as self.controls:
                    self.add_controls()
                self.add_uploads()
        self.connect()

    def add_controls(self) -> None:
        classes = self.bench.classes
        self.threshold = class_switches(classes) if classes else threshold_slider()
        self.opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity", buttons=[], elem_id="opacity")
        self.scores = gr.HTML("", elem_id="scores")
        with gr.Row(elem_id="actions"):
            save: dict[str, Any] = {"variant": "primary", "size": "sm", "min_width": 120}
            self.download = gr.Button("Download PNGs (zip)", elem_id="download", **save)
            self.clear = gr.Button("Clear", size="sm", min_width=60, scale=0, elem_id="clear")
        self.link = saved_file_link()

    def add_uploads(self) -> None:
        with gr.Row(elem_id="uploads"):
            several: dict[str, Any] = {"file_count": "multiple", "height": 90}
            image_types = [*EXTENSIONS, *VIDEOS]
            images: dict[str, Any] = {"file_types": image_types, "scale": 3, "min_width": 130, "elem_id": "images"}
            self.images = gr.File(label="Images, or a video clip", **images, **several)
            masks: dict[str, Any] = {"file_types": list(EXTENSIONS), "scale": 2, "min_width": 130, "elem_id": "masks"}
            self.masks = gr.File(label="Masks", visible=not self.bench.classes, **masks, **several)
        self.example_buttons = example_list(self.examples, "with a mask") if self.examples else None

    def connect(self) -> None:
        """Connects the events with the functions. Only the status line shows progress."""
        sliders = [self.threshold, self.opacity]
        outputs = [self.status, self.session, self.index, self.results, self.controls, self.pictures, self.scores]
        outputs += [self.gallery, self.undo]
        modelling = MODELLING | {"show_progress_on": self.status}
        newest_only = DRAWING | {"trigger_mode": "always_last"}
        self.images.upload(self.on_images, [self.images, self.session, *sliders], [self.images, *outputs], **modelling)
        masks = [self.masks, self.session, self.index, *sliders]
        self.masks.upload(self.on_masks, masks, [self.masks, *outputs], **modelling)
        if self.example_buttons:
            self.example_buttons.select(self.on_example, [self.session, *sliders], outputs, **modelling)
        self.gallery.select(self.on_choice, [self.session, *sliders], outputs, **newest_only)
        for slider in sliders:
            changed = [self.pictures, self.gallery]
            slider.input(self.on_slider, [self.session, self.index, *sliders], changed, **newest_only)
        saved = self.download.click(self.on_download, [self.session, *sliders], [self.link, self.status], **DRAWING)
        saved.success(None, js=DOWNLOAD, api_visibility="private")
        for button, work in ((self.clear, self.on_clear), (self.undo, self.on_undo)):
            button.click(work, [self.session, *sliders], outputs, **DRAWING)

    def start(self, visit: Session | None) -> Session:
        return visit or Session(self.bench)

    def view(self, visit: Session, position: int, *shown: Any) -> dict:
        """The changes of all parts that show the visit. `shown` is the threshold and the opacity."""
        has_items, previous = gr.update(visible=bool(visit.items)), len(visit.previous)
        return {
            self.session: visit,
            self.index: position,
            self.results: has_items,
            self.controls: has_items,
            self.pictures: panel_html(visit, position, *shown),
            self.scores: scores_html(visit, position),
            self.gallery: gallery_html(visit, position, *shown),
            self.undo: gr.update(value=undo_label(previous), visible=previous > 0),
        }

    def update(self, visit: Session, position: int, shown: Sequence, work: Callable[[], str]) -> dict:
        """Runs `work`, then shows the visit, or the error."""
        success, line = run_work(work)
        return {self.status: line, self.session: visit} | (self.view(visit, position, *shown) if success else {})

    def on_images(
        self,
        files: Any,
        visit: Any,
        cut: Any,
        strength: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> dict:
        visit = self.start(visit)

        def report(done: int, count: int) -> None:
            progress((done, count), unit="files")

        def work() -> str:
            return summary_html(visit, visit.add_images(list_paths(files), report))

        return {self.images: None} | self.update(visit, 0, (cut, strength), work)

    def on_masks(self, files: Any, visit: Any, position: int, *shown: Any) -> dict:
        visit = self.start(visit)
        changes = self.update(visit, position, shown, lambda: summary_html(visit, visit.add_masks(list_paths(files))))
        return {self.masks: None} | changes

    def on_example(self, visit: Any, cut: Any, strength: Any, event: gr.EventData) -> dict:
        visit, example = self.start(visit), self.examples[read_index(event) % len(self.examples)]

        def work() -> str:
            return summary_html(visit, visit.add_images([example.image]) + visit.add_masks([example.mask]))

        return self.update(visit, 0, (cut, strength), work)

    def on_choice(self, visit: Any, cut: Any, strength: Any, event: gr.EventData) -> dict:
        return self.view(self.start(visit), read_index(event), cut, strength)

    def on_slider(self, visit: Any, position: int, *shown: Any) -> tuple:
        try:
            return (panel_html(visit, position, *shown), gallery_html(visit, position, *shown)) if visit else ("", "")
        except FileNotFoundError:  # another event replaced the images in the meantime
            return gr.skip(), gr.skip()

    def on_download(self, visit: Any, *shown: Any) -> tuple:
        try:
            return str(bundle(self.start(visit), *shown)), gr.skip()
        except UserError as e:
            return gr.skip(), failure_html([str(e)])

    def on_clear(self, visit: Any, *shown: Any) -> dict:
        visit = self.start(visit)
        visit.clear()
        return {self.status: ""} | self.view(visit, 0, *shown)

    def on_undo(self, visit: Any, *shown: Any) -> dict:
        visit = self.start(visit)
        visit.undo()
        return {self.status: summary_html(visit, [])} | self.view(visit, 0, *shown)


def threshold_slider() -> gr.Slider:
    info: dict[str, Any] = {"label": "Threshold", "info": THRESHOLD_INFO, "buttons": [], "elem_id": "threshold"}
    return gr.Slider(0, 1, THRESHOLD, step=0.01, **info)


def class_switches(classes: Classes) -> gr.CheckboxGroup:
    choices = [(printable(name), index) for index, name in enumerate(classes.names)]
    return gr.CheckboxGroup(choices, value=list(range(len(choices))), label="Classes", elem_id="classes")
