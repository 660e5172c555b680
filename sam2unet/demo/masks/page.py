"""The page for models that predict maps: a visitor drops images and sees their maps."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from ...classes import Classes
from ...data.pairs import EXTENSIONS
from ...errors import UserError, printable
from ...masks.inputs import VIDEOS
from ..draw import draw_thumbnail
from ..files import Example
from ..parts import DOWNLOAD, DRAWING, DROP, GALLERY, MODELLING, Page, example_gallery, read_index, run_work
from ..words import failure_html, heading_html, summary_html
from .bundle import bundle
from .panel import panel_html
from .session import Bench, Session

THRESHOLD, OPACITY = 0.5, 0.5


def build_mask_page(bench: Bench, examples: Sequence[Example] = ()) -> gr.Blocks:
    with Page(title="sam2unet demo", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        session = gr.State(None, delete_callback=lambda visit: visit and visit.close())
        index = gr.State(0)
        gr.HTML(heading_html(bench), js_on_load=DROP, elem_id="heading")
        with gr.Row(equal_height=True):
            several, image_types = {"file_count": "multiple", "height": 130}, [*EXTENSIONS, *VIDEOS]
            images = gr.File(
                label="Images, or a video clip", file_types=image_types, scale=3, elem_id="images", **several
            )
            several |= {"visible": not bench.classes}
            masks = gr.File(label="Masks (optional)", file_types=list(EXTENSIONS), scale=2, elem_id="masks", **several)
        if examples:
            gr.HTML("<p>Or choose an example. Each example has a mask:</p>", elem_id="or")
            example_pictures = example_gallery(examples, columns=len(examples))
        status = gr.HTML("", elem_id="status")
        with gr.Column(visible=False, elem_id="results") as results:
            with gr.Row(equal_height=True):
                threshold = class_switches(bench.classes) if bench.classes else threshold_slider()
                opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity", buttons=[], elem_id="opacity")
                with gr.Column(min_width=230, scale=0, elem_id="actions"):
                    download = gr.Button("Download PNGs (zip)", variant="primary", elem_id="download")
                    clear = gr.Button("Clear", size="sm", elem_id="clear")
            link = gr.DownloadButton("zip", elem_id="zip-link")
            pictures = gr.HTML("", elem_id="panel")
            gallery = gr.Gallery(label="All images", columns=8, object_fit="contain", elem_id="gallery", **GALLERY)

        def start(visit: Session | None) -> Session:
            return visit or Session(bench)

        def view(visit: Session, position: int, cut: float, strength: float) -> dict:
            views = [(item.load("view_photo"), item.load("view_map0")) for item in visit.items]
            drawings = [draw_thumbnail(*arrays, bench.classes) for arrays in views]
            names = [item.name + (" ✓" if item.has_mask else "") for item in visit.items]
            thumbs = list(zip(drawings, names, strict=True))
            shown = gr.update(value=thumbs, selected_index=position, visible=len(thumbs) > 1)
            changes = {session: visit, index: position, results: gr.update(visible=bool(visit.items)), gallery: shown}
            return changes | {pictures: panel_html(visit, position, cut, strength)}

        def on_images(files, visit, cut, strength, progress=gr.Progress()):  # noqa: B008
            visit = start(visit)

            def report(done: int, count: int) -> None:
                progress((done, count), unit="files")

            success, line = run_work(lambda: summary_html(visit, visit.add_images(list_paths(files), report)))
            return {images: None, status: line, session: visit} | (view(visit, 0, cut, strength) if success else {})

        def on_masks(files, visit, position, cut, strength):
            visit = start(visit)
            success, line = run_work(lambda: summary_html(visit, visit.add_masks(list_paths(files))))
            changes = view(visit, position, cut, strength) if success else {}
            return {masks: None, status: line, session: visit} | changes

        def on_example(visit, cut, strength, event: gr.EventData):
            visit, example = start(visit), examples[read_index(event) % len(examples)]

            def work() -> str:
                return summary_html(visit, visit.add_images([example.image]) + visit.add_masks([example.mask]))

            success, line = run_work(work)
            return {status: line, session: visit} | (view(visit, 0, cut, strength) if success else {})

        def on_choice(visit, cut, strength, event: gr.EventData):
            position = read_index(event)
            return position, panel_html(visit, position, cut, strength) if visit else ""

        def on_slider(visit, position, cut, strength):
            try:
                return panel_html(visit, position, cut, strength) if visit else ""
            except FileNotFoundError:  # another event replaced the images in the meantime
                return gr.skip()

        def on_download(visit, cut, strength):
            try:
                return str(bundle(start(visit), cut, strength)), gr.skip()
            except UserError as e:
                return gr.skip(), failure_html([str(e)])

        def on_clear(visit, cut, strength):
            visit = start(visit)
            visit.clear()
            return {status: ""} | view(visit, 0, cut, strength)

        sliders, outputs = [threshold, opacity], [session, index, results, pictures, gallery]
        newest_only = DRAWING | {"show_progress": "hidden", "trigger_mode": "always_last"}
        images.upload(on_images, [images, session, *sliders], [images, status, *outputs], **MODELLING)
        masks.upload(on_masks, [masks, session, index, *sliders], [masks, status, *outputs], **MODELLING)
        if examples:
            example_pictures.select(on_example, [session, *sliders], [status, *outputs], **MODELLING)
        gallery.select(on_choice, [session, *sliders], [index, pictures], **newest_only)
        for slider in sliders:
            slider.input(on_slider, [session, index, *sliders], pictures, **newest_only)
        saved = download.click(on_download, [session, *sliders], [link, status], **DRAWING)
        saved.success(None, js=DOWNLOAD, api_visibility="private")
        clear.click(on_clear, [session, *sliders], [status, *outputs], **DRAWING)
    return page


def threshold_slider() -> gr.Slider:
    return gr.Slider(0, 1, THRESHOLD, step=0.01, label="Threshold", buttons=[], elem_id="threshold")


def class_switches(classes: Classes) -> gr.CheckboxGroup:
    choices = [(printable(name), index) for index, name in enumerate(classes.names)]
    return gr.CheckboxGroup(choices, value=list(range(len(choices))), label="Classes", elem_id="classes")


def list_paths(files: Sequence[str] | None) -> list[Path]:
    return [Path(file) for file in files or []]
