"""What one visitor asks for in an image: objects, each by a box or by clicks, and the way back."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy import ndarray

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ...models.sam_med2d import SAMMed2D
from ...prompts.framing import Framing
from ...prompts.prompter import RELEASED, Prompter
from ..files import Limits, read_photo, refuse_elsewhere, safe_stem, visitor_message
from ..masks.session import VIEW

HISTORY = 100  # steps that can be undone
IMAGES = 10  # whose steps are among these: each holds memory of the device
T = TypeVar("T")


@dataclass(frozen=True)
class PromptMethod:
    """`framing`, `mask_prompt` and `multimask` as in the model's training."""

    name: str
    model: SAMMed2D
    framing: Framing = RELEASED
    mask_prompt: str = "probability"
    multimask: bool = True


@dataclass(frozen=True)
class PromptBench:
    """What all visitors share.

    Attributes:
        home: the one folder that anything is written to.
        allowed_folders: folders in it that dropped files and examples are in; nothing else is read.
        computing: held while the model works.
    """

    method: PromptMethod
    home: Path
    allowed_folders: tuple[Path, ...]
    limits: Limits = Limits()
    computing: threading.Lock = field(default_factory=threading.Lock)


class Click(NamedTuple):
    """A pixel of the image, and 1 in the object or 0 in the background."""

    x: int
    y: int
    label: int


class Box(NamedTuple):
    """From one pixel of the image to another, both inside."""

    x0: int
    y0: int
    x1: int
    y1: int


class Packed(NamedTuple):
    """A mask, bool (height, width), in some kilobytes: the history has many."""

    data: bytes
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: ndarray) -> Packed:
        return cls(zlib.compress(np.packbits(mask), level=1), mask.shape)

    def mask(self) -> ndarray:
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


@dataclass(frozen=True, eq=False)
class Object:
    """
    Attributes:
        number: its value in the label map.
        clicks, box: what asked for it.
        quality: the IoU that the model expects, as it says, which can be out of [0, 1].
        prompt: the answer as a mask prompt for the next click.
        whole: the mask; `view`, bool, the same no larger than what is shown.
        milliseconds: that the answer took.
    """

    number: int
    clicks: tuple[Click, ...]
    box: Box | None
    quality: float
    prompt: ndarray
    whole: Packed
    view: ndarray
    milliseconds: float


class State(NamedTuple):
    """Objects by number, and the number of the one that the next click is for; None: of a new one."""

    objects: tuple[Object, ...] = ()
    selected: int | None = None


class Shown(NamedTuple):
    """The image: its name for files made of it, its size, and uint8 (h, w, 3), no larger than what is shown."""

    name: str
    width: int
    height: int
    view: ndarray
    milliseconds: float


class Step(NamedTuple):
    """What there was before a step: all that `undo` gives back."""

    image: Shown | None
    prompter: Prompter | None
    state: State


