"""The masks of a visit as files: one label map, or a zip with it and a PNG per object."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ...data.pictures import encode_png
from ...errors import UserError
from .session import PromptSession


def label_file(session: PromptSession) -> Path:
    path = place(session, "labels.png")
    path.write_bytes(encode_png(session.label_map()))
    return path


def masks_file(session: PromptSession) -> Path:
    """`labels.png` and `object_<number>.png`, each mask whole, 0 and 255."""
    path = place(session, "masks.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs do not get smaller
        archive.writestr("labels.png", encode_png(session.label_map()))
        for each in session.state.objects:
            archive.writestr(
                f"object_{each.number}.png", encode_png(np.where(each.whole.mask(), 255, 0).astype(np.uint8))
            )
    return path


def place(session: PromptSession, ending: str) -> Path:
    """Where a file goes that replaces the one saved before."""
    if not session.state.objects:
        raise UserError("there is nothing to save yet; click in an object, or draw a box around it")
    for old in session.folder.glob("saved-*"):
        shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix="saved-", dir=session.folder)) / f"{session.image.name}_{ending}"
