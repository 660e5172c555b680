"""One training step of a model that predicts one map per image: from a batch to its losses."""

from collections.abc import Iterator

from torch import Tensor, nn

from ..losses import edge_weight, structure_loss
from ..recipe import Recipe

OUTPUTS = ("main", "side1", "side2")  # names of the outputs in logs


def mask_step(model: nn.Module, batch: tuple[Tensor, Tensor], recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """Yields the structure loss of every output of `model`. The trainer adds them with equal weight: deep supervision.

    Args:
        batch: normalised images (B, 3, S, S) and masks (B, 1, S, S) in [0, 1].
    """
    images, masks = batch
    weighted, weight = recipe.loss == "weighted", edge_weight(masks)
    outputs = zip(OUTPUTS, model(images), strict=False)
    yield {name: structure_loss(logits, masks, weighted, weight) for name, logits in outputs}
