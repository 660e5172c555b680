"""From a checkpoint of any kind to what predicts with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Recipe
from ..families import load_model
from .maps import Averaging, Predictor, Tile


@dataclass(frozen=True)
class Way:
    """How maps are computed; the defaults are the released way.

    Attributes:
        size: input side; None for the one that the checkpoint was trained at, as far as it says, else 352.
        amp: off, bf16 or fp16.
        fold: put BatchNorm into the convolutions before it, the same but for rounding.
        compile: let PyTorch fuse operations, the same but for rounding.
    """

    size: int | None = None
    amp: str = "off"
    averaging: Averaging = Averaging()
    tile: Tile | None = None
    fold: bool = False
    compile: bool = False


def open_predictor(
    checkpoint: Path, device: torch.device, hiera_path: Path | None = None, way: Way = Way()
) -> Predictor:
    """UserError for a file of another kind or a size that the model cannot take."""
    size = way.size or trained_size(checkpoint)
    options = {"amp": way.amp, "averaging": way.averaging, "tile": way.tile}
    model = load_model(checkpoint, device, hiera_path)
    return Predictor.of(model, size, **options)


def trained_size(checkpoint: Path) -> int:
    """What `recipe.yaml` beside a checkpoint of ours says; else the released default."""
    recipe = checkpoint.parent / "recipe.yaml"
    return Recipe.read(recipe).size if recipe.is_file() else Recipe.size