class PromptSession:
    def __init__(self, bench: PromptBench):
        self.bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="visit-", dir=bench.home))
        self.image: Shown | None = None
        self.prompter: Prompter | None = None
        self.state, self.past = State(), []

    def close(self) -> None:
        self.image = self.prompter = None
        self.state, self.past = State(), []
        shutil.rmtree(self.folder, ignore_errors=True)

    def set_image(self, file: Path) -> None:
        """In place of what there was; `undo` brings it back. UserError for what is no image; then all is as it was."""
        try:
            refuse_elsewhere(file, self.bench.allowed_folders)
            if file.suffix.lower() not in EXTENSIONS:
                raise UserError(f"{file} is no image by its name ({', '.join(EXTENSIONS)})")
            photo = read_photo(file, self.bench.limits)
            method = self.bench.method
            prompter = Prompter(method.model, method.framing, method.mask_prompt)
            with self.bench.computing:
                start = time.perf_counter()
                enough_memory(lambda: prompter.set_image(photo))
                took = 1000 * (time.perf_counter() - start)
        except UserError as e:
            raise UserError(visitor_message(e, file)) from e
        if self.image is not None:
            self.remember()
        self.image = Shown(safe_stem(file), photo.width, photo.height, shrink_to_view(np.asarray(photo)), took)
        self.prompter, self.state = prompter, State()

    @property
    def selected(self) -> Object | None:
        return next((each for each in self.state.objects if each.number == self.state.selected), None)

    @property
    def next_number(self) -> int:
        return 1 + max((each.number for each in self.state.objects), default=0)

    def click(self, x: int, y: int, label: int) -> None:
        """One more point for the selected object: all of its clicks, and its mask so far, as in the released test.

        UserError for a pixel outside of the image, or a first point in the background.
        """
        self.check_inside((x, y))
        before = self.selected
        if before is None and label == 0:
            raise UserError("show first what the object is: by a point in the foreground, or a box")
        clicks = (*(before.clicks if before else ()), Click(x, y, label))
        prompt = {"points": [(each.x, each.y) for each in clicks], "labels": [each.label for each in clicks]}
        if before is None:
            self.ask(prompt, clicks, None)
        else:
            self.ask(prompt | {"mask": before.prompt}, clicks, before.box)

    def draw_box(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """The selected object anew, by a box alone: the model was not trained with a box beside points or a mask."""
        self.check_inside((x0, y0), (x1, y1))
        box = Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        self.ask({"box": box}, (), box)

    def check_inside(self, *pixels: tuple[int, int]) -> None:
        if self.image is None:
            raise UserError("there is no image yet; drop one first")
        for x, y in pixels:
            if not (0 <= x < self.image.width and 0 <= y < self.image.height):
                raise UserError(f"{x}, {y} is not in the image of {self.image.width} x {self.image.height} pixels")

    def ask(self, prompt: Mapping[str, object], clicks: tuple[Click, ...], box: Box | None) -> None:
        """The model's answer to `prompt` as the selected object, or a new one; shown with these clicks and box."""
        with self.bench.computing:
            start = time.perf_counter()
            found = enough_memory(lambda: self.prompter.predict(**prompt, multimask=self.bench.method.multimask))
            took = 1000 * (time.perf_counter() - start)
        (mask,) = found.masks
        number = self.state.selected or self.next_number
        answer = Object(
            number, clicks, box, float(found.quality[0]), found.prompt, Packed.of(mask), small_mask(mask), took
        )
        others = (each for each in self.state.objects if each.number != number)
        self.step(State(tuple(sorted((*others, answer), key=lambda each: each.number)), number))

    def step(self, state: State) -> None:
        self.remember()
        self.state = state

    def remember(self) -> None:
        past = [*self.past, Step(self.image, self.prompter, self.state)][-HISTORY:]
        images = list(dict.fromkeys(id(step.image) for step in reversed(past)))[:IMAGES]
        self.past = [step for step in past if id(step.image) in images]

    def undo(self) -> None:
        """Exactly what was before the last click, box, deletion, clearing or image."""
        if self.past:
            self.image, self.prompter, self.state = self.past.pop()

    def select(self, number: int | None) -> None:
        """The object that the next clicks are for; None, or a number that there is not, for a new one."""
        known = any(each.number == number for each in self.state.objects)
        self.state = self.state._replace(selected=number if known else None)

    def delete(self) -> None:
        """The selected object; the others keep their numbers."""
        if self.selected is not None:
            self.step(State(tuple(each for each in self.state.objects if each is not self.selected)))

    def clear(self) -> None:
        if self.state.objects:
            self.step(State())

    def label_map(self) -> ndarray:
        """(height, width): the number of the object at each pixel, of several the lowest, or 0; uint8 up to 255."""
        most = max((each.number for each in self.state.objects), default=0)
        labels = np.zeros((self.image.height, self.image.width), np.uint8 if most < 256 else np.uint16)
        for each in reversed(self.state.objects):
            labels[each.whole.mask()] = each.number
        return labels


def enough_memory(work: Callable[[], T]) -> T:
    try:
        return work()
    except torch.OutOfMemoryError as e:
        raise UserError("the device has not enough memory for this image") from e


def shrink_to_view(picture: ndarray) -> ndarray:
    """uint8 (H, W, ...) of at most VIEW pixels a side."""
    height, width = picture.shape[:2]
    scale = min(1, VIEW / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def small_mask(mask: ndarray) -> ndarray:
    return shrink_to_view(mask.astype(np.uint8) * 255) > 127
