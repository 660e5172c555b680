"""One visit to the page for maps: images with their maps, masks and scores, in a temporary folder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from ...classes import Classes
from ...data.images.masks import read_mask
from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ...masks.files.find_inputs import is_video
from ...masks.prediction.predictor import Predictor, predict_grey
from ...masks.prediction.probability import pick_classes, stretch_range, to_uint8
from ...recipe import ForegroundRule
from ...scoring.columns import RELEASED
from ...scoring.score_pair import ScoreOptions, score_arrays
from ..draw import THUMBNAIL, scale_down, shrink_to_view
from ..files import Limits, check_upload, read_photo, refuse_elsewhere, safe_stem, unique_name, visitor_message
from .clips import spread_frames

Progress = Callable[[int, int], None]  # takes the number of finished files and the number of all files


@dataclass(frozen=True)
class Method:
    name: str
    predictor: Predictor


@dataclass(frozen=True)
class Bench:
    """What all visitors share."""

    methods: Sequence[Method]
    home: Path  # the only folder that the page writes to
    allowed_folders: Sequence[Path]  # folders in `home` with uploaded files and examples. No other file is read.
    limits: Limits = Limits()
    mask_threshold: ForegroundRule = None  # which mask values are foreground. None: masks are 0/255.

    @property
    def classes(self) -> Classes | None:
        """The classes of all methods, or None for foreground and background."""
        return self.methods[0].predictor.classes


@dataclass
class SessionItem:
    """An image of a visit.

    Its folder contains `photo.npy`, and `map<number>.npy` for each method: float32 in [0, 1], the map of test.py before
    it becomes 8 bits; with classes uint8, their indices. The files `view_*.npy` are the same in the size of the page,
    and `thumb_*.npy` in the size of a thumbnail.
    """

    name: str  # the name of saved files
    stem: str  # the name of the dropped file without extension. A mask with this name belongs to the image.
    folder: Path
    # for each method, the scores by metric key. Empty without a mask.
    scores: list[dict[str, float]] = field(default_factory=list)
    areas: list[np.ndarray] = field(default_factory=list)  # for each method, the share of each class in the pixels

    def load(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    def save(self, name: str, array: np.ndarray, interpolation: int = cv2.INTER_AREA) -> None:
        """Writes an array (H, W, ...), and its copies in the sizes of the page and of a thumbnail."""
        view = shrink_to_view(array, interpolation)
        np.save(self.folder / f"{name}.npy", array)
        np.save(self.folder / f"view_{name}.npy", view)
        np.save(self.folder / f"thumb_{name}.npy", scale_down(view, THUMBNAIL / max(view.shape[:2]), interpolation))

    @property
    def has_mask(self) -> bool:
        return bool(self.scores)


class Session:
    """One visit. Its methods raise UserError with a message for the visitor."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="visit-", dir=bench.home))
        self.items: list[SessionItem] = []
        self.previous: list[SessionItem] = []  # the images before these, which `undo` shows again

    def close(self) -> None:
        self.items = self.previous = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Removes all images from the page. `undo` shows them again."""
        self.replace_items([])

    def undo(self) -> None:
        """Shows the images before the last drop or `clear`. A second call shows the newer ones again."""
        self.items, self.previous = self.previous, self.items

    def replace_items(self, items: list[SessionItem]) -> None:
        """Shows other images. Keeps the files of the images before them, and removes the files of older ones."""
        if self.items:
            for folder in {item.folder.parent for item in self.previous}:
                shutil.rmtree(folder, ignore_errors=True)
            self.previous = self.items
        self.items = items

    def add_images(self, files: Sequence[Path], progress: Progress = lambda done, count: None) -> list[str]:
        """Predicts the maps of files and replaces the images of the visit. Returns a message for each bad file.

        Raises UserError if there are too many files, or no file can be used. The visit then stays as it was.
        """
        count = len(files)
        if count > self.bench.limits.images:
            raise UserError(f"{count} files are too many; at most {self.bench.limits.images} are allowed")
        clips = sum(is_video(file) for file in files)
        share = (self.bench.limits.images - count + clips) // max(clips, 1)  # the largest number of frames of each clip
        drop = Path(tempfile.mkdtemp(prefix="drop-", dir=self.folder))
        items: list[SessionItem] = []
        problems: list[str] = []
        for done, file in enumerate(files):
            progress(done, count)
            try:
                refuse_elsewhere(file, self.bench.allowed_folders)
                for stem, photo in self.read_photos(file, share):
                    folder = drop / f"{len(items):04d}"
                    folder.mkdir()
                    name = unique_name(safe_stem(Path(stem)), [item.name for item in items])
                    items.append(self.predict(SessionItem(name, stem, folder), photo))
            except UserError as e:
                problems.append(visitor_message(e, file))
        if not items:
            shutil.rmtree(drop)
            raise UserError(*problems)
        self.replace_items(items)
        return problems

    def read_photos(self, file: Path, share: int) -> Iterator[tuple[str, Image.Image]]:
        """Yields an image, or up to `share` frames of a clip, with their names without extension."""
        if is_video(file):
            number = 0
            for number, frame in spread_frames(file, share, self.bench.limits):
                yield f"{file.stem}_{number:05d}", frame
            if not number:
                raise UserError(f"{file} has no frames")
        elif file.suffix.lower() in EXTENSIONS:
            yield file.stem, read_photo(file, self.bench.limits)
        else:
            raise UserError(f"{file} has no extension of an image or clip (images: {', '.join(EXTENSIONS)})")

    def predict(self, item: SessionItem, photo: Image.Image) -> SessionItem:
        """Saves the photograph and the map of each method. Returns the item."""
        item.save("photo", np.asarray(photo))
        for number, method in enumerate(self.bench.methods):
            try:
                probability = method.predictor.predict_photo(photo)
            except torch.OutOfMemoryError as e:
                raise UserError(f"{item.name}: the device has not enough memory for it") from e
            if self.bench.classes:
                indices = pick_classes(probability)
                item.save(f"map{number}", indices, cv2.INTER_NEAREST)
                item.areas.append(np.bincount(indices.ravel(), minlength=len(probability)) / indices.size)
            else:
                item.save(f"map{number}", stretch_range(probability).cpu().numpy())
        return item

    def add_masks(self, files: Sequence[Path]) -> list[str]:
        """Scores the images that have a mask in `files`. Returns a message for each file that cannot be used.

        A mask must have the name of its image. A single mask for a single image can have any name.
        """
        if self.bench.classes:
            raise UserError("the page has no scores of several classes; eval.py --classes computes them")
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
                    raise UserError(f"no image has the name of the mask {file}")
                check_upload(file, self.bench.limits)
                self.score(item, np.asarray(read_mask(file, self.bench.mask_threshold)))
            except UserError as e:
                problems.append(visitor_message(e, file))
        if len(files) > self.bench.limits.images:
            problems.append(f"{len(files)} masks are too many; the page used the first {self.bench.limits.images}")
        return problems

    def score(self, item: SessionItem, mask: np.ndarray) -> None:
        """Computes the scores of test.py and eval.py: a map is resized to its mask, not to its image."""
        scores = []
        for number, method in enumerate(self.bench.methods):
            grey_map = item.load(f"map{number}")
            if grey_map.shape == mask.shape:
                grey = to_uint8(torch.from_numpy(grey_map))
            else:
                grey = predict_grey(method.predictor, Image.fromarray(item.load("photo")), mask.shape)
            numbers = score_arrays(grey, mask, ScoreOptions(self.bench.mask_threshold), ()).numbers
            scores.append({key: numbers[key] for key in RELEASED})
        item.save("mask", mask)
        item.scores = scores

    def means(self) -> tuple[int, list[dict[str, float]]]:
        """Returns the number of images with a mask, and for each method their means, as eval.py computes them."""
        scored = [item.scores for item in self.items if item.has_mask]
        table = []
        for number in range(len(self.bench.methods) if scored else 0):
            columns = {key: np.array([scores[number][key] for scores in scored]) for key in RELEASED}
            table.append({k: float(np.nanmean(v)) if np.isfinite(v).any() else np.nan for k, v in columns.items()})
        return len(scored), table
