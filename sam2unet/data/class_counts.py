"""What follows from the number of pixels of each class in each mask: weights of classes, and the validation images.

The counts are integers (masks, C), from `check_pairs`.
"""

from collections.abc import Sequence

import numpy as np

from ..classes import Classes
from ..errors import UserError, shortlist, warn


def inverse_weights(counts: np.ndarray, classes: Classes) -> list[float]:
    """Returns 1 / (share of the pixels) for each class, scaled to a mean of 1. UserError for a class without pixels."""
    pixels = counts.sum(0)
    if absent := [name for name, count in zip(classes.names, pixels, strict=True) if not count]:
        raise UserError(
            f"class_weights inverse: {shortlist(absent)} occurs in no training mask, so that its weight is infinite; "
            "give a number for each class, or remove this class from the classes"
        )
    weights = pixels.sum() / pixels
    return (weights / weights.mean()).tolist()


def keep_all_classes(held_out: Sequence[int], counts: np.ndarray) -> list[int]:
    """Changes a random choice of validation images, so that training and validation have every class where possible.

    Returns as many indices as `held_out`, ascending. As few classes as possible are missing; one that is missing in
    training counts twice. With that, as few images as possible change. The same arguments give the same result.
    """
    present = counts[:, counts.any(0)] > 0
    chosen = np.isin(np.arange(len(present)), held_out)
    watched = np.zeros(present.shape[1], bool)  # few classes, because the time grows fast with their number
    while True:
        missing = ~present[chosen].any(0) | ~present[~chosen].any(0)
        if not (missing & ~watched).any():
            return np.flatnonzero(chosen).tolist()
        watched |= missing
        chosen = exchange_images(np.isin(np.arange(len(present)), held_out), present[:, watched])


def exchange_images(chosen: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Solves `keep_all_classes` for bool `chosen` (images,) and `present` (images, C). Returns the new `chosen`."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes half a second

    # Images with the same classes are one group. The unknowns are how many images of each group validation takes, and
    # for each class whether it is missing in validation, and whether it is missing in training.
    table, group, sizes = np.unique(np.c_[present, chosen], axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    has_class, count, total = table[:, :-1].T.astype(float), present.shape[1], chosen.sum()
    none, one = np.zeros((count, count)), np.eye(count)
    rows = np.r_[np.c_[has_class, one, none], np.c_[-has_class, none, one]]
    sums = LinearConstraint(np.r_[np.ones(len(sizes)), np.zeros(2 * count)], total, total)
    cost = np.r_[-1.0 * table[:, -1], np.full(count, total + 1.0), np.full(count, 2 * total + 2.0)]
    solution = milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, np.r_[sizes, np.ones(2 * count)]),
        constraints=[LinearConstraint(rows, np.r_[np.ones(count), 1 - present.sum(0)]), sums],
        options={"mip_rel_gap": 0},
    )
    takes = np.rint(solution.x[: len(sizes)])
    order = np.argsort(group, kind="stable")  # in each group, the first images are taken
    rank = np.empty(len(group), int)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank < takes[group]


def warn_missing_classes(held_out: Sequence[int], counts: np.ndarray, classes: Classes) -> None:
    """Prints one warning with the classes that training or validation, the images `held_out`, does not have."""
    present = counts > 0
    inside = np.isin(np.arange(len(present)), held_out)
    anywhere, held, kept = (np.asarray(part.any(0)) for part in (present, present[inside], present[~inside]))
    places = {"no validation mask": anywhere & ~held, "no training mask": anywhere & ~kept, "no mask": ~anywhere}
    texts = [
        f"{shortlist([name for name, is_missing in zip(classes.names, missing, strict=True) if is_missing])} in {place}"
        for place, missing in places.items()
        if missing.any()
    ]
    if texts:
        warn(
            f"--val_fraction cannot keep every class in training and validation: {'; '.join(texts)}; "
            "add images with these classes, or give a larger fraction"
        )
