"""All results of a visit as one zip of PNGs."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ...data.pictures import encode_png
from ...errors import UserError
from ...masks.predictor import to_uint8
from ...scoring.columns import METRICS, RELEASED
from ..draw import draw_overlay
from ..files import safe_stem
from .session import Session


def bundle(session: Session, threshold: float, opacity: float) -> Path:
    """`maps/` as test.py writes them, `masks/` as with its --threshold, `overlays/`; a folder of them per method."""
    if not session.items:
        raise UserError("there is nothing to download yet; drop an image first")
    for old in session.folder.glob("zip-*/*.zip"):
        old.unlink()
    path = Path(tempfile.mkdtemp(prefix="zip-", dir=session.folder)) / "sam2unet-maps.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNGs do not get smaller
        for name, content in members(session, threshold, opacity):
            archive.writestr(name, content)
    return path


def members(session: Session, threshold: float, opacity: float) -> Iterator[tuple[str, bytes]]:
    methods = session.bench.methods
    for item in session.items:
        photo = item.load("photo")
        for number, method in enumerate(methods):
            folder = f"{safe_name(method.name)}/" if len(methods) > 1 else ""
            found = item.load(f"map{number}")
            yield f"{folder}maps/{item.name}.png", encode_png(to_uint8(torch.from_numpy(found)))
            cut = found > np.float32(threshold)
            yield f"{folder}masks/{item.name}.png", encode_png(np.where(cut, 255, 0).astype(np.uint8))
            yield f"{folder}overlays/{item.name}.png", encode_png(draw_overlay(photo, cut, opacity))
    if any(item.has_mask for item in session.items):
        yield "scores.csv", write_scores_file(session).encode()


def safe_name(name: str) -> str:
    return safe_stem(Path(f"{name}.pth"))


def write_scores_file(session: Session) -> str:
    lines = io.StringIO()
    table = csv.writer(lines)
    table.writerow(["image", "method", *(METRICS[key].title for key in RELEASED)])
    for item in session.items:
        for method, found in zip(session.bench.methods, item.scores, strict=False):
            table.writerow([item.name, method.name, *found.values()])
    return lines.getvalue()
