"""Says in words how good the maps of held-out images are, and what the user can do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.images.masks import FOREGROUND, read_mask
from ..data.pairs import Pair
from ..errors import shortlist
from ..recipe import ForegroundRule
from ..runtime.parallel import map_files
from ..scoring.compare import bootstrap_intervals
from .plan import SIDES, Plan

GRID = 128  # side in pixels of the median mask
FEW = 20  # with fewer images, an interval is too narrow


class MapFacts(NamedTuple):
    """The errors of one image: means over its pixels, in [0, 1]. A map holds probabilities that are not stretched."""

    pair: Pair
    error: float  # mean absolute error of the map
    empty_error: float  # of a black map, or of a white one if most of all masks is foreground
    median_error: float  # of the median mask of the training images
    wrong: float  # share of the pixels that are on the wrong side of the threshold
    dice: float  # of the pixels above the threshold; 1 if map and mask are both empty
    top: float  # the highest probability


@dataclass(frozen=True)
class Judgement:
    """The errors of all held-out images."""

    images: Sequence[MapFacts]
    constant: str  # what the constant map is in words
    level: int  # grey level of a map; a pixel above it is the object

    @property
    def threshold(self) -> float:
        """The probability above which a pixel is the object, as `test.py --threshold` takes it."""
        return round((self.level + 0.5) / 255, 3)

    def mean(self, name: str) -> float:
        return float(np.mean([getattr(image, name) for image in self.images]))

    @property
    def is_better(self) -> bool:
        """Whether fewer pixels are wrong than in the constant map."""
        return self.mean("wrong") < self.mean("empty_error")

    @property
    def objectless(self) -> list[MapFacts]:
        """The images in whose maps no pixel is above the threshold."""
        return [image for image in self.images if image.top <= self.threshold]

    def sort(self) -> list[MapFacts]:
        """Returns the images, the worst first."""
        return sorted(self.images, key=lambda image: (image.dice, -image.error))

    def describe(self) -> list[str]:
        """Returns the result in sentences, each one line."""
        lines = [self.compare("empty_error", self.constant)]
        lines.append(self.compare("median_error", "the median mask of the training images"))
        lines.append(
            f"The overlap with the masks (Dice) is {self.mean('dice'):.2f}, where 1 is perfect. The mean absolute "
            f"error of the probabilities (MAE) is {self.mean('error'):.3f}, where 0 is perfect."
        )
        lines.append(f"A pixel is the object if its probability is above {self.threshold:.2f}.")
        if self.objectless:
            names = shortlist([image.pair.image.name for image in self.objectless])
            count = f"{len(self.objectless)} of {len(self.images)} images"
            lines.append(f"No object above {self.threshold:.2f} in {count}: {names}.")
        if len(self.images) < FEW:
            lines.append(f"{len(self.images)} images are few. With other images, these numbers can differ much.")
        return lines

    def compare(self, name: str, words: str) -> str:
        """Returns the difference between the maps at the threshold and one of the simple masks, in words."""
        ours, other = self.mean("wrong"), self.mean(name)
        if ours == other:
            return f"The maps are as good as {words}: {ours:.1%} of the pixels are wrong in both."
        deltas = np.array([[getattr(image, name) - image.wrong] for image in self.images])
        low, high = (float(bound[0]) for bound in bootstrap_intervals(deltas))
        verdict = "better than" if ours < other else "worse than"
        change = f", {abs(ours / other - 1):.0%} {'less' if ours < other else 'more'}" if other else ""
        chance = "" if not low <= 0 <= high else ". This difference may be chance"
        wins = int((deltas > 0).sum())
        return (
            f"The maps are {verdict} {words}: {ours:.1%} of the pixels are wrong instead of {other:.1%}{change}"
            f"{chance}. They are better on {wins} of {len(deltas)} images."
        )


def judge_maps(pairs: Sequence[Pair], maps: Path, train: Sequence[Pair], rule: ForegroundRule, level: int) -> Judgement:
    """Compares maps of probabilities, 8-bit PNG files with the stems of the images, with the masks.

    A pixel above the grey level `level` is the object.

    Raises UserError if a mask cannot be read.
    """
    median = compute_median_mask(train, rule)

    def measure(pair: Pair) -> MapFacts:
        mask = read_mask(pair.mask, rule)
        truth = np.asarray(mask) > FOREGROUND
        with Image.open(maps / f"{pair.image.stem}.png") as file:
            grey = np.asarray(file.convert("L"))
        predicted, typical = grey > level, np.asarray(median.resize(mask.size, Image.Resampling.NEAREST)) > 0
        both, total = (predicted & truth).sum(), predicted.sum() + truth.sum()
        error = np.where(truth, 255 - grey, grey).mean() / 255
        numbers = (error, truth.mean(), (typical != truth).mean(), (predicted != truth).mean())
        dice = 2 * both / total if total else 1.0
        return MapFacts(pair, *map(float, (*numbers, dice, grey.max() / 255)))

    images = map_files(measure, pairs)
    if np.mean([image.empty_error for image in images]) <= 0.5:
        return Judgement(images, "predicting nothing", level)
    white = [image._replace(empty_error=1 - image.empty_error) for image in images]
    return Judgement(white, "predicting the object everywhere", level)


def compute_median_mask(pairs: Sequence[Pair], rule: ForegroundRule) -> Image.Image:
    """Returns a square mask, mode L: 255 where most masks have their foreground, and 0 elsewhere."""

    def read(pair: Pair) -> np.ndarray:
        small = read_mask(pair.mask, rule).resize((GRID, GRID), Image.Resampling.BOX)
        return np.asarray(small) > FOREGROUND

    share = np.mean(map_files(read, pairs), axis=0)
    return Image.fromarray((share > 0.5).view(np.uint8) * 255)


def advise(plan: Plan, judgement: Judgement, best_epoch: int | None) -> list[str]:
    """Returns what the user can do to get better maps, the most useful first. Each is one line."""
    lines = []
    if not plan.pretrained:
        lines.append(
            "Use pretrained weights, which usually help most. Add --hiera_path sam2.1_hiera_tiny (or "
            "sam2.1_hiera_large): the file is downloaded once. sam2unet weights list shows all names."
        )
    lines.append(
        "Add images with masks, above all of the kind of the worst images. docs/questions.md has results with 123, 244 "
        "and more images."
    )
    if plan.can_be_longer and (best_epoch is None or best_epoch > 0.8 * plan.epoch):
        reason = "" if best_epoch is None else " The last checkpoints were the best ones."
        lines.append(f"Train longer: --minutes {2 * plan.minutes:g}.{reason}")
    if plan.size < SIDES[-1]:
        side, minutes = plan.estimate_larger()
        lines.append(
            f"Train with larger images, which show small objects and thin parts. About --minutes {minutes} on this "
            f"computer lead to {side}x{side} pixels."
        )
    if judgement.objectless:
        lines.append("Look at the masks of the images without an object. sam2unet check draws them.")
    lines.append("Give a new run another --save_path.")
    return lines
