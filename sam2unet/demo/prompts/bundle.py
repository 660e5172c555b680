"""The files that a visitor can save: the label map, or a zip with the label map and a PNG for each object."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ...data.pictures import encode_png
from ...errors import UserError
from .session import PromptSession


def write_label_map(session: PromptSession) -> Path:
    path = make_saved_path(session, "labels.png")
    path.write_bytes(encode_png(session.make_label_map()))
    return path


def write_masks(session: PromptSession) -> Path:
    """Writes a zip with `labels.png`, and `object_<number>.png` with the full mask of each object, 0 and 255."""
    path = make_saved_path(session, "masks.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
        archive.writestr("labels.png", encode_png(session.make_label_map()))
        for item in session.state.objects:
            pixels = np.where(item.mask.decompress(), 255, 0).astype(np.uint8)
            archive.writestr(f"object_{item.number}.png", encode_png(pixels))
    return path


def make_saved_path(session: PromptSession, ending: str) -> Path:
    """Returns the path of a new file, and removes the file that the visitor saved before."""
    if not session.state.objects:
        raise UserError("there is nothing to save yet; click on an object, or draw a box around it")
    for folder in session.folder.glob("saved-*"):
        shutil.rmtree(folder)
    return Path(tempfile.mkdtemp(prefix="saved-", dir=session.folder)) / f"{session.image.name}_{ending}"
