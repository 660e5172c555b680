"""One visit to the prompt page: a queue of images, their objects with boxes or clicks, and the steps for `undo`."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray

from ...data.pairs import EXTENSIONS
from ...errors import UserError
from ...models.sam_med2d import SAMMed2D
from ...prompts.clicks import Points
from ...prompts.prompter import Prompter
from ...prompts.rounds import RoundPrompt, to_mask_prompt
from ..draw import shrink_to_view
from ..files import Limits, check_upload, read_photo, refuse_elsewhere, safe_stem, unique_name, visitor_message
from .label_map import clean_class_name, read_object_map
from .state import Box, CompressedMask, Object, QueueImage, State, ViewedImage

HISTORY = 100  # the number of steps of an image that can be undone
IMAGES = 10  # the number of images that stay encoded; each one holds memory of the device
LARGEST_NUMBER = 65535  # of an object, in a label map with 16 bits
LONGEST_QUEUE = 10  # the largest number of images of a visit, as a multiple of the largest number in one drop
NOTHING = "Nothing found here: the model predicts an empty mask. Mark another place, or draw a box."
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
        self.queue: list[QueueImage] = []
        self.position = 0  # in the queue
        self.open_images: list[QueueImage] = []  # the images that are encoded; the last one was opened last
        self.class_name = ""  # the class of new objects

    def close(self) -> None:
        self.queue, self.open_images = [], []
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def current(self) -> QueueImage:
        """The image that the page shows. Raises UserError if there is none."""
        if not self.queue:
            raise UserError("there is no image yet; drop one first")
        return self.queue[self.position]

    @property
    def image(self) -> ViewedImage | None:
        return self.current.image if self.queue else None

    @property
    def state(self) -> State:
        return self.current.state if self.queue else State()

    @property
    def past(self) -> list[State]:
        return self.current.past if self.queue else []

    def add_images(self, files: Sequence[Path]) -> list[str]:
        """Adds images to the queue in the order of their names, and opens the first one of them.

        The earlier images stay in the queue with their objects. Returns a message for each file that cannot be used.
        Raises UserError if no file can be used. The visit then stays as it was.
        """
        limit, start, problems = self.bench.limits.images, len(self.queue), []
        if start + min(len(files), limit) > LONGEST_QUEUE * limit:
            raise UserError(
                f"a queue has at most {LONGEST_QUEUE * limit} images; save your masks, then reload the page"
            )
        if len(files) > limit:
            problems.append(
                f"{len(files)} files are too many; the page took the first {limit} (--max_images of demo.py)"
            )
        for file in sorted(files, key=lambda file: file.name)[:limit]:
            try:
                self.queue.append(self.keep_file(file))
            except UserError as e:
                problems.append(visitor_message(e, file))
        while len(self.queue) > start:
            try:
                self.open(start)
                return problems
            except UserError as e:
                problems.append(visitor_message(e, self.queue.pop(start).file))
        raise UserError(*problems)

    def keep_file(self, file: Path) -> QueueImage:
        """Checks an upload and gives it a second name in the folder of the visit, because gradio removes uploads."""
        refuse_elsewhere(file, self.bench.allowed_folders)
        if file.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{file} does not have the extension of an image ({', '.join(EXTENSIONS)})")
        check_upload(file, self.bench.limits)
        path = Path(tempfile.mkdtemp(prefix="image-", dir=self.folder)) / file.name
        os.link(file.resolve(), path)
        return QueueImage(unique_name(safe_stem(file), [item.name for item in self.queue]), path)

    def open(self, position: int) -> None:
        """Shows an image of the queue, and encodes it if needed. Raises UserError if the file cannot be used."""
        item = self.queue[position]
        if item.prompter is None:
            photo, prompter = read_photo(item.file, self.bench.limits), Prompter(self.bench.method.model)
            _, milliseconds = self.run_model(lambda: prompter.set_image(photo))
            view = shrink_to_view(np.asarray(photo))
            item.image = ViewedImage(item.name, photo.width, photo.height, view, milliseconds)
            item.prompter = prompter
        self.position = position
        self.open_images = [*(other for other in self.open_images if other is not item), item]
        for other in self.open_images[:-IMAGES]:
            other.image = other.prompter = None
        self.open_images = self.open_images[-IMAGES:]

    def move(self, step: int) -> list[str]:
        """Opens the next image of the queue (1) or the one before (-1). Objects stay with their images.

        Skips files that cannot be read, and returns their messages. UserError if there is no other image after them.
        """
        problems, position = list[str](), self.position + step
        while 0 <= position < len(self.queue):
            try:
                self.open(position)
                return problems
            except UserError as e:
                problems.append(visitor_message(e, self.queue[position].file))
            position += step
        if problems:
            raise UserError(*problems)
        return []

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
        image = self.current.image
        assert image is not None
        for x, y in pixels:
            if not (0 <= x < image.width and 0 <= y < image.height):
                raise UserError(f"{x}, {y} is not in the image of {image.width} x {image.height} pixels")

    def predict(self, prompt: RoundPrompt, box: Box | None) -> None:
        """Predicts the mask of the selected object, or of a new object, and adds a step.

        Raises UserError if the mask is empty. The objects then stay as they were.
        """
        (points, labels), prompter = prompt.points or (None, None), self.current.prompter
        assert prompter is not None
        result, milliseconds = self.run_model(lambda: prompter.predict(points, labels, prompt.boxes, prompt.masks))
        (mask,) = result.masks
        if not mask.any():
            raise UserError(NOTHING)
        old = self.selected
        number, name = (self.next_number, self.class_name) if old is None else (old.number, old.class_name)
        answer = float(result.quality[0]), torch.from_numpy(result.prompt), *compress_mask(mask)
        self.add_objects([Object(number, prompt, box, *answer, milliseconds, name)], number)

    def add_objects(self, items: Sequence[Object], selected: int | None) -> None:
        """Adds a step in which these objects are new, or replace the objects with the same numbers."""
        objects = {item.number: item for item in (*self.state.objects, *items)}
        if max(objects) > LARGEST_NUMBER:
            raise UserError(f"the numbers of objects end at {LARGEST_NUMBER}; save the masks, then delete some objects")
        self.add_step(State(tuple(objects[number] for number in sorted(objects)), selected))

    def name_class(self, text: str) -> None:
        """Sets the class of the selected object, and of new objects."""
        self.class_name = clean_class_name(text)
        if self.selected is not None and self.selected.class_name != self.class_name:
            self.add_objects([replace(self.selected, class_name=self.class_name)], self.selected.number)

    def load_label_map(self, file: Path) -> int:
        """Adds the objects of a saved label map, so that clicks can correct them. Returns how many they are.

        Objects keep their numbers if these are free. Raises UserError if the map does not fit the image.
        """
        image, prompter = self.current.image, self.current.prompter
        assert image is not None and prompter is not None
        try:
            refuse_elsewhere(file, self.bench.allowed_folders)
            check_upload(file, self.bench.limits)
            labels, names = read_object_map(file)
            if labels.shape != (image.height, image.width):
                size = f"{labels.shape[1]} x {labels.shape[0]} pixels, the image {image.width} x {image.height}"
                raise UserError(f"{file} does not fit the image {image.name}: it has {size}")
        except UserError as e:
            raise UserError(visitor_message(e, file)) from e
        taken = {item.number for item in self.state.objects}
        shift = max(taken, default=0) if taken & set(names) else 0
        items = []
        for number, name in names.items():
            mask = labels == number
            prompt = make_mask_prompt(mask, prompter)
            items.append(
                Object(number + shift, RoundPrompt(), None, float("nan"), prompt, *compress_mask(mask), 0, name)
            )
        self.add_objects(items, None)
        return len(items)

    def run_model(self, work: Callable[[], T]) -> tuple[T, float]:
        """Runs `work` while no other visitor uses the model. Returns its result and its time in milliseconds."""
        with self.bench.model_lock:
            start = time.perf_counter()
            try:
                return work(), 1000 * (time.perf_counter() - start)
            except torch.OutOfMemoryError as e:
                raise UserError("the device has not enough memory for this image") from e

    def add_step(self, state: State) -> None:
        """Changes the objects, and adds the earlier ones to the history. Removes the oldest step if it is too long."""
        self.current.past = [*self.past, self.state][-HISTORY:]
        self.current.state = state

    def undo(self) -> None:
        """Restores exactly what was there before the last change of the objects of this image."""
        if self.past:
            self.current.state = self.past.pop()

    def select(self, number: int | None) -> None:
        """Selects the object for the next clicks. None or an unknown number: the next click starts a new object."""
        is_known = any(item.number == number for item in self.state.objects)
        if self.queue:
            self.current.state = self.state._replace(selected=number if is_known else None)

    def delete(self) -> None:
        """Deletes the selected object. The other objects keep their numbers."""
        if self.selected is not None:
            self.add_step(State(tuple(item for item in self.state.objects if item is not self.selected)))

    def clear(self) -> None:
        """Deletes all objects."""
        if self.state.objects:
            self.add_step(State())


def compress_mask(mask: ndarray) -> tuple[CompressedMask, CompressedMask]:
    """Returns a mask, bool (height, width), in its size and in the size in which the page shows it."""
    view = shrink_to_view(mask.astype(np.uint8) * 255) > 127
    return CompressedMask.compress(mask), CompressedMask.compress(view)


def make_mask_prompt(mask: ndarray, prompter: Prompter) -> torch.Tensor:
    """Returns a mask, bool (height, width), as a mask prompt (1, 1, 4g, 4g): that of logits of -10 and 10."""
    assert prompter.frame is not None
    side = 4 * prompter.model.image_encoder.grid
    square = torch.from_numpy(prompter.frame.place(mask)).float()[None, None]
    return to_mask_prompt(20 * F.interpolate(square, (side, side), mode="area") - 10, prompter.mask_prompt)
