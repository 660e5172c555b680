"""Segment Anything 2 adapted to binary segmentation: SAM2-UNet, trained, run and scored."""

import importlib
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .export.hub_models import from_pretrained, push_to_hub
    from .families.load import create_model, load_model
    from .families.table import list_models
    from .losses import structure_loss
    from .masks.api import predict, predict_many
    from .masks.transforms import load_pair
    from .prompts.prompter import Prompter
    from .scoring.pixels.surface import surface_scores

__version__ = "0.1.0"

__all__ = [
    "Prompter",
    "UserError",
    "create_model",
    "from_pretrained",
    "list_models",
    "load_model",
    "load_pair",
    "predict",
    "predict_many",
    "push_to_hub",
    "structure_loss",
    "surface_scores",
]

# Each public name is imported when it is first used. Scoring needs no torch, and importing torch takes seconds.
HOMES = {
    "Prompter": "prompts.prompter",
    "create_model": "families.load",
    "from_pretrained": "export.hub_models",
    "list_models": "families.table",
    "load_model": "families.load",
    "load_pair": "masks.transforms",
    "predict": "masks.api",
    "predict_many": "masks.api",
    "push_to_hub": "export.hub_models",
    "structure_loss": "losses",
    "surface_scores": "scoring.pixels.surface",
}


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)
