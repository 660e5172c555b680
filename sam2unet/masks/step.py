"""One training step of a model that predicts one map per image: from a batch to its losses."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..losses import class_loss, edge_weight, one_against_rest_loss, structure_loss
from ..recipe import Recipe

OUTPUTS = ("main", "side1", "side2")  # names of the outputs in logs


def mask_step(model: nn.Module, batch: tuple[Tensor, Tensor], recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """Yields the loss of every output of `model`. The trainer adds them with equal weight: deep supervision.

    Args:
        batch: normalised images (B, 3, S, S) and masks (B, 1, S, S), in [0, 1] or uint8 indices of classes.
    """
    images, masks = batch
    outputs = dict(zip(OUTPUTS, model(images), strict=False))
    weighted = recipe.loss == "weighted"
    if recipe.classes is None:
        weight = edge_weight(masks)
        yield {name: structure_loss(logits, masks, weighted, weight) for name, logits in outputs.items()}
        return
    weights = None
    if recipe.class_weights:
        weights = torch.tensor([float(weight) for weight in recipe.class_weights])
        weights = weights.to(images, non_blocking=images.is_cuda)
    if recipe.loss == "released":
        yield {name: class_loss(logits, masks, weights) for name, logits in outputs.items()}
    else:
        yield {name: one_against_rest_loss(logits, masks, weighted, weights) for name, logits in outputs.items()}
