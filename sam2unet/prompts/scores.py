"""Predicts known masks from prompts and scores the answers, as the released test does. Encodes each image once.

Letters: K masks of one image, S side of the square, g side of the image embedding. `height` and `width` are those of
the image. Logits are before the sigmoid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.batches import make_generator
from ..data.pairs import Pair
from ..errors import UserError, warn
from ..losses import prompt_losses
from ..models.sam_med2d import SAMMed2D
from ..runtime.device import autocast, check_output, evaluation_copy
from ..runtime.parallel import prefetch
from ..runtime.processes import Processes
from .clicks import Points, draw_error_points, join_points
from .framing import Framing, normalise_square
from .groups import CLICKS, ImageGroup, draw_prompts, group_by_image, read_group
from .lists import BoxAndPoints
from .modes import PromptMode
from .rounds import RoundAnswer, RoundPrompt, run_rounds

READERS = 2


@dataclass(frozen=True)
class PromptTestOptions:
    """Options of the test."""

    seed: int = 0  # seeds the points
    # True: take the best of the last three masks of the decoder. False: take its first mask. The value of the training.
    multimask: bool = True
    mask_prompt: str = "probability"  # the form in which an answer becomes a prompt, as in the recipe
    amp: str = "off"  # the precision, as in `autocast`
    masks_per_batch: int = 16  # the number of masks that are decoded together
    # for a mode, the first prompts by the position of their mask in the list. Missing modes draw them.
    prompts: Mapping[PromptMode, Mapping[int, BoxAndPoints]] = field(default_factory=dict)
    skip_bad: bool = False  # warn about files that cannot be read, and continue


class Answer(NamedTuple):
    """The prediction for one mask in one mode, and its scores."""

    index: int  # type: ignore[assignment]  # the position of the mask in the list of pairs; hides `tuple.index`
    mode: PromptMode
    prompts: BoxAndPoints | None  # the prompts of the first round. None: not kept.
    logits: Tensor | None  # (1, height, width). None: not kept.
    # iou and dice: in [0, 1], at the original size
    iou: float
    dice: float
    quality: float  # the IoU that the model expects. It can leave [0, 1].
    loss: float  # the loss of the training, at the original size


@torch.inference_mode()
def answer_all(
    model: SAMMed2D,
    pairs: Sequence[Pair],
    modes: Sequence[PromptMode],
    framing: Framing,
    options: PromptTestOptions = PromptTestOptions(),
    indices: Sequence[int] | np.ndarray | None = None,
) -> Iterator[Answer]:
    """Yields the answers for all pairs, or for those at `indices`, image by image, in every mode.

    An answer depends only on the seed, the position of the pair, and the mode.
    """

    def read(indices: Sequence[int]) -> ImageGroup | UserError:
        try:
            return read_group(pairs, indices, framing, options.skip_bad)
        except UserError as e:
            return e

    groups = group_by_image(pairs, indices, limit=options.masks_per_batch)
    device = model.prompt_encoder.no_mask_embed.weight.device
    image, embedding = None, None
    model = evaluation_copy(model)
    with ThreadPoolExecutor(READERS) as pool:
        for group in prefetch(pool, read, groups, 2 * READERS):
            if isinstance(group, UserError):
                if not options.skip_bad:
                    raise group
                warn(f"left out: {group}")
                continue
            for problem in group.problems:
                warn(f"left out: {problem}")
            if embedding is None or pairs[group.indices[0]].image != image:
                image = pairs[group.indices[0]].image
                with autocast(device, options.amp):
                    embedding = model.image_encoder(normalise_square(group.square.to(device), [group.frame]))
                check_output(embedding, options.amp, image)
            for mode in modes:
                yield from answer_group(model, group, embedding, mode, options)


def answer_group(
    model: SAMMed2D, group: ImageGroup, embedding: Tensor, mode: PromptMode, options: PromptTestOptions
) -> Iterator[Answer]:
    """Yields the answers for the masks of an image with this embedding (1, 256, g, g)."""
    if mode in options.prompts:
        prompts = [options.prompts[mode][index] for index in group.indices]
    else:
        masks = zip(group.labels, group.indices, strict=True)
        prompts = [draw_prompts(label, index, mode.points, options.seed) for label, index in masks]
    with autocast(embedding.device, options.amp):
        answer = answer_last_round(model, group, embedding, prompts, mode, options)
    check_output(answer.low, options.amp)
    logits, originals = group.frame.restore(answer.low.float()), group.originals.to(embedding.device)
    ious, dices = iou_and_dice(logits, originals)
    for i, index in enumerate(group.indices):
        losses = prompt_losses(logits[i : i + 1], originals[i : i + 1], answer.quality[i : i + 1].float())
        scores = ious[i].item(), dices[i].item(), answer.quality[i, 0].item(), float(sum(losses.values()))
        yield Answer(index, mode, prompts[i], logits[i], *scores)


def answer_last_round(
    model: SAMMed2D,
    group: ImageGroup,
    embedding: Tensor,
    prompts: Sequence[BoxAndPoints],
    mode: PromptMode,
    options: PromptTestOptions,
) -> RoundAnswer:
    """Runs all rounds of a mode. The clicks of a mask depend only on the seed and its position in the list."""
    labels = group.labels.to(embedding.device)
    boxes = torch.cat([prompt.boxes for prompt in prompts]).to(embedding.device)
    coordinates, kinds = join_points([prompt.points for prompt in prompts])
    points = Points(coordinates.to(embedding.device), kinds.to(embedding.device))
    embedding = embedding.expand(len(labels), -1, -1, -1)
    generators = [make_generator(options.seed, index, CLICKS) for index in group.indices]

    def decode(prompt: RoundPrompt) -> tuple[Tensor, Tensor]:
        return model.decode(embedding, *prompt, multimask=options.multimask)

    def draw_clicks(logits: Tensor, count: int) -> Points:
        masks = zip(logits.split(1), labels.split(1), generators, strict=True)
        return join_points([draw_error_points(low, label, count, generator) for low, label, generator in masks])

    first = RoundPrompt(boxes=boxes) if mode.box else RoundPrompt(points)
    counts, side = (1,) * (mode.rounds - 1), labels.shape[-1]
    *_, last = run_rounds(decode, first, counts, draw_clicks, side, options.mask_prompt, keep_clicks=True)
    return last


def gather_answers(processes: Processes, answers: Iterable[Answer]) -> list[Answer]:
    """Returns the answers of all processes in the order of the list. A UserError of one is raised in all."""
    error = None
    local: list[Answer] = []
    try:
        local.extend(answers)
    except UserError as e:
        error = str(e)
    parts = processes.gather((error, local))
    if errors := [error for error, _ in parts if error]:
        raise UserError(errors[0])
    return sorted((answer for _, part in parts for answer in part), key=lambda answer: answer.index)


def compute_means(answers: Sequence[Answer]) -> dict[PromptMode, dict[str, float]]:
    """Returns the number of `masks` and the means of `Dice`, `IoU` and `loss` for each mode.

    Dice and IoU of each mask are first rounded to 4 decimals, as in the released test.
    """
    groups: dict[PromptMode, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.mode, []).append(answer)
    return {
        mode: average_answers(len(group), (a.dice for a in group), (a.iou for a in group), (a.loss for a in group))
        for mode, group in groups.items()
    }


def average_answers(count: int, dice: Iterable[float], iou: Iterable[float], loss: Iterable[float]) -> dict[str, float]:
    """Returns the row of `compute_means` for the scores of `count` answers in one mode, in the order of the list."""
    rounded = {name: sum(round(value, 4) for value in values) for name, values in (("Dice", dice), ("IoU", iou))}
    return {"masks": count} | {name: total / count for name, total in (rounded | {"loss": sum(loss)}).items()}


def format_means(means: Mapping[PromptMode, Mapping[str, float]]) -> str:
    """Returns a table with one line for each mode."""
    lines = [f"{'prompt':<10}{'masks':>8}{'Dice':>9}{'IoU':>9}{'loss':>9}"]
    lines += [
        f"{mode.title:<10}{row['masks']:>8}{row['Dice']:>9.4f}{row['IoU']:>9.4f}{row['loss']:>9.4f}"
        for mode, row in means.items()
    ]
    return "\n".join(lines)


def iou_and_dice(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Computes IoU and Dice of each item in double precision, (B,) and (B,), on the CPU. Both are 1 for empty masks.

    Logits and mask are (B, 1, H, W); values above 0 are foreground. The released code also takes probabilities, and
    uses the smallest value to decide which of the two it got.
    """
    predicted, truth = logits.flatten(1) > 0, mask.flatten(1) > 0
    overlap = (predicted & truth).sum(1).cpu().double()  # some devices have no float64
    total = (predicted.sum(1) + truth.sum(1)).cpu().double()
    return (overlap + 1e-7) / (total - overlap + 1e-7), (2 * overlap + 1e-7) / (total + 1e-7)
