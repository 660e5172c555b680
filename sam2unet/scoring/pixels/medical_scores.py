"""Scores of one pair of masks as medical papers report them: Dice, IoU and distances between surfaces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy import ndarray

from ...errors import UserError
from ...limits import check_numbers
from .surface import DISTANCES, SHARES, surface_scores

SURFACE = (*DISTANCES, *SHARES)  # the keys of `surface_scores`
EMPTY_MASKS = ("worst", "skip", "perfect")


@dataclass(frozen=True)
class SurfaceOptions:
    """How surfaces are compared. Raises UserError for numbers that cannot be used."""

    # between neighbouring pixels or voxels: a number for each axis of the array, or one for all. None: 1, or that of a
    # file which has a spacing.
    spacing: Sequence[float] | None = None
    tolerance: float = 1.0  # of NSD, in the unit of the spacing
    # What happens if a mask or a map is empty. `worst`: one of them gives the worst scores, both are left out.
    # `skip`: both cases are left out. `perfect`: as `worst`, but if both are empty, the scores are perfect.
    empty_masks: str = "worst"

    def __post_init__(self) -> None:
        check_numbers({"spacing": self.spacing, "nsd_tolerance": self.tolerance})
        if self.spacing and len(self.spacing) > 3:
            raise UserError(f"spacing is {' '.join(map(str, self.spacing))}; it must be 1 to 3 numbers")


def compare_surfaces(prediction: ndarray, mask: ndarray, how: SurfaceOptions) -> dict[str, float]:
    """Returns `surface_scores` of two masks, bool (H, W) or (depth, H, W). NaN means: this pair is left out."""
    full = prediction.any(), mask.any()
    if not all(full) and how.empty_masks == "skip":
        return dict.fromkeys(SURFACE, math.nan)
    if not any(full) and how.empty_masks == "perfect":
        return dict.fromkeys(DISTANCES, 0.0) | dict.fromkeys(SHARES, 1.0)
    spacing = tuple(how.spacing or (1.0,))
    return surface_scores(prediction, mask, spacing * mask.ndim if len(spacing) == 1 else spacing, how.tolerance)


def score_medical(prediction: ndarray, mask: ndarray, how: SurfaceOptions) -> dict[str, float]:
    """Returns Dice, IoU and the columns of `surface_scores` of two masks, bool. NaN means left out."""
    surfaces = compare_surfaces(prediction, mask, how)
    both, total = int((prediction & mask).sum()), int(prediction.sum()) + int(mask.sum())
    if total == 0 or math.isnan(surfaces["NSD"]):
        dice = iou = surfaces["NSD"]  # the same rule for empty masks
    else:
        dice, iou = 2 * both / total, both / (total - both)
    return {"medical_Dice": dice, "medical_IoU": iou} | surfaces


def note_empty(prediction: ndarray, mask: ndarray) -> tuple[str, ...]:
    """Notes whether one or both of two masks are empty."""
    return {0: ("both empty",), 1: ("one empty",), 2: ()}[int(prediction.any()) + int(mask.any())]
