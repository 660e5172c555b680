"""The training steps of a model for prompts: from a batch to its losses."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from ..losses import prompt_losses
from ..models.sam_med2d import resize_logits, select_best
from ..recipe import Recipe
from .clicks import Points, draw_error_points, draw_rounds
from .dataset import PromptTensors


def prompt_step(model: nn.Module, batch: PromptTensors, recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """One step for everything that trains, from boxes or from points, then `iter_point` for the decoder alone.

    These correct the answer before: by clicks where it is wrong, with it as a mask prompt, on the same embedding of the
    image (arXiv 2308.16184, section 3.3; the order of things as released).
    """
    rounds = draw_rounds(batch.shared, recipe.iter_point, recipe.point_list)
    prompt = {"boxes": batch.boxes} if rounds.boxes else to_prompt(batch.points)
    found = model({"image": batch.images} | prompt, recipe.multimask)
    embedding = found["image_embeddings"].detach()
    low, full, losses = best_mask_and_losses(found, batch.labels)
    yield losses
    for count in rounds.points:
        prompt = {"image_embeddings": embedding, "mask_inputs": to_mask_prompt(low, recipe.mask_prompt)}
        if count:
            prompt |= to_prompt(draw_error_points(full, batch.labels, count, batch.own))
        low, full, losses = best_mask_and_losses(model(prompt, recipe.multimask), batch.labels)
        yield losses


def best_mask_and_losses(found: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Of each item the mask that the model holds for the best, (M, 1, 4g, 4g) and (M, 1, S, S), and its losses.

    The masks are without their gradient.
    """
    low, quality = select_best(found["low_res_logits"], found["iou_predictions"])
    full = resize_logits(low, labels.shape[-2:])
    return low.detach(), full.detach(), prompt_losses(full, labels, quality)


def to_prompt(points: Points) -> dict[str, Tensor]:
    return {"point_coords": points.coords, "point_labels": points.labels}


def to_mask_prompt(low: Tensor, kind: str) -> Tensor:
    """Logits as `mask_prompt` of a recipe says: `probability` as released, or `logits` as SAM has it."""
    return low.sigmoid() if kind == "probability" else low
