"""The training task of models that predict one map per image."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from torch import nn

from ..classes import Classes
from ..data.batches import Batches
from ..data.checks.check import SAMPLE, Sizes, check_pairs, choose_checked, readable_pairs
from ..data.folds import assign_folds
from ..data.index.select import IndexQuery, open_index_parts
from ..data.index.table import Pairs
from ..data.pairs import Pair, match
from ..data.volumes.slices import list_cases
from ..errors import UserError, warn
from ..families.table import Family
from ..limits import round_size
from ..recipe import PROMPT_FIELDS, Recipe, Study
from ..runtime.processes import Processes
from ..scoring.aggregate import MethodResult
from ..scoring.columns import METRICS, PROTOCOLS, RELEASED
from ..scoring.tables import score_tables as tables
from ..task import RunData, draw_held_out
from .cache import open_cache
from .dataset import MaskFolder
from .step import mask_step
from .validate import draw_validation, validate


class MaskTask:
    """Implements `Task`: pairs of images and masks, and scores of the predicted maps."""

    step = staticmethod(mask_step)

    metrics = {key: METRICS[key] for key in PROTOCOLS["all"]}
    best_metric = "Dice_mean"
    has_cache = True
    pairs: Sequence[Pair]
    held_out: Sequence[Pair]
    unused_fields = PROMPT_FIELDS

    def __init__(self, family: Family, recipe: Recipe, data: RunData):
        recipe.refuse_others(self.unused_fields, family.title)
        if data.lists or data.val_lists:
            raise UserError(f"{family.title} takes no --data_path; give --train_image_path and --train_mask_path")
        if not data.images and not data.index:
            raise UserError(
                "--train_image_path and --train_mask_path, folders of images and of their masks, are missing"
            )
        if len(data.images) != len(data.masks):
            raise UserError(
                f"{len(data.images)} --train_image_path, but {len(data.masks)} --train_mask_path; give one each"
            )
        self.recipe, self.data = recipe, data
        self.groups: ndarray | None = None
        self.index_facts: dict[str, object] | None = None
        if data.index:
            self.take_index(data.index)
        else:
            self.pair_folders()
        if data.val_images and data.val_masks:
            self.held_out = Pairs.pack(match(data.val_images, data.val_masks, recipe.slice_view))
        refuse_single_values(family, recipe, len(self.pairs))

    def take_index(self, query: IndexQuery) -> None:
        """Takes the pairs of an index. Their files were checked when it was made."""
        recipe = self.recipe
        if recipe.classes:
            raise UserError("--index is for masks of foreground and background; leave out --classes, or give folders")
        training, held_out, self.index_facts = open_index_parts(query, recipe.seed, recipe.mask_rule)
        if training.ones and recipe.mask_rule is None:
            raise UserError(f"{training.ones} masks of {query.index} have the values 0 and 1; add --mask_threshold 0")
        self.pairs, self.held_out = training.items.pairs, held_out.pairs if held_out else ()
        if training.groups is not None:
            self.groups = np.concatenate([[0], training.items.ends])[training.groups]

    def pair_folders(self) -> None:
        """Pairs the files in the training folders, and divides them into training and validation."""
        recipe, data = self.recipe, self.data
        pairs = [
            pair for folders in zip(data.images, data.masks, strict=True) for pair in match(*folders, recipe.slice_view)
        ]
        held_out = draw_cases(pairs, data.val_fraction, recipe.seed)
        if data.folds:
            places = assign_folds(pairs, data.folds, recipe.seed, data.group, recipe.mask_rule)
            held_out = {i for i, place in enumerate(places) if place == data.fold}
        self.pairs = Pairs.pack(pair for i, pair in enumerate(pairs) if i not in held_out)
        self.held_out = Pairs.pack(pairs[i] for i in sorted(held_out))

    def check(self, study: Study | None, processes: Processes) -> tuple[Sizes | None, Sizes | None]:
        count = len(self.pairs) + len(self.held_out) * bool(self.data.val_fraction or self.data.folds)
        if study and study.train_count not in (None, count):
            warn(f"{count} training pairs; {study.train_count} were published ({', '.join(study.train)})")
        index = self.data.index  # its files were checked when it was made
        parts = (() if index else self.pairs, () if index and index.split else self.held_out)
        samples = [self.choose_checked(pairs) for pairs in parts]
        if self.data.on_bad_image == "skip" and samples[0]:
            samples[0] = kept = readable_pairs(samples[0], processes)
            if len(self.pairs) <= SAMPLE:
                self.pairs = Pairs.pack(kept)
        checked = [check_pairs(part, self.recipe.mask_rule, processes) if part else None for part in samples]
        pairs = self.pairs
        self.use_class_counts([part.counts for part in checked if part])
        if self.pairs is not pairs:  # images have moved between training and validation
            return None, None
        sizes = [part.sizes if part else None for part in checked]
        return sizes[0], sizes[1]

    def use_class_counts(self, counts: Sequence[Any]) -> None:
        """Receives the pixels of each class in the training and the validation masks, which `ClassTask` needs."""

    def choose_checked(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Returns the pairs that are read at the start of the run."""
        folders = [*self.data.images, *self.data.masks]
        words = shlex.join(map(str, folders)) if len(folders) == 2 else "IMAGES MASKS"
        return choose_checked(pairs, f"sam2unet check {words}")

    def batches(self, processes: Processes) -> Batches:
        recipe = self.recipe
        return Batches(
            len(self.pairs),
            recipe.batch_size,
            recipe.seed,
            rank=processes.rank,
            world=processes.world,
            repeat=recipe.repeat,
            augment=recipe.augment,
            groups=self.groups,
        )

    def dataset(self, cache: str, folder: Path, processes: Processes) -> MaskFolder:
        """Opens the cache, which all processes fill together."""
        recipe = self.recipe
        pixels = open_cache(cache, self.pairs, recipe.size, recipe.mask_rule, folder, processes)
        return MaskFolder(self.pairs, recipe.size, recipe.mask_rule, pixels, self.data.on_bad_image == "skip")

    def describe(self) -> str:
        return f"{len(self.pairs)} pairs at {self.recipe.size}x{self.recipe.size}"

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        size, rule = self.recipe.size, self.recipe.mask_rule
        assert not isinstance(rule, Classes)  # they have `ClassTask`
        return validate(model, self.held_out, size, rule, processes).table

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        images = [""] * len(self.held_out)
        epochs = sorted(scores.items())
        rows = [MethodResult("validation", f"epoch {epoch}", images, table=dict(row)) for epoch, row in epochs]
        return tables.format_table(rows, RELEASED)

    def draw(self, model: nn.Module, path: Path) -> None:
        draw_validation(model, self.held_out, self.recipe.size, self.recipe.mask_rule, path)


def draw_cases(pairs: Sequence[Pair], fraction: float, seed: int) -> set[int]:
    """Draws the indices of the validation pairs. The slices of a volume stay together."""
    cases = list_cases([pair.image.stem for pair in pairs])
    distinct = list(dict.fromkeys(cases))
    chosen = {distinct[i] for i in draw_held_out(len(distinct), fraction, seed)}
    return {i for i, case in enumerate(cases) if case in chosen}


def refuse_single_values(family: Family, recipe: Recipe, pairs: int) -> None:
    """Raises UserError if BatchNorm would get a single value, which has no variance.

    This is a batch of one image at the smallest size, where the coarsest feature map has one pixel.
    """
    smallest = min(round_size(scale * recipe.size, family.stride) for scale in recipe.multi_scale or (1.0,))
    images = pairs * recipe.repeat
    if smallest == family.stride and (recipe.batch_size == 1 or images % recipe.batch_size == 1):
        larger = f"a larger scale than {min(recipe.multi_scale):g}" if recipe.multi_scale else f"--size {2 * smallest}"
        raise UserError(
            f"size {smallest} leaves BatchNorm a single value where a batch holds one image ({images} pairs in "
            f"batches of {recipe.batch_size}); give {larger} or another --batch_size"
        )
