"""What one visitor has dropped: images with their maps, masks and scores, in a folder that ends with the visit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ...masks.inputs import is_video
from ...masks.predictor import Predictor, predict_grey, stretch_range, to_uint8
from ...recipe import ForegroundRule
from ...scoring.columns import RELEASED
from ...scoring.score_pair import ScoreOptions, score_arrays
from ..files import Limits, read_photo, read_truth, refuse_elsewhere, safe_stem, unique_name, visitor_message
from .clips import spread_frames

VIEW = 900  # pixels of the longer side of what the page shows: sliders react at once, whatever the photograph's size
Tell = Callable[[int, int], None]  # how many files are done, of how many


@dataclass(frozen=True)
class Method:
    name: str
    predictor: Predictor


@dataclass(frozen=True)
class Bench:
    """What all visitors share.

    Attributes:
        home: the one folder that anything is written to.
        allowed_folders: folders in it that dropped files and examples are in; nothing else is read.
        mask_threshold: which mask values are foreground; None for 0/255 masks.
    """

    methods: Sequence[Method]
    home: Path
    allowed_folders: Sequence[Path]
    limits: Limits = Limits()
    mask_threshold: ForegroundRule = None


@dataclass
class SessionItem:
    """An image. Its folder holds `photo.npy` and `map<number>.npy` of each method: float32 as test.py cuts them, before
    8 bits; `view_*.npy` are the same, no larger than what is shown.

    Attributes:
        name: of files that are made of it.
        stem: the dropped file's, by which masks are found.
        scores: per method, by metric key; empty without a mask.
    """

    name: str
    stem: str
    folder: Path
    scores: list[dict[str, float]] = field(default_factory=list)

    def load(self, what: str) -> np.ndarray:
        return np.load(self.folder / f"{what}.npy")

    def keep(self, what: str, array: np.ndarray) -> None:
        height, width = array.shape[:2]
        scale = min(1, VIEW / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        np.save(self.folder / f"{what}.npy", array)
        np.save(self.folder / f"view_{what}.npy", cv2.resize(array, size, interpolation=cv2.INTER_AREA))

    @property
    def has_mask(self) -> bool:
        return bool(self.scores)


class Session:
    def __init__(self, bench: Bench):
        self.bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="visit-", dir=bench.home))
        self.items: list[SessionItem] = []

    def close(self) -> None:
        self.items = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        old, self.items = self.items, []
        for folder in {item.folder.parent for item in old}:
            shutil.rmtree(folder, ignore_errors=True)

    def add_images(self, files: Sequence[Path], tell: Tell = lambda done, count: None) -> list[str]:
        """Maps of the files in place of what there was. A line for each file that could not be read.

        UserError where no file could; then all is as it was.
        """
        count = len(files)
        if count > self.bench.limits.images:
            raise UserError(f"{count} files are too many; at most {self.bench.limits.images} are taken at once")
        clips = sum(is_video(file) for file in files)
        share = (self.bench.limits.images - count + clips) // max(clips, 1)  # frames that each clip may give
        drop = Path(tempfile.mkdtemp(prefix="drop-", dir=self.folder))
        items, problems = [], []
        for done, file in enumerate(files):
            tell(done, count)
            try:
                refuse_elsewhere(file, self.bench.allowed_folders)
                for stem, photo in self.photos(file, share):
                    folder = drop / f"{len(items):04d}"
                    folder.mkdir()
                    name = unique_name(safe_stem(Path(stem)), [item.name for item in items])
                    items.append(self.predicted(SessionItem(name, stem, folder), photo))
            except UserError as e:
                problems.append(visitor_message(e, file))
        if not items:
            shutil.rmtree(drop)
            raise UserError(*problems)
        self.clear()
        self.items = items
        return problems

    def photos(self, file: Path, share: int) -> Iterator[tuple[str, Image.Image]]:
        """The image, or at most `share` frames of a clip, with the stems that they go by."""
        if is_video(file):
            number = 0
            for number, frame in spread_frames(file, share, self.bench.limits):
                yield f"{file.stem}_{number:05d}", frame
            if not number:
                raise UserError(f"{file} has no frames")
        elif file.suffix.lower() in EXTENSIONS:
            yield file.stem, read_photo(file, self.bench.limits)
        else:
            raise UserError(f"{file} is no image and no clip by its name (images: {', '.join(EXTENSIONS)})")

    def predicted(self, item: SessionItem, photo: Image.Image) -> SessionItem:
        item.keep("photo", np.asarray(photo))
        for number, method in enumerate(self.bench.methods):
            try:
                probability = method.predictor.predict_photo(photo)
            except torch.OutOfMemoryError as e:
                raise UserError(f"{item.name}: the device has not enough memory for it") from e
            item.keep(f"map{number}", stretch_range(probability).cpu().numpy())
        return item

    def add_masks(self, files: Sequence[Path]) -> list[str]:
        """Scores of the images that have a mask among `files`: one of its stem, or the only one for the only image.

        A line for each file that could not be used; nothing else changes for it.
        """
        if not self.items:
            raise UserError("drop the images first, then their masks")
        problems = []
        for file in files[: self.bench.limits.images]:
            try:
                refuse_elsewhere(file, self.bench.allowed_folders)
                item = next((item for item in self.items if item.stem == file.stem), None)
                if item is None and len(files) == len(self.items) == 1:
                    (item,) = self.items
                if item is None:
                    raise UserError(f"no image here has the name of the mask {file}, whatever the extension")
                self.score(item, np.asarray(read_truth(file, self.bench.limits, self.bench.mask_threshold)))
            except UserError as e:
                problems.append(visitor_message(e, file))
        if len(files) > self.bench.limits.images:
            problems.append(f"{len(files)} masks are too many; those after {self.bench.limits.images} were left out")
        return problems

    def score(self, item: SessionItem, mask: np.ndarray) -> None:
        """The numbers of test.py with this mask, then eval.py: a map has its mask's size."""
        scores = []
        for number, method in enumerate(self.bench.methods):
            found = item.load(f"map{number}")
            if found.shape == mask.shape:
                grey = to_uint8(torch.from_numpy(found))
            else:
                grey = predict_grey(method.predictor, Image.fromarray(item.load("photo")), mask.shape)
            numbers = score_arrays(grey, mask, ScoreOptions(self.bench.mask_threshold), ()).numbers
            scores.append({key: numbers[key] for key in RELEASED})
        item.keep("mask", mask)
        item.scores = scores

    def means(self) -> tuple[int, list[dict[str, float]]]:
        """How many images have a mask, and eval.py's means over them, per method."""
        scored = [item.scores for item in self.items if item.has_mask]
        table = []
        for number in range(len(self.bench.methods) if scored else 0):
            columns = {key: np.array([scores[number][key] for scores in scored]) for key in RELEASED}
            table.append({k: float(np.nanmean(v)) if np.isfinite(v).any() else np.nan for k, v in columns.items()})
        return len(scored), table
