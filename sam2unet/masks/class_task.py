"""The training task of models that predict one map with several classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ..data.class_counts import inverse_weights, keep_all_classes, warn_missing_classes
from ..data.pairs import Pair
from ..families.table import Family
from ..recipe import Recipe
from ..runtime.processes import Processes
from ..scoring.classes.columns import define_class_columns
from ..scoring.classes.confusion import score_classes
from ..task import RunData
from .task import MaskTask
from .validate import count_validation_classes

COLUMNS = ("mIoU", "mIoU_fg", "mDice_fg", "accuracy")  # of the printed table
WORST = 3  # classes with the lowest IoU that the table names


class ClassTask(MaskTask):
    """Implements `Task`: pairs of images and masks with the classes of the recipe, and scores of each class."""

    best_metric = "mIoU_fg"

    def __init__(self, family: Family, recipe: Recipe, data: RunData):
        super().__init__(family, recipe, data)
        assert recipe.classes is not None
        self.classes = recipe.classes
        self.metrics = define_class_columns(self.classes.names)

    def choose_checked(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Returns all pairs if the weights or the choice of validation images need the pixels of all masks."""
        needs_all = self.data.val_fraction or self.recipe.class_weights == ("inverse",)
        return pairs if needs_all else super().choose_checked(pairs)

    def use_class_counts(self, counts: Sequence[np.ndarray]) -> None:
        """Moves images so that training and validation have every class, and computes the class weights."""
        recipe, in_training = self.recipe, counts[0]
        if self.data.val_fraction:
            pairs, both = [*self.pairs, *self.held_out], np.concatenate(counts)
            held_out = keep_all_classes(range(len(self.pairs), len(pairs)), both)
            warn_missing_classes(held_out, both, self.classes)
            self.held_out = [pairs[i] for i in held_out]
            self.pairs = [pair for i, pair in enumerate(pairs) if i not in set(held_out)]
            in_training = np.delete(both, held_out, axis=0)
        if recipe.class_weights == ("none",):
            self.recipe = replace(recipe, class_weights=())
        elif recipe.class_weights == ("inverse",):
            weights = inverse_weights(in_training, self.classes)
            self.recipe = replace(recipe, class_weights=tuple(f"{weight:.6g}" for weight in weights))

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        counts = count_validation_classes(model, self.held_out, self.recipe.size, self.classes, processes)
        return score_classes(counts, self.classes.names)

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        lines = [f"{'validation':<12}" + "".join(f"{key:>10}" for key in COLUMNS) + "  lowest IoU"]
        for epoch, row in sorted(scores.items()):
            iou = {name: value for name in self.classes.names if np.isfinite(value := row[f"IoU_{name}"])}
            worst = ", ".join(f"{name} {iou[name]:.3f}" for name in sorted(iou, key=iou.__getitem__)[:WORST])
            lines.append(f"{f'epoch {epoch}':<12}" + "".join(f"{row[key]:>10.4f}" for key in COLUMNS) + f"  {worst}")
        return "\n".join(lines)
