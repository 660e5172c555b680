"""Finds the settings that a model was trained with: input side, colour order, mask prompts and more.

They are a `Recipe`, from the first of these places that has one: the metadata of a .safetensors file, recipe.yaml
beside the checkpoint, config.json of a folder for the Hugging Face hub, the released recipe of the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import UserError, warn_once
from ..recipe import Recipe
from ..weights.hub import read_hub_recipe
from .table import find_family_of

if TYPE_CHECKING:
    from .load import Checkpoint


def get_settings(model: nn.Module) -> Recipe:
    """Returns `model.recipe`, or the released recipe if the model was built without it."""
    return getattr(model, "recipe", None) or Recipe.read(model=find_family_of(model).name)


def set_settings_(model: Any, recipe: Recipe) -> None:
    """Stores the settings in the model, see `get_settings`."""
    model.recipe = recipe


def find_recipe(checkpoint: Checkpoint, **flags: Any) -> Recipe:
    """Returns the recipe of a checkpoint. Flags that are not None replace its values.

    Warns if the input side is a guess: the file was written by this project, without a recipe, and neither the weights
    nor a flag decide the side. A released checkpoint does not cause this warning, because the side of the released
    training is known. The released scripts save the ordered dictionary of `model.state_dict()`, this project saves a
    plain one.
    """
    path, text = locate_recipe(checkpoint) or (None, None)
    flags = {name: value for name, value in flags.items() if value is not None}
    flags = {"model": checkpoint.family.name} | checkpoint.shape.to_dict() | flags
    recipe = Recipe.read(path, text, **flags)
    beside = checkpoint.path.parent / "recipe.yaml"
    if path is None and checkpoint.is_own and "size" not in flags and not beside.exists():
        warn_once(
            f"{checkpoint.path} has no recipe.yaml beside it; size {recipe.size} is used, the released one; "
            "give --size if it was trained at another"
        )
    return recipe


def locate_recipe(checkpoint: Checkpoint) -> tuple[Path, str | None] | None:
    """Returns the file with the recipe of a checkpoint, and its text if the file holds more. None: there is no recipe.

    Warns about a recipe that is not of this checkpoint.
    """
    beside = checkpoint.path.parent / "recipe.yaml"
    recipes: list[tuple[Path, str | None, str]] = []
    if checkpoint.recipe_text is not None:
        recipes.append((checkpoint.path, checkpoint.recipe_text, f"the recipe inside {checkpoint.path}"))
    if beside.is_file():
        recipes.append((beside, None, f"{beside} beside the checkpoint"))
    for path, text, name in recipes:
        if not (reason := explain_mismatch(path, text, checkpoint)):
            return path, text
        warn_once(f"{name} is not used: {reason}; the settings are the released ones and your flags")
    return read_hub_recipe(checkpoint.path)


def explain_mismatch(path: Path, text: str | None, checkpoint: Checkpoint) -> str:
    """Returns in words why a recipe is not of this checkpoint; an empty string if it is."""
    try:
        recipe = Recipe.read(path, text)
    except UserError as e:
        return f"it is not of this project ({str(e).removeprefix(f'{path}: ').split(';')[0]})"
    if recipe.model != checkpoint.family.name:
        return f"it is for {recipe.model}, the checkpoint is {checkpoint.family.name}"
    for option, value in checkpoint.shape.to_dict().items():
        if getattr(recipe, option) not in (None, value):
            return f"its {option} is {getattr(recipe, option)}, that of the checkpoint is {value}"
    return ""
