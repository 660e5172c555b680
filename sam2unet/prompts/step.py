"""The training step of SAM-Med2D: from a batch to its losses."""

from collections.abc import Iterator

from torch import Tensor, nn

from ..losses import prompt_losses
from ..recipe import Recipe
from .clicks import Points, draw_error_points, draw_rounds
from .dataset import PromptTensors
from .rounds import RoundPrompt, run_rounds


def prompt_step(model: nn.Module, batch: PromptTensors, recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """Yields the named losses of each round of a batch. The trainer takes an optimizer step after each round.

    The first round prompts with boxes or points, and trains all parts that are not frozen. The next `iter_point` rounds
    correct the previous answer. They reuse the image embedding and train the mask decoder only (arXiv 2308.16184, 3.3).
    """
    rounds = draw_rounds(batch.shared, recipe.iter_point, recipe.point_list)
    image = {"image": batch.images}

    def decode(prompt: RoundPrompt) -> tuple[Tensor, Tensor]:
        nonlocal image
        output = model(image | name_inputs(prompt), recipe.multimask)
        image = {"image_embeddings": output["image_embeddings"].detach()}
        return output["low_res_logits"], output["iou_predictions"]

    def draw_clicks(logits: Tensor, count: int) -> Points:
        return draw_error_points(logits, batch.labels, count, batch.local)

    first = RoundPrompt(boxes=batch.boxes) if rounds.boxes else RoundPrompt(batch.points)
    side, mask_prompt = batch.labels.shape[-1], recipe.mask_prompt
    for answer in run_rounds(decode, first, rounds.points, draw_clicks, side, mask_prompt, keep_clicks=False):
        yield prompt_losses(answer.full, batch.labels, answer.quality)


def name_inputs(prompt: RoundPrompt) -> dict[str, Tensor]:
    """Returns a prompt under the names that `SAMMed2D.forward` takes."""
    coords, labels = prompt.points or (None, None)
    inputs = {"point_coords": coords, "point_labels": labels, "boxes": prompt.boxes, "mask_inputs": prompt.masks}
    return {name: value for name, value in inputs.items() if value is not None}
