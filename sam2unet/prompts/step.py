"""From a batch to losses."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from .config import Recipe
from .data.clicks import Points, error_points, training_rounds
from .data.prompts import PromptTensors
from .losses import edge_weight, prompt_losses, structure_loss
from .models.sam_med2d import best, stretched

OUTPUTS = ("main", "side1", "side2")  # what a mask model's outputs are called in logs


def mask_step(model: nn.Module, batch: tuple[Tensor, Tensor], recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """One step: the structure loss of every output of `model`, to be added up with equal weight (deep supervision).

    Args:
        batch: normalised images (B, 3, S, S) and masks (B, 1, S, S) in [0, 1].
    """
    images, masks = batch
    weighted, weight = recipe.loss == "weighted", edge_weight(masks)
    outputs = zip(OUTPUTS, model(images), strict=False)
    yield {name: structure_loss(logits, masks, weighted, weight) for name, logits in outputs}


def prompt_step(model: nn.Module, batch: PromptTensors, recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """One step for everything that trains, from boxes or from points, then `iter_point` for the decoder alone.

    These correct the answer before: by clicks where it is wrong, with it as a mask prompt, on the same embedding of the
    image (arXiv 2308.16184, section 3.3; the order of things as released).
    """
    rounds = training_rounds(batch.shared, recipe.iter_point, recipe.point_list)
    prompt = {"boxes": batch.boxes} if rounds.boxes else as_prompt(batch.points)
    found = model({"image": batch.images} | prompt, recipe.multimask)
    embedding = found["image_embeddings"].detach()
    low, full, losses = judged(found, batch.labels)
    yield losses
    for count in rounds.points:
        prompt = {"image_embeddings": embedding, "mask_inputs": as_mask_prompt(low, recipe.mask_prompt)}
        if count:
            prompt |= as_prompt(error_points(full, batch.labels, count, batch.own))
        low, full, losses = judged(model(prompt, recipe.multimask), batch.labels)
        yield losses


def judged(found: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Of each item the mask that the model holds for the best, (M, 1, 4g, 4g) and (M, 1, S, S), and its losses.

    The masks are without their gradient.
    """
    low, quality = best(found["low_res_logits"], found["iou_predictions"])
    full = stretched(low, labels.shape[-2:])
    return low.detach(), full.detach(), prompt_losses(full, labels, quality)


def as_prompt(points: Points) -> dict[str, Tensor]:
    return {"point_coords": points.coords, "point_labels": points.labels}


def as_mask_prompt(low: Tensor, kind: str) -> Tensor:
    """Logits as `mask_prompt` of a recipe says: `probability` as released, or `logits` as SAM has it."""
    return low.sigmoid() if kind == "probability" else low
