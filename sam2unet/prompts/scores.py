"""Answers to prompts for known masks, and how well they fit: the released test, with an image encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batches import generator_of
from ..data.clicks import Points, error_points
from ..data.framing import Framing, normalised
from ..data.pairs import Pair
from ..data.prompt_files import Prompts
from ..data.prompt_test import CLICKS, TestImage, drawn, groups_of, joined, read_group
from ..errors import UserError, warn
from ..losses import prompt_losses
from ..models.sam_med2d import SAMMed2D, best, stretched
from ..overlap import overlap
from ..steps import as_mask_prompt
from .maps import check_output
from .predict import evaluation_copy
from .processes import Processes
from .runtime import ahead
from .speed import autocast

READERS = 2


class Way(NamedTuple):
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


BOX = Way(box=True)
PAPER = (BOX, Way(points=1), Way(points=3), Way(points=5))  # the columns of the published table


@dataclass(frozen=True)
class Asking:
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
    given: Mapping[Way, Mapping[int, Prompts]] = field(default_factory=dict)
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
    way: Way
    prompts: Prompts
    logits: Tensor
    iou: float
    dice: float
    quality: float
    loss: float


@torch.inference_mode()
def answers(
    model: SAMMed2D,
    pairs: Sequence[Pair],
    ways: Sequence[Way],
    framing: Framing,
    asking: Asking = Asking(),
    places: Sequence[int] | None = None,
) -> Iterator[Answer]:
    """Of all pairs, or of those at `places`, image by image, in every way.

    An answer depends on the seed, the pair's place and the way alone. UserError, naming the file, for what cannot be
    read or is no mask of the image.
    """

    def read(places: Sequence[int]) -> TestImage | UserError:
        try:
            return read_group(pairs, places, framing)
        except UserError as e:
            return e

    groups = groups_of(pairs, asking.at_once, places)
    device = model.prompt_encoder.no_mask_embed.weight.device
    image = None
    model = evaluation_copy(model)
    with ThreadPoolExecutor(READERS) as pool:
        for found in ahead(pool, read, groups, 2 * READERS):
            if isinstance(found, UserError):
                if not asking.skip_bad:
                    raise found
                warn(f"left out: {found}")
                continue
            if pairs[found.places[0]].image != image:
                image = pairs[found.places[0]].image
                with autocast(device, asking.amp):
                    embedding = model.image_encoder(normalised(found.square.to(device), [found.frame]))
                check_output(embedding, asking.amp, image)
            for way in ways:
                yield from answered(model, found, embedding, way, asking)


def answered(model: SAMMed2D, found: TestImage, embedding: Tensor, way: Way, asking: Asking) -> Iterator[Answer]:
    if way in asking.given:
        prompts = [asking.given[way][place] for place in found.places]
    else:
        masks = zip(found.labels, found.places, strict=True)
        prompts = [drawn(label, place, way.points, asking.seed) for label, place in masks]
    labels = found.labels.to(embedding.device)
    with autocast(embedding.device, asking.amp):
        low, quality = asked(model, embedding, joined(prompts), labels, way, asking, found.places)
    check_output(low, asking.amp)
    logits, wholes = found.frame.restore(low.float()), found.wholes.to(low.device)
    ious, dices = (scores.cpu() for scores in overlap(logits, wholes))
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


def asked(
    model: SAMMed2D,
    embedding: Tensor,
    prompts: Prompts,
    labels: Tensor,
    way: Way,
    asking: Asking,
    places: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The last round's logits (K, 1, 4g, 4g) and expected IoU (K, 1)."""
    device, count = embedding.device, len(labels)
    embedding = embedding.expand(count, -1, -1, -1)
    points = Points(*(part.to(device) for part in prompts.points))
    first = {"boxes": prompts.boxes.to(device)} if way.box else {"points": points}
    low, quality = best(*model.decode(embedding, **first, multimask=asking.multimask))
    draws = [generator_of(asking.seed, place, CLICKS) for place in places]
    for _ in range(way.rounds - 1):
        square = stretched(low, labels.shape[-2:])
        clicks = [error_points(square[i : i + 1], labels[i : i + 1], 1, draw) for i, draw in enumerate(draws)]
        points = points.joined(Points(*(torch.cat(parts) for parts in zip(*clicks, strict=True))))
        masks = as_mask_prompt(low, asking.mask_prompt)
        low, quality = best(*model.decode(embedding, points, masks=masks, multimask=asking.multimask))
    return low, quality


def together(processes: Processes, found: Iterable[Answer]) -> list[Answer]:
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


def means_of(found: Sequence[Answer]) -> dict[Way, dict[str, float]]:
    """Of each way the means over masks, under `Dice`, `IoU` and `loss`, and their number, `masks`.

    Dice and IoU of each mask are rounded to 4 decimals before, as released.
    """
    by_way: dict[Way, list[Answer]] = {}
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


def table_of(means: Mapping[Way, Mapping[str, float]]) -> str:
    """A line per way."""
    lines = [f"{'prompt':<10}{'masks':>8}{'Dice':>9}{'IoU':>9}{'loss':>9}"]
    lines += [
        f"{way.title:<10}{row['masks']:>8}{row['Dice']:>9.4f}{row['IoU']:>9.4f}{row['loss']:>9.4f}"
        for way, row in means.items()
    ]
    return "\n".join(lines)
