"""Divides pairs into the folds of a cross-validation: similar folds, and no group in two of them."""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..classes import Classes
from ..errors import UserError, shortlist
from ..recipe import MaskRule
from ..runtime.parallel import map_files
from .checks.audit import audit_image, audit_mask
from .pairs import Pair
from .volumes.slices import list_cases

BINS = 5  # of the foreground share: empty masks, and four quarters of the others


def assign_folds(
    pairs: Sequence[Pair], folds: int, seed: int, group: str | None = None, mask_rule: MaskRule = None
) -> list[int]:
    """Returns the fold of each pair, from 1 to `folds`. The same arguments give the same folds.

    The folds have nearly as many images, and nearly as many of each class, or of each range of the foreground share.

    Args:
        group: a regular expression. Images for which it finds the same text stay together; if it has a group in
            parentheses, only this part of the text counts. None: each image is alone, but the slices of a volume stay
            together.
        mask_rule: as in training; `Classes` stratifies by class.

    Raises:
        UserError: there are fewer groups than folds, the expression does not fit all names, a file cannot be read, or
            images with the same pixels would be in different folds.
    """
    names = find_groups([pair.image.stem for pair in pairs], group)
    if len(set(names)) < folds:
        what = "images" if group is None else f"groups ({shortlist(sorted(set(names)))})"
        raise UserError(f"{len(set(names))} {what} are too few for {folds} folds; give a smaller --folds")
    strata = stratify(pairs, mask_rule)
    places = spread_groups(names, strata, folds, seed)
    refuse_equal_images(pairs, places)
    return places


def find_groups(stems: Sequence[str], group: str | None) -> list[str]:
    """Returns the group of each name."""
    if group is None:
        return list_cases(stems)
    try:
        expression = re.compile(group)
    except re.error as e:
        raise UserError(f"group is not a regular expression ({e}): {group}") from e
    part = 1 if expression.groups else 0
    texts = [match and match[part] for match in map(expression.search, stems)]
    if missing := [stem for stem, text in zip(stems, texts, strict=True) if text is None]:
        raise UserError(f"--group {group} finds nothing in {len(missing)} of {len(stems)} names: {shortlist(missing)}")
    return [text for text in texts if text is not None]


def stratify(pairs: Sequence[Pair], mask_rule: MaskRule) -> np.ndarray:
    """Returns what folds should have in equal numbers, bool (N, K): all images, and each class or range of shares."""
    facts = map_files(lambda pair: audit_mask(pair.mask, mask_rule), pairs)
    if isinstance(mask_rule, Classes):
        kinds = np.stack([fact.pixels[:-1] > 0 for fact in facts if fact.pixels is not None])
    else:
        shares = np.array([fact.foreground for fact in facts])
        edges = np.quantile(shares[shares > 0], np.linspace(0, 1, BINS)[1:-1]) if shares.any() else []
        bins = np.where(shares > 0, 1 + np.searchsorted(edges, shares), 0)
        kinds = bins[:, None] == np.arange(BINS)
    return np.column_stack([np.ones(len(pairs), bool), kinds])


def spread_groups(names: Sequence[str], strata: np.ndarray, folds: int, seed: int) -> list[int]:
    """Returns the fold of each image. Groups with much, or with something rare, choose their fold first."""
    groups, index = np.unique(names, return_inverse=True)
    totals = np.zeros((len(groups), strata.shape[1]))
    np.add.at(totals, index.ravel(), strata)
    totals /= np.maximum(1, totals.sum(0))  # shares of the whole; a rare thing weighs more
    totals[:, 0] *= strata.shape[1]  # the number of images is as important as everything else together
    order = np.random.default_rng(seed).permutation(len(groups))
    loads, choice = np.zeros((folds, strata.shape[1])), np.zeros(len(groups), int)
    for g in order[np.argsort(-totals[order].sum(1), kind="stable")]:
        choice[g] = np.argmin(loads @ totals[g])  # the fold that has least of what this group has
        loads[choice[g]] += totals[g]
    return (1 + choice[index.ravel()]).tolist()


def refuse_equal_images(pairs: Sequence[Pair], places: Sequence[int]) -> None:
    """UserError if images with the same pixels are in different folds: a model would be tested on what it learned."""
    digests = map_files(lambda pair: audit_image(pair.image, None).pixels, pairs)
    images = defaultdict(list)
    for pair, digest, place in zip(pairs, digests, places, strict=True):
        images[digest].append((pair.image.name, place))
    leaks = [copies for copies in images.values() if len({place for _, place in copies}) > 1]
    if leaks:
        names = [" and ".join(f"{name} (fold {place})" for name, place in copies) for copies in leaks]
        raise UserError(
            f"{len(leaks)} images have copies with the same pixels in another fold: {shortlist(names)}; remove the "
            "copies, or keep them together with --group"
        )
