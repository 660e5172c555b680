"""What a visit to the prompt page contains: a queue of images, their objects with prompts, and the steps for `undo`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray

from ...prompts.prompter import Prompter
from ...prompts.rounds import RoundPrompt


class Click(NamedTuple):
    """A pixel of the image. The label is 1 for foreground and 0 for background."""

    x: int
    y: int
    label: int


class Box(NamedTuple):
    """Two opposite corners of a box, pixels of the image. The box contains both."""

    x0: int
    y0: int
    x1: int
    y1: int


class CompressedMask(NamedTuple):
    """A mask, bool (height, width), in some kilobytes. The history holds many masks."""

    data: bytes
    shape: tuple[int, int]

    @classmethod
    def compress(cls, mask: ndarray) -> CompressedMask:
        return cls(zlib.compress(np.packbits(mask).data, level=1), mask.shape)

    def decompress(self) -> ndarray:
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


@dataclass(frozen=True, eq=False)
class Object:
    """An object that the visitor marked."""

    number: int  # its value in the label map
    prompt: RoundPrompt  # the prompt of the last round, in pixels of the image
    box: Box | None  # the box that started the object, if there is one
    quality: float  # the IoU that the model expects. It can leave [0, 1]. NaN if the mask is from a file
    mask_prompt: torch.Tensor  # the last answer as a mask prompt, (1, 1, 4g, 4g), g side of the image embedding
    mask: CompressedMask  # the mask in the size of the image
    view: CompressedMask  # the mask in the size of `ViewedImage.view`
    milliseconds: float  # the time that the model took for the last answer
    class_name: str = ""  # what the visitor calls objects of this kind

    @property
    def clicks(self) -> list[Click]:
        if self.prompt.points is None:
            return []
        coords, labels = (part[0].int().tolist() for part in self.prompt.points)
        return [Click(x, y, label) for (x, y), label in zip(coords, labels, strict=True)]


class State(NamedTuple):
    """The objects, sorted by number, and the number of the one that the next click corrects. None: a new one."""

    objects: tuple[Object, ...] = ()
    selected: int | None = None


class ViewedImage(NamedTuple):
    """The image that the page shows."""

    name: str  # the start of the names of saved files
    # width and height: the original size in pixels
    width: int
    height: int
    view: ndarray  # uint8 (h, w, 3), the image in the size in which the page shows it
    milliseconds: float  # the time that the encoder took


@dataclass(eq=False)
class QueueImage:
    """An image of the queue with its objects. `past` contains the steps before, which `undo` restores."""

    name: str  # the start of the names of saved files, different for each image
    file: Path
    state: State = State()
    past: list[State] = field(default_factory=list)
    # The image and its prompter need much memory. Only the images that were open last have them.
    image: ViewedImage | None = None
    prompter: Prompter | None = None
