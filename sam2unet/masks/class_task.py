"""The training task of models that predict one map with several classes."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from ..families.table import Family
from ..recipe import Recipe
from ..runtime.processes import Processes
from ..scoring.classes.confusion import name_class_columns, score_classes
from ..scoring.columns import Metric
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
        columns = name_class_columns(recipe.classes.names)
        self.metrics = {key: Metric(key, "") for key in columns}

    def validate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        recipe = self.recipe
        counts = count_validation_classes(model, self.held_out, recipe.size, recipe.classes, processes)
        return score_classes(counts, recipe.classes.names)

    def table(self, scores: Mapping[int, Mapping[str, float]]) -> str:
        lines = [f"{'validation':<12}" + "".join(f"{key:>10}" for key in COLUMNS) + "  lowest IoU"]
        for epoch, row in sorted(scores.items()):
            iou = {name: value for name in self.recipe.classes.names if np.isfinite(value := row[f"IoU_{name}"])}
            worst = ", ".join(f"{name} {iou[name]:.3f}" for name in sorted(iou, key=iou.get)[:WORST])
            lines.append(f"{f'epoch {epoch}':<12}" + "".join(f"{row[key]:>10.4f}" for key in COLUMNS) + f"  {worst}")
        return "\n".join(lines)
