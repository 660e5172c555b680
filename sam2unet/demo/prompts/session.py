"""One visit to the prompt page: an image, its objects, each with a box or clicks, and the steps that can be undone."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy import ndarray

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ...models.sam_med2d import SAMMed2D
from ...prompts.clicks import Points
from ...prompts.prompter import Prompter
from ...prompts.rounds import RoundPrompt
from ..draw import shrink_to_view
from ..files import Limits, read_photo, refuse_elsewhere, safe_stem, visitor_message
from .state import Box, CompressedMask, Object, State, Step, ViewedImage

HISTORY = 100  # the number of steps that can be undone
IMAGES = 10  # the number of images in these steps; each one holds memory of the device
T = TypeVar("T")


@dataclass(frozen=True)
class PromptMethod:
    """The model of the page."""

    name: str
    model: SAMMed2D


@dataclass(frozen=True)
class PromptBench:
    """What all visitors share."""

    method: PromptMethod
    home: Path  # the only folder that the page writes to
    allowed_folders: tuple[Path, ...]  # folders in `home` with uploaded files and examples. No other file is read.
    limits: Limits = Limits()
    model_lock: threading.Lock = field(default_factory=threading.Lock)  # is held while the model computes


class PromptSession:
    """One visit. Its methods raise UserError with a message for the visitor; the visit then stays as it was."""

    def __init__(self, bench: PromptBench):
        self.bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="visit-", dir=bench.home))
        self.image: ViewedImage | None = None
        self.prompter: Prompter | None = None
        self.state, self.past = State(), []

    def close(self) -> None:
        self.image = self.prompter = None
        self.state, self.past = State(), []
        shutil.rmtree(self.folder, ignore_errors=True)

    def set_image(self, file: Path) -> None:
        """Replaces the image and removes all objects. `undo` restores them. UserError if the file cannot be used."""
        try:
            refuse_elsewhere(file, self.bench.allowed_folders)
            if file.suffix.lower() not in EXTENSIONS:
                raise UserError(f"{file} does not have the extension of an image ({', '.join(EXTENSIONS)})")
            photo = read_photo(file, self.bench.limits)
            prompter = Prompter(self.bench.method.model)
            _, milliseconds = self.run_model(lambda: prompter.set_image(photo))
        except UserError as e:
            raise UserError(visitor_message(e, file)) from e
        if self.image is not None:
            self.remember()
        view = shrink_to_view(np.asarray(photo))
        self.image = ViewedImage(safe_stem(file), photo.width, photo.height, view, milliseconds)
        self.prompter, self.state = prompter, State()

    @property
    def selected(self) -> Object | None:
        return next((item for item in self.state.objects if item.number == self.state.selected), None)

    @property
    def next_number(self) -> int:
        return 1 + max((item.number for item in self.state.objects), default=0)

    def click(self, x: int, y: int, label: int) -> None:
        """Corrects the selected object with one more click, as the released test does, or starts a new object."""
        self.check_inside((x, y))
        clicks = Points(torch.tensor([[[x, y]]]).float(), torch.tensor([[label]]))
        if self.selected is not None:
            prompt = self.selected.prompt.correct(clicks, self.selected.mask_prompt, keep_clicks=True)
            self.predict(prompt, self.selected.box)
        elif label == 0:
            raise UserError("First click on the object, or draw a box around it. Then mark the background.")
        else:
            self.predict(RoundPrompt(clicks), None)

    def draw_box(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """Starts the selected object again, or a new object, with a box.

        The box is the only prompt, because the model was not trained with a box and points or a mask together.
        """
        self.check_inside((x0, y0), (x1, y1))
        box = Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        self.predict(RoundPrompt(boxes=torch.tensor([box]).float()), box)

    def check_inside(self, *pixels: tuple[int, int]) -> None:
        if self.image is None:
            raise UserError("there is no image yet; drop one first")
        for x, y in pixels:
            if not (0 <= x < self.image.width and 0 <= y < self.image.height):
                raise UserError(f"{x}, {y} is not in the image of {self.image.width} x {self.image.height} pixels")

    def predict(self, prompt: RoundPrompt, box: Box | None) -> None:
        """Predicts the mask of the selected object, or of a new object, and adds a step."""
        points, labels = prompt.points or (None, None)
        result, milliseconds = self.run_model(lambda: self.prompter.predict(points, labels, prompt.boxes, prompt.masks))
        (mask,) = result.masks
        answer = float(result.quality[0]), torch.from_numpy(result.prompt), CompressedMask.compress(mask)
        view = shrink_to_view(mask.astype(np.uint8) * 255) > 127
        item = Object(self.state.selected or self.next_number, prompt, box, *answer, view, milliseconds)
        others = [other for other in self.state.objects if other.number != item.number]
        self.add_step(State(tuple(sorted([*others, item], key=lambda item: item.number)), item.number))

    def run_model(self, work: Callable[[], T]) -> tuple[T, float]:
        """Runs `work` while no other visitor uses the model. Returns its result and its time in milliseconds."""
        with self.bench.model_lock:
            start = time.perf_counter()
            try:
                return work(), 1000 * (time.perf_counter() - start)
            except torch.OutOfMemoryError as e:
                raise UserError("the device has not enough memory for this image") from e

    def add_step(self, state: State) -> None:
        self.remember()
        self.state = state

    def remember(self) -> None:
        """Adds the current image and objects to the history. Removes the oldest steps."""
        past = [*self.past, Step(self.image, self.prompter, self.state)][-HISTORY:]
        images = list(dict.fromkeys(id(step.image) for step in reversed(past)))[:IMAGES]
        self.past = [step for step in past if id(step.image) in images]

    def undo(self) -> None:
        """Restores exactly what was there before the last click, box, deletion or new image."""
        if self.past:
            self.image, self.prompter, self.state = self.past.pop()

    def select(self, number: int | None) -> None:
        """Selects the object for the next clicks. None or an unknown number: the next click starts a new object."""
        is_known = any(item.number == number for item in self.state.objects)
        self.state = self.state._replace(selected=number if is_known else None)

    def delete(self) -> None:
        """Deletes the selected object. The other objects keep their numbers."""
        if self.selected is not None:
            self.add_step(State(tuple(item for item in self.state.objects if item is not self.selected)))

    def clear(self) -> None:
        """Deletes all objects."""
        if self.state.objects:
            self.add_step(State())

    def make_label_map(self) -> ndarray:
        """Returns (height, width) with the number of the object at each pixel, or 0. The lowest number counts.

        The type is uint8, or uint16 if a number is above 255.
        """
        largest = max((item.number for item in self.state.objects), default=0)
        labels = np.zeros((self.image.height, self.image.width), np.uint8 if largest < 256 else np.uint16)
        for item in reversed(self.state.objects):
            labels[item.mask.decompress()] = item.number
        return labels
