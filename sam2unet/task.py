"""The data of a training run, and the interface that each task implements."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .data.batches import Batches
from .data.checks.check import Sizes
from .data.index.select import IndexQuery
from .data.pairs import Pair
from .errors import UserError
from .recipe import Recipe, Study
from .runtime.processes import Processes
from .scoring.columns import Metric

MAX_FOLDS = 100


@dataclass(frozen=True)
class RunData:
    """The data that the user gives: folders of images and masks for the task `masks`, or lists for `prompts`."""

    # images and masks: the training folders, one mask folder for each image folder. All pairs form one data set.
    images: Sequence[Path] = ()
    masks: Sequence[Path] = ()
    lists: Path | None = None  # the folder with `image2label_train.json`
    index: IndexQuery | None = None  # a part of an index, instead of `images` and `masks` or of `lists`
    val_images: Path | None = None
    val_masks: Path | None = None
    val_lists: Path | None = None  # the folder with `label2image_test.json`
    val_fraction: float = 0.0  # the fraction of the training images that validation uses. The seed decides which.
    # Cross-validation: of `folds` parts, train on all but the part `fold`, which is from 1, and validate on that part.
    # `group` is the regular expression of `data.folds.assign_folds`.
    folds: int | None = None
    fold: int | None = None
    group: str | None = None
    on_bad_image: str = "stop"  # what to do if a file cannot be read, `stop` or `skip`

    def __post_init__(self) -> None:
        if self.on_bad_image not in ("stop", "skip"):
            raise UserError(f"on_bad_image is {self.on_bad_image}; there are stop, skip")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"val_fraction is {self.val_fraction}; it must be from 0 to below 1, e.g. 0.1")
        if (self.val_images is None) != (self.val_masks is None):
            raise UserError("--val_image_path and --val_mask_path go together")
        if self.val_fraction and (self.val_images or self.val_lists):
            flag = "--val_image_path" if self.val_images else "--val_data_path"
            raise UserError(
                f"--val_fraction takes validation images from the training images; it does not go with {flag}"
            )
        if self.index and (self.images or self.lists or self.val_fraction or self.folds):
            raise UserError("--index does not go with folders, lists, --val_fraction and --folds; --split divides it")
        if self.index and self.index.split and (self.val_images or self.val_lists):
            raise UserError("--split and --val_image_path or --val_data_path both give validation images; give one")
        if (self.folds is None) != (self.fold is None) or (self.group is not None and self.folds is None):
            raise UserError("--folds and --fold go together, and --group needs both")
        if self.folds is not None and self.fold is not None:
            if not 2 <= self.folds <= MAX_FOLDS or not 1 <= self.fold <= self.folds:
                raise UserError(f"fold is {self.fold} of {self.folds}; wanted 1 to {self.folds} of 2 to {MAX_FOLDS}")
            if self.val_fraction or self.val_images or self.lists:
                raise UserError(
                    "--folds takes validation images from the training folders; it does not go with --val_fraction, "
                    "--val_image_path and --data_path"
                )


TrainingStep = Callable[[Any, Any, Recipe], Iterator[dict[str, Tensor]]]  # model, batch, recipe -> losses


class Task(Protocol):
    """A kind of input. It provides the data, the training step and the validation of a run."""

    recipe: Recipe  # it may have class weights that the masks gave
    best_metric: str  # the key of the metric that decides which epoch is the best by default
    has_cache: bool  # whether `--cache` can keep resized images

    index_facts: dict[str, object] | None  # what identifies the data of an index; None for folders and lists

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics of validation, by key."""

    @property
    def unused_fields(self) -> Sequence[str]:
        """The fields of a recipe that are for other tasks."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """The images with their masks for training. Pairs may share an image."""

    @property
    def held_out(self) -> Sequence[Pair]:
        """The images with their masks for validation."""

    @property
    def step(self) -> TrainingStep:
        """Yields the named losses of a batch on the device, once for each optimizer step. Their sum is the loss."""

    def check(self, study: Study | None, processes: Processes) -> tuple[Sizes | None, Sizes | None]:
        """Reads all files, or a sample of many files. Each process reads its share, and all processes return the same.

        Returns the sizes of the images for training and for validation. None: `fingerprint` reads them. Raises
        UserError for files that would give wrong training or wrong scores.
        """

    def batches(self, processes: Processes) -> Batches:
        """Returns the sampler of the training batches."""

    def dataset(self, cache: str, folder: Path, processes: Processes) -> Dataset:
        """Returns a data set whose batches have `indices` into its list of paths, `images`."""

    def describe(self) -> str:
        """Returns a label of the data, for example `244 pairs at 352x352`."""

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """Returns the value of each metric. All processes must call this, and all get the same values."""

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        """Returns a table as text: a line of titles, and one line for each validated epoch."""

    def draw(self, model: nn.Module, path: Path) -> None:
        """Writes a PNG with some images, masks and predictions of validation. It always shows the same images."""


def find_metric(name: str, metrics: Mapping[str, Metric]) -> str:
    """Returns the key of the metric with this key or title. Raises UserError if there is none."""
    titles = {metric.title: key for key, metric in metrics.items()}
    if name not in metrics and name not in titles:
        raise UserError(f"no metric named {name} for --best_metric; there are {', '.join(titles)}")
    return titles.get(name, name)


def draw_held_out(count: int, fraction: float, seed: int) -> list[int]:
    """Draws the indices of the validation images, in ascending order. Raises UserError if no training image is left."""
    held = round(count * fraction) or int(fraction > 0)
    if held >= count:
        raise UserError(f"val_fraction {fraction} of {count} leaves no image for training")
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:held].tolist())
