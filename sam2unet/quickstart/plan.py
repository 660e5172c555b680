"""Plans a training that takes a given time: measures the computer, then chooses the input side and the updates."""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..atomic import read_json, write_atomic
from ..errors import UserError, print_line
from ..families.load import create_model
from ..families.table import find_family
from ..masks.cache import free_memory
from ..masks.step import mask_step
from ..recipe import Recipe
from ..run_command import CONFIGS
from ..runtime.device import is_out_of_memory, pick_device, pick_half_type, release_memory, tune_malloc
from ..runtime.processes import Processes
from ..training.prepare import choose_trained
from ..training.speed import Speed
from ..training.trainer import Trainer

SIDES = (96, 128, 160, 224, 288, 352)  # input sides in pixels; 352 is the released one
UPDATES = {False: 2000, True: 300}  # pretrained weights or not -> the updates that a larger side must leave time for
PASSES = 60  # with pretrained weights, more passes over few images were never measured
TRAINING = 0.8  # share of the time; the rest is for reading, validation, prediction and scores
EPOCHS = 16  # about so many parts of the training; each ends with a validation, and with files that `--resume` needs
VALIDATION = 0.15  # share of the training images
FEWEST = 20  # with fewer training images, none is left for validation
TESTED = 200  # the largest number of images that the result is measured on
ENCODER = "tiny"  # without pretrained weights; a larger one needs more time and more images
RECIPES = {False: CONFIGS / "few_images.yaml", True: CONFIGS / "sam2unet.yaml"}  # pretrained weights or not


@dataclass(frozen=True)
class Plan:
    """How quickstart trains on the images of the user. `plan.json` keeps it, so that a second call continues."""

    minutes: float  # that the user wants to spend
    pretrained: bool
    seconds: float  # that an update took on this computer
    device: str
    amp: str
    # size, batch_size, epoch, repeat: the fields of `Recipe`
    size: int
    batch_size: int
    epoch: int
    repeat: int
    images: int  # the training images that are used, with those for validation
    validation: int  # the number of them that validate

    @property
    def updates(self) -> int:
        return self.epoch * math.ceil((self.images - self.validation) * self.repeat / self.batch_size)

    @property
    def can_be_longer(self) -> bool:
        """Whether more minutes lead to more passes."""
        return not self.pretrained or self.epoch * self.repeat < PASSES

    def to_flags(self) -> list[object]:
        """Returns the words for the command line of train.py, without the paths."""
        flags = ["--size", self.size, "--batch_size", self.batch_size, "--epoch", self.epoch, "--repeat", self.repeat]
        flags += ["--amp", self.amp, "--channels_last", "--fused", "--cache", self.cache]
        return flags + (["--val_fraction", VALIDATION, "--best_metric", "MAE"] if self.validation else [])

    @property
    def cache(self) -> str:
        return "ram" if self.images * 4 * self.size**2 < 0.3 * free_memory() else "off"

    def estimate_larger(self) -> tuple[int, int]:
        """Returns the next larger side, and the minutes that lead to it on this computer."""
        side = next(side for side in SIDES if side > self.size)
        seconds = UPDATES[self.pretrained] * self.seconds * (side / self.size) ** 2
        return side, math.ceil(seconds / 60 / TRAINING)

    def describe(self) -> list[str]:
        """Returns sentences for the user, each one line."""
        passes, weights = self.epoch * self.repeat, "pretrained" if self.pretrained else "random"
        lines = [
            f"An update with {self.batch_size} images takes {self.seconds:.2g} s at {self.size}x{self.size} pixels on "
            f"this {'GPU' if self.device.startswith('cuda') else 'CPU'}.",
            f"The training starts from {weights} weights. It takes {self.updates} updates, which are {passes} "
            f"pass{'es' * (passes != 1)} over {self.images - self.validation} images, and about "
            f"{max(1, round(self.updates * self.seconds / 60))} minutes.",
        ]
        if self.validation:
            lines.append(f"{self.validation} other images choose the best of {self.epoch} checkpoints.")
        return lines

    def write(self, path: Path) -> None:
        with write_atomic(path) as file:
            file.write((json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Raises UserError if the file is damaged."""
        values = read_json(path, "give another --save_path")
        if values.keys() != {field.name for field in dataclasses.fields(cls)}:
            raise UserError(f"{path} is not a plan of this version of quickstart; give another --save_path")
        return cls(**values)


def make_plan(minutes: float, images: int, weights: Path | None = None, sides: Sequence[int] = SIDES) -> Plan:
    """Measures updates, and returns the plan with the largest side that leaves time for enough updates.

    Args:
        minutes: the time of the whole run.
        images: the number of images for training and validation.
        weights: a SAM 2 checkpoint. None: the tiny encoder with random weights.
    """
    device, plan = pick_device(None), None
    amp, budget = pick_half_type(device), TRAINING * 60 * minutes
    for side in sides:
        if plan and budget / (plan.seconds * (side / plan.size) ** 2) < UPDATES[weights is not None]:
            break
        recipe = Recipe.read(RECIPES[weights is not None], size=side, amp=amp)
        recipe = replace(recipe, batch_size=min(recipe.batch_size, images))
        try:
            seconds = measure_update(recipe, weights, device)
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
            if plan:
                break
            raise UserError(
                f"out of memory on {device} with {recipe.batch_size} images at {side}x{side}; close other programs, or "
                "give smaller weights, for example --hiera_path sam2.1_hiera_tiny"
            ) from e
        if plan and budget / seconds < UPDATES[weights is not None]:
            break
        plan = divide_updates(minutes, images, weights is not None, seconds, str(device), recipe)
        print_line(f"measured: {seconds:.2g} s for an update at {side}x{side}, {int(budget / seconds)} updates in time")
    assert plan is not None
    release_memory()  # the training is another process
    return plan


def divide_updates(minutes: float, images: int, pretrained: bool, seconds: float, device: str, recipe: Recipe) -> Plan:
    """Returns the plan for updates that take `seconds`: its epochs, and the images that there is time for."""
    updates = max(1, int(TRAINING * 60 * minutes / seconds))
    images = min(images, max(recipe.batch_size, updates * recipe.batch_size))
    validation = round(images * VALIDATION) if images >= FEWEST else 0
    passes = max(1, updates * recipe.batch_size // (images - validation))
    if pretrained:
        passes = min(passes, PASSES)
    repeat = max(1, round(passes / EPOCHS))
    return Plan(
        minutes, pretrained, seconds, device, recipe.amp, recipe.size, recipe.batch_size, passes // repeat, repeat,
        images, validation,
    )  # fmt: skip


def measure_update(recipe: Recipe, weights: Path | None, device: torch.device, repetitions: int = 2) -> float:
    """Returns the mean seconds of some updates with random images, after one that warms up."""
    if device.type == "cpu":
        tune_malloc()
    model = create_model(recipe.model, None if weights else ENCODER, hiera_path=weights)
    family, speed = find_family(recipe.model), Speed(channels_last=True, fused=True)
    choose_trained(family, model, recipe, [])
    trainer = Trainer(family, mask_step, model.to(device).train(), recipe, speed, device, Processes())
    batch = torch.randn(recipe.batch_size, 3, recipe.size, recipe.size, device=device)
    masks = (torch.rand_like(batch[:, :1]) > 0.5).to(batch)
    times = []
    for _ in range(1 + repetitions):
        start = time.perf_counter()
        ((losses,),) = trainer.update([(batch, masks)], [1.0])
        losses["total"].item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return sum(times[1:]) / repetitions
