"""Segment Anything 2 adapted to binary segmentation: SAM2-UNet, trained, run and scored."""

from .data.transforms import load_pair
from .engine.predict import predict
from .errors import UserError
from .families import create_model, list_models, load_model
from .losses import structure_loss

__all__ = ["UserError", "create_model", "list_models", "load_model", "load_pair", "predict", "structure_loss"]
