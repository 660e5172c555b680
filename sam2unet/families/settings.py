"""The settings that a checkpoint was trained with: from the recipe beside it, or the released recipe."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..errors import UserError, warn_once
from ..recipe import Recipe
from ..weights.hub import read_hub_size
from .load import Checkpoint
from .table import find_family_of


def get_settings(model: nn.Module) -> Recipe:
    """Returns `model.recipe`, or the released recipe if the model was built without it."""
    return getattr(model, "recipe", None) or Recipe.read(model=find_family_of(model).name)


def find_trained_size(found: Checkpoint) -> int:
    """What `recipe.yaml` beside a checkpoint of ours says, or the hub's configuration; else the released size."""
    if found.shape.size is not None:
        return found.shape.size
    if find_recipe_file(found) is None and (size := read_hub_size(found.path)):
        return size
    return find_recipe(found).size


def find_recipe(found: Checkpoint, **flags: object) -> Recipe:
    """The run's `recipe.yaml` beside a checkpoint, else the model's released recipe; flags that are not None win."""
    path = find_recipe_file(found)
    return Recipe.read(model=found.family.name, **flags) if path is None else Recipe.read(path, **flags)


def find_recipe_file(found: Checkpoint) -> Path | None:
    """`recipe.yaml` beside a checkpoint if it is of this model and of the same shape. Warns once about any other."""
    path = found.path.parent / "recipe.yaml"
    if not path.is_file():
        return None
    try:
        recipe = Recipe.read(path)
    except UserError as e:
        why = f"it is not of this project ({str(e).removeprefix(f'{path}: ').split(';')[0]})"
    else:
        why = describe_recipe_mismatch(recipe, found)
    if why:
        warn_once(f"{path} beside the checkpoint is not used: {why}; the settings are the released ones and your flags")
    return None if why else path


def describe_recipe_mismatch(recipe: Recipe, found: Checkpoint) -> str:
    """In what a recipe is not of the checkpoint's model and shape, in words; empty if in nothing."""
    if recipe.model != found.family.name:
        return f"it is for {recipe.model}, the checkpoint is {found.family.name}"
    for option, size in found.shape.to_dict().items():
        value = getattr(recipe, option)
        if value not in (None, size):
            return f"its {option} is {value}, that of the checkpoint is {size}"
    return ""
