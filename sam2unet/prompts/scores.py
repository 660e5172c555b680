"""Answers to prompts for known masks, and how well they fit: the released test, with an image encoded once."""

from __future__ import annotations

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
from ..models.sam_med2d import SAMMed2D, resize_logits, select_best
from ..runtime.device import autocast, check_output, evaluation_copy
from ..runtime.parallel import prefetch
from ..runtime.processes import Processes
from .clicks import Points, draw_error_points, draw_first_points, find_box
from .framing import Frame, Framing, normalise_square
from .lists import Prompts
from .step import to_mask_prompt

READERS = 2


class PromptMode(NamedTuple):
    """How a mask is asked for: by its box; by points at once; or by a first point and clicks that correct the answer.

    Attributes:
        points: how many, without a box.
        rounds: answers; each after the first sees one more click, where the one before is wrong, and that answer.
    """

    box: bool = False
    points: int = 1
    rounds: int = 1

    @property
    def title(self) -> str:
        if self.box:
            return "box"
        if self.rounds > 1:
            return f"{self.rounds} clicks"
        return f"{self.points} pt{'s' * (self.points > 1)}"

    @property
    def folder(self) -> str:
        """Of its masks."""
        kind = f"iter{self.rounds}" if self.rounds > 1 else f"points{self.points}"
        return f"{'boxes' if self.box else kind}_prompt"


BOX = PromptMode(box=True)
PAPER = (BOX, PromptMode(points=1), PromptMode(points=3), PromptMode(points=5))  # the columns of the published table


@dataclass(frozen=True)
class PromptTestOptions:
    """
    Attributes:
        seed: of the points drawn.
        multimask: take the best of three masks, else the fourth, as in training.
        mask_prompt: how an answer is a prompt for the next, as in the recipe.
        at_once: masks of an image decoded together.
        given: of a way, the first prompts by the pair's place, in place of drawn ones.
        skip_bad: warn of what cannot be read and go on.
    """

    seed: int = 0
    multimask: bool = True
    mask_prompt: str = "probability"
    amp: str = "off"
    at_once: int = 16
    given: Mapping[PromptMode, Mapping[int, Prompts]] = field(default_factory=dict)
    skip_bad: bool = False


class Answer(NamedTuple):
    """To one mask asked for in one way.

    Attributes:
        place: of the mask in the list of pairs.
        prompts: the first ones.
        logits: (1, height, width), the image's own size.
        quality: the IoU that the model expects.
        loss: the training's, at the image's own size.
    """

    place: int
    way: PromptMode
    prompts: Prompts
    logits: Tensor
    iou: float
    dice: float
    quality: float
    loss: float


@torch.inference_mode()
def answer_all(
    model: SAMMed2D,
    pairs: Sequence[Pair],
    ways: Sequence[PromptMode],
    framing: Framing,
    asking: PromptTestOptions = PromptTestOptions(),
    places: Sequence[int] | None = None,
) -> Iterator[Answer]:
    """Of all pairs, or of those at `places`, image by image, in every way.

    An answer depends on the seed, the pair's place and the way alone. UserError, naming the file, for what cannot be
    read or is no mask of the image.
    """

    def read(places: Sequence[int]) -> ImageGroup | UserError:
        try:
            return read_group(pairs, places, framing)
        except UserError as e:
            return e

    groups = group_by_image(pairs, asking.at_once, places)
    device = model.prompt_encoder.no_mask_embed.weight.device
    image = None
    model = evaluation_copy(model)
    with ThreadPoolExecutor(READERS) as pool:
        for found in prefetch(pool, read, groups, 2 * READERS):
            if isinstance(found, UserError):
                if not asking.skip_bad:
                    raise found
                warn(f"left out: {found}")
                continue
            if pairs[found.places[0]].image != image:
                image = pairs[found.places[0]].image
                with autocast(device, asking.amp):
                    embedding = model.image_encoder(normalise_square(found.square.to(device), [found.frame]))
                check_output(embedding, asking.amp, image)
            for way in ways:
                yield from answer_image(model, found, embedding, way, asking)


def answer_image(
    model: SAMMed2D, found: ImageGroup, embedding: Tensor, way: PromptMode, asking: PromptTestOptions
) -> Iterator[Answer]:
    if way in asking.given:
        prompts = [asking.given[way][place] for place in found.places]
    else:
        masks = zip(found.labels, found.places, strict=True)
        prompts = [draw_prompts(label, place, way.points, asking.seed) for label, place in masks]
    labels = found.labels.to(embedding.device)
    with autocast(embedding.device, asking.amp):
        low, quality = run_rounds(model, embedding, join_prompts(prompts), labels, way, asking, found.places)
    check_output(low, asking.amp)
    logits, wholes = found.frame.restore(low.float()), found.wholes.to(low.device)
    ious, dices = (scores.cpu() for scores in iou_and_dice(logits, wholes))
    for number, place in enumerate(found.places):
        one = slice(number, number + 1)
        loss = sum(prompt_losses(logits[one], wholes[one], quality[one].float()).values())
        yield Answer(
            place,
            way,
            prompts[number],
            logits[number],
            ious[number].item(),
            dices[number].item(),
            quality[number, 0].item(),
            loss.item(),
        )


