"""From a checkpoint of any kind to what predicts with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..config import Recipe
from ..data.framing import Framing
from ..errors import UserError, print_line, warn_once
from ..families import Checkpoint, check_size, open_model, read_checkpoint
from ..hub import size_beside
from ..sources import NONE, Sources
from .inference import can_pack, filled_up, folded, halved, packed
from .maps import Averaging, Predictor, Tile
from .onnx_model import onnx_predictor
from .speed import can_compile, half_type


@dataclass(frozen=True)
class Way:
    """How maps are computed; the defaults are the released way.

    Attributes:
        size: input side; None for the one that the checkpoint was trained at, as far as it says, else the released one.
        amp: off, bf16 or fp16; auto is for `fast_way` to decide.
        fold: rearrange the model as `inference.folded` and, on a CPU, `inference.packed`: the same but for rounding.
        compile: let PyTorch fuse operations, the same but for rounding.
    """

    size: int | None = None
    amp: str = "off"
    averaging: Averaging = Averaging()
    tile: Tile | None = None
    fold: bool = False
    compile: bool = False


def read_any(path: Path) -> Path | Checkpoint:
    """A checkpoint read; the path of an .onnx as it is. UserError for a file of another kind."""
    if path.suffix == ".pt2":
        raise UserError(f"{path}: reading a .pt2 can run code; give the checkpoint, or an .onnx made of it")
    return path if path.suffix == ".onnx" else read_checkpoint(path)


def open_predictor(
    checkpoint: Path | Checkpoint, device: torch.device, sources: Sources = NONE, way: Way = Way()
) -> Predictor:
    """UserError for a file of another kind or a size that the model cannot take."""
    found = read_any(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    if isinstance(found, Path):
        return onnx_predictor(found, device, sources, way)
    size = trained_size(found) if way.size is None else way.size
    check_size(found.family, size)
    return predictor_of(open_model(found, sources, device), size, way)


def predictor_of(model: nn.Module, size: int, way: Way) -> Predictor:
    """For a model in evaluation mode, which is changed in place where `way` says so."""
    predictor = Predictor.of(model, size, amp=way.amp, averaging=way.averaging, tile=way.tile)
    if way.fold:
        folded(model)
    if way.amp != "off":
        halved(model, way.amp)
    if way.compile:
        model.compile(dynamic=False)
        predictor.forward = filled_up(predictor.forward)
    elif way.fold and can_pack(predictor.device, way.amp):
        packed(model)
    return predictor


def fast_way(device: torch.device, way: Way, batch_size: int | None) -> tuple[Way, int]:
    """`way` and `batch_size` with what suits the device turned on, after saying what that is."""
    amp = half_type(device) if way.amp == "auto" else way.amp
    way = replace(way, amp=amp, fold=True, compile=way.compile or can_compile(device))
    batch_size = batch_size or (32 if device.type == "cuda" else 1)
    also = "BatchNorm folded" + ", weights packed" * (can_pack(device, amp) and not way.compile)
    print_line(f"fast: --amp {amp}{' --compile' * way.compile} --batch_size {batch_size}; {also}")
    return way, batch_size


def trained_size(found: Checkpoint) -> int:
    """What `recipe.yaml` beside a checkpoint of ours says, or the hub's configuration; else the released size."""
    if "size" in found.sizes:
        return int(found.sizes["size"])
    if recipe_beside(found) is None and (size := size_beside(found.path)):
        return size
    return recipe_of(found).size


def trained_framing(found: Checkpoint) -> Framing:
    """How images became squares in the training of a model for prompts."""
    recipe = recipe_of(found)
    return Framing(recipe.size, rgb=recipe.rgb)


def recipe_of(found: Checkpoint, **flags: object) -> Recipe:
    """The run's `recipe.yaml` beside a checkpoint, else the model's released recipe; flags that are not None win."""
    path = recipe_beside(found)
    return Recipe.read(model=found.family.name, **flags) if path is None else Recipe.read(path, **flags)


def recipe_beside(found: Checkpoint) -> Path | None:
    """`recipe.yaml` beside a checkpoint if it is of this model and of the same shape. Warns once about any other."""
    path = found.path.parent / "recipe.yaml"
    if not path.is_file():
        return None
    try:
        recipe = Recipe.read(path)
    except UserError as e:
        why = f"it is not of this project ({str(e).removeprefix(f'{path}: ').split(';')[0]})"
    else:
        why = difference(recipe, found)
    if why:
        warn_once(f"{path} beside the checkpoint is not used: {why}; the settings are the released ones and your flags")
    return None if why else path


def difference(recipe: Recipe, found: Checkpoint) -> str:
    """In what a recipe is not of the checkpoint's model and shape, in words; empty if in nothing."""
    if recipe.model != found.family.name:
        return f"it is for {recipe.model}, the checkpoint is {found.family.name}"
    for option, size in found.sizes.items():
        value = getattr(recipe, option)
        if value is not None and str(value) != size:
            return f"its {option} is {value}, that of the checkpoint is {size}"
    return ""
