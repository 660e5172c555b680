"""What a run trains on and is judged by, whatever the kind of model: the one place where kinds differ in the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .data.batches import Batches
from .data.pairs import Pair
from .errors import UserError
from .recipe import Recipe, Study
from .runtime.processes import Processes
from .scoring.columns import Metric


@dataclass(frozen=True)
class RunData:
    """What the user gave. For models for masks, folders of images and of their masks; for prompts, folders of lists.

    Attributes:
        images, masks: several training folders are one set; a mask folder for each image folder.
        lists: folder with `image2label_train.json`.
        val_lists: folder with `label2image_test.json`.
        val_fraction: of what is trained on, drawn by the seed, in place of a folder.
        on_bad_image: `stop` or `skip`.
    """

    images: Sequence[Path] = ()
    masks: Sequence[Path] = ()
    lists: Path | None = None
    val_images: Path | None = None
    val_masks: Path | None = None
    val_lists: Path | None = None
    val_fraction: float = 0.0
    on_bad_image: str = "stop"

    def __post_init__(self) -> None:
        if self.on_bad_image not in ("stop", "skip"):
            raise UserError(f"on_bad_image is {self.on_bad_image}; there are stop, skip")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"val_fraction is {self.val_fraction}; it must be from 0 to below 1, e.g. 0.1")
        if (self.val_images is None) != (self.val_masks is None):
            raise UserError("--val_image_path and --val_mask_path go together")
        if self.val_fraction and (self.val_images or self.val_lists):
            flag = "--val_image_path" if self.val_images else "--val_data_path"
            raise UserError(f"--val_fraction takes from what is trained on; it does not go with {flag}")


class Task(Protocol):
    """
    Attributes:
        metrics: what validation measures, by key.
        best: the key that the best epoch is kept by, if not said otherwise.
        cached: resized images can be kept (`--cache`).
        unused: fields of a recipe that are for other tasks.
        pairs, held_out: images with their masks, to train on and to validate with; several pairs may share an image.
    """

    metrics: Mapping[str, Metric]
    best: str
    cached: bool
    unused: Sequence[str]
    pairs: Sequence[Pair]
    held_out: Sequence[Pair]

    @staticmethod
    def step(model: nn.Module, batch: tuple[Tensor, ...], recipe: Recipe) -> Iterator[dict[str, Tensor]]:
        """A batch on the device -> named losses, to be added up; one optimizer step for each time that it yields."""

    def check(self, study: Study | None) -> None:
        """Open every file once; UserError for what would train or score wrongly."""

    def batches(self, processes: Processes) -> Batches: ...

    def dataset(self, cache: str, folder: Path, processes: Processes) -> Dataset:
        """Returns a data set whose batches have `indices` into its list of paths, `images`."""

    def words(self) -> str:
        """`244 pairs at 352x352`"""

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """Every metric's value, the same in all processes, which must all call this."""

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        """A line of titles and one per validated epoch."""

    def draw(self, model: nn.Module, path: Path) -> None:
        """A PNG with some of what validation saw and found, the same every time."""


def find_metric(name: str, metrics: Mapping[str, Metric]) -> str:
    """The key of a metric named by its key or title; UserError if validation has none of that name."""
    titles = {metric.title: key for key, metric in metrics.items()}
    if name not in metrics and name not in titles:
        raise UserError(f"no metric named {name} for --best_metric; there are {', '.join(titles)}")
    return titles.get(name, name)


def draw_held_out(count: int, fraction: float, seed: int) -> list[int]:
    """Places of those to validate with, ascending; UserError if none would be left to train on."""
    held = round(count * fraction) or int(fraction > 0)
    if held >= count:
        raise UserError(f"val_fraction {fraction} of {count} leaves none to train on")
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:held].tolist())