def run_rounds(
    model: SAMMed2D,
    embedding: Tensor,
    prompts: Prompts,
    labels: Tensor,
    way: PromptMode,
    asking: PromptTestOptions,
    places: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The last round's logits (K, 1, 4g, 4g) and expected IoU (K, 1)."""
    device, count = embedding.device, len(labels)
    embedding = embedding.expand(count, -1, -1, -1)
    points = Points(*(part.to(device) for part in prompts.points))
    first = {"boxes": prompts.boxes.to(device)} if way.box else {"points": points}
    low, quality = select_best(*model.decode(embedding, **first, multimask=asking.multimask))
    draws = [make_generator(asking.seed, place, CLICKS) for place in places]
    for _ in range(way.rounds - 1):
        square = resize_logits(low, labels.shape[-2:])
        clicks = [draw_error_points(square[i : i + 1], labels[i : i + 1], 1, draw) for i, draw in enumerate(draws)]
        points = points.joined(Points(*(torch.cat(parts) for parts in zip(*clicks, strict=True))))
        masks = to_mask_prompt(low, asking.mask_prompt)
        low, quality = select_best(*model.decode(embedding, points, masks=masks, multimask=asking.multimask))
    return low, quality


def gather_answers(processes: Processes, found: Iterable[Answer]) -> list[Answer]:
    """Every process's answers in the order of the list; a UserError that one meets on the way is raised in all."""
    error, own = None, []
    try:
        own.extend(found)
    except UserError as e:
        error = str(e)
    parts = processes.gather((error, own))
    if errors := [error for error, _ in parts if error]:
        raise UserError(errors[0])
    return sorted((one for _, part in parts for one in part), key=lambda one: one.place)


def compute_means(found: Sequence[Answer]) -> dict[PromptMode, dict[str, float]]:
    """Of each way the means over masks, under `Dice`, `IoU` and `loss`, and their number, `masks`.

    Dice and IoU of each mask are rounded to 4 decimals before, as released.
    """
    by_way: dict[PromptMode, list[Answer]] = {}
    for one in found:
        by_way.setdefault(one.way, []).append(one)
    return {
        way: {
            "masks": len(some),
            "Dice": sum(round(one.dice, 4) for one in some) / len(some),
            "IoU": sum(round(one.iou, 4) for one in some) / len(some),
            "loss": sum(one.loss for one in some) / len(some),
        }
        for way, some in by_way.items()
    }


def format_means(means: Mapping[PromptMode, Mapping[str, float]]) -> str:
    """A line per way."""
    lines = [f"{'prompt':<10}{'masks':>8}{'Dice':>9}{'IoU':>9}{'loss':>9}"]
    lines += [
        f"{way.title:<10}{row['masks']:>8}{row['Dice']:>9.4f}{row['IoU']:>9.4f}{row['loss']:>9.4f}"
        for way, row in means.items()
    ]
    return "\n".join(lines)


FIRST, CLICKS = 1, 2  # in keys: streams of the first points, and of later clicks


class ImageGroup(NamedTuple):
    """An image and K of its masks.

    Attributes:
        square: uint8 (1, 3, S, S), not normalised.
        labels: float32 (K, 1, S, S), 0 or 1.
        wholes: float32 (K, 1, height, width), the same in the image's own size.
        places: of the masks in the list of pairs.
    """

    square: Tensor
    frame: Frame
    labels: Tensor
    wholes: Tensor
    places: tuple[int, ...]


def group_by_image(pairs: Sequence[Pair], most: int, places: Sequence[int] | None = None) -> list[list[int]]:
    """`places`, or all, by image, in the order in which the images come first; at most so many together."""
    by_image: dict[object, list[int]] = {}
    for place in range(len(pairs)) if places is None else places:
        by_image.setdefault(pairs[place].image, []).append(place)
    return [places[i : i + most] for places in by_image.values() for i in range(0, len(places), most)]


def read_group(pairs: Sequence[Pair], places: Sequence[int], framing: Framing) -> ImageGroup:
    """UserError, naming the file, for what cannot be read or is no mask of the image."""
    square, frame = framing.image(pairs[places[0]].image)
    labels, wholes = zip(*(framing.label(pairs[place].mask, frame, strict=True) for place in places), strict=True)
    labels, wholes = (torch.from_numpy(np.stack(masks)[:, None]).float() for masks in (labels, wholes))
    return ImageGroup(square[None], frame, labels, wholes, tuple(places))


def draw_prompts(label: Tensor, place: int, points: int, seed: int) -> Prompts:
    """The box of a mask (1, S, S) as it is, and points that depend on the seed and its place in the list alone."""
    mask = label > 0.5
    box = torch.from_numpy(find_box(mask[0].numpy()))
    return Prompts(box[None], draw_first_points(mask, points, make_generator(seed, place, FIRST)))


def join_prompts(prompts: Sequence[Prompts]) -> Prompts:
    """Of K masks with as many points each: boxes (K, 4), points (K, N, 2) and (K, N)."""
    boxes, points = zip(*prompts, strict=True)
    return Prompts(torch.cat(boxes), Points(*(torch.cat(parts) for parts in zip(*points, strict=True))))


def iou_and_dice(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and Dice of each item in double precision, (B,) and (B,); 1 where both masks are empty.

    The released test rounds each item's to 4 decimals before it averages over items.

    Args:
        logits, mask: (B, 1, H, W); an object is where the logit is above 0, where the mask is not 0. Unlike the
            released code this takes no probabilities, which it told from logits by their smallest value alone.
    """
    found, wanted = logits.flatten(1) > 0, mask.flatten(1) > 0
    both = (found & wanted).sum(1).double()
    areas = (found.sum(1) + wanted.sum(1)).double()
    return (both + 1e-7) / (areas - both + 1e-7), (2 * both + 1e-7) / (areas + 1e-7)
