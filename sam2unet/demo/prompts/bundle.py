"""The files that a visitor can save: the label map of the image, or a zip with all masks of all images."""

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.images.pictures import encode_png
from ...errors import UserError
from ..files import make_saved_path
from .label_map import encode_label_map
from .session import PromptSession
from .state import Object

NOTHING_SAVED = "there is nothing to save yet; click on an object, or draw a box around it"


def write_label_map(session: PromptSession) -> Path:
    """Writes the label map of the image that the page shows."""
    if session.image is None or not session.state.objects:
        raise UserError(NOTHING_SAVED)
    path = make_saved_path(session.folder, f"{session.image.name}_labels.png")
    path.write_bytes(encode_label_map(session.state.objects))
    return path


def write_masks(session: PromptSession) -> Path:
    """Writes a zip with the masks of all images that have objects. If the queue has several images, each has a folder.

    `labels.png` is the label map, `object_<number>.png` is the full mask of an object, 0 and 255, and `objects.csv` is
    a table of the objects.
    """
    images = [image for image in session.queue if image.state.objects]
    if not images:
        raise UserError(NOTHING_SAVED)
    several = len(session.queue) > 1
    path = make_saved_path(session.folder, f"{'all' if several else images[0].name}_masks.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
        for image in images:
            folder = f"{image.name}/" if several else ""
            archive.writestr(f"{folder}labels.png", encode_label_map(image.state.objects))
            for item in image.state.objects:
                pixels = np.where(item.mask.decompress(), 255, 0).astype(np.uint8)
                archive.writestr(f"{folder}object_{item.number}.png", encode_png(pixels))
            archive.writestr(f"{folder}objects.csv", write_object_table(image.state.objects))
    return path


def write_object_table(objects: Sequence[Object]) -> str:
    """A line for each object. The area is in pixels. The expected IoU is empty if the mask is from a file."""
    lines = io.StringIO()
    table = csv.writer(lines)
    table.writerow(["number", "class", "area", "expected_iou"])
    for item in objects:
        quality = "" if np.isnan(item.quality) else f"{item.quality:.4f}"
        table.writerow([item.number, item.class_name, int(item.mask.decompress().sum()), quality])
    return lines.getvalue()
