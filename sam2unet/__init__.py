"""Segment Anything 2 adapted to binary segmentation: SAM2-UNet, trained, run and scored."""

import importlib
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .data.transforms import load_pair
    from .engine.predict import predict, predict_many
    from .engine.prompter import Prompter
    from .families import create_model, list_models, load_model
    from .losses import structure_loss

__all__ = [
    "Prompter",
    "UserError",
    "create_model",
    "list_models",
    "load_model",
    "load_pair",
    "predict",
    "predict_many",
    "structure_loss",
]

# Imported on first use: scoring needs no torch, which takes seconds to load.
HOMES = {"load_pair": "data.transforms", "structure_loss": "losses"}
HOMES |= dict.fromkeys(("predict", "predict_many"), "engine.predict")
HOMES["Prompter"] = "engine.prompter"
HOMES |= dict.fromkeys(("create_model", "list_models", "load_model"), "families")


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)
