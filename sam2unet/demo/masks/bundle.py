"""Writes all results of a visit to one zip file."""

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.images.class_pictures import add_legend, encode_index_png, tint_classes_
from ...data.images.pictures import encode_png
from ...errors import UserError
from ...masks.prediction.probability import to_uint8
from ...scoring.columns import METRICS, RELEASED
from ..draw import draw_overlay
from ..files import make_saved_path, safe_stem, unique_name
from .panel import hide_classes
from .session import Session


def bundle(session: Session, shown: Any, opacity: float) -> Path:
    """Writes a zip with `maps/` and `masks/`, as test.py and its --threshold write them, and `overlays/`.

    With classes there are no `masks/`. With two methods, each method has a folder. If images have masks, the zip
    contains `scores.csv`. `shown` and `opacity` are those of `panel_html`.
    """
    if not session.items:
        raise UserError("there is nothing to download yet; drop an image first")
    path = make_saved_path(session.folder, "sam2unet-maps.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG files are compressed already
        for name, content in make_files(session, shown, opacity):
            archive.writestr(name, content)
    return path


def make_files(session: Session, shown: Any, opacity: float) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the content of each file in the zip."""
    methods, classes = session.bench.methods, session.bench.classes
    folders = list_method_folders([method.name for method in methods])
    for item in session.items:
        photo = item.load("photo")
        for number, folder in enumerate(folders):
            grey_map = item.load(f"map{number}")
            if classes:
                picture = tint_classes_(photo.copy(), hide_classes(grey_map, shown), classes, opacity)
                yield f"{folder}maps/{item.name}.png", encode_index_png(grey_map, classes)
                yield f"{folder}overlays/{item.name}.png", encode_png(add_legend(picture, classes))
                continue
            yield f"{folder}maps/{item.name}.png", encode_png(to_uint8(torch.from_numpy(grey_map)))
            mask = grey_map > np.float32(shown)
            yield f"{folder}masks/{item.name}.png", encode_png(np.where(mask, 255, 0).astype(np.uint8))
            yield f"{folder}overlays/{item.name}.png", encode_png(draw_overlay(photo, mask, opacity))
    if any(item.has_mask for item in session.items):
        yield "scores.csv", write_scores_file(session).encode()


def list_method_folders(names: Sequence[str]) -> list[str]:
    """Returns a different folder for each method, such as `a/`. A single method has none."""
    folders: list[str] = []
    for name in names:
        folders.append(unique_name(safe_stem(Path(f"{name.replace('/', '_')}.pth")), folders))
    return [f"{folder}/" for folder in folders] if len(names) > 1 else [""]


def write_scores_file(session: Session) -> str:
    lines = io.StringIO()
    table = csv.writer(lines)
    table.writerow(["image", "method", *(METRICS[key].title for key in RELEASED)])
    for item in session.items:
        for method, scores in zip(session.bench.methods, item.scores, strict=False):
            table.writerow([item.name, method.name, *scores.values()])
    return lines.getvalue()
