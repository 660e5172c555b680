"""Errors and warnings about masks with values of no class, and masks that are empty or full."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ..classes import Classes, UnknownValues
from ..errors import UserError, shortlist, warn
from ..recipe import ForegroundRule, to_foreground_flags
from .images.masks import list_values
from .images.reading import open_image, rotate_upright
from .volumes.slices import Source


def describe_unknown_values(bad: Mapping[Source, UnknownValues], classes: Classes) -> str:
    """Returns text such as `have values of no class: 11 (1,204 pixels in 2 files: a.png, b.png); add the line ...`."""
    counts: Counter[int] = Counter()
    files = defaultdict(list)
    for path, error in bad.items():
        counts.update(error.counts)
        for code in error.counts:
            files[code].append(path.name)
    return f"have values of no class: {classes.describe_unknown(counts, files)}"


def refuse_constant(masks: Mapping[Source, Sequence[float]], rule: ForegroundRule) -> None:
    """Raises UserError for a rule that leaves all masks empty or all masks full. Warns if it does so for some masks.

    `masks` has the lowest and the highest value of each mask; 0 is background, other values are foreground.
    """
    empty, full = (
        [path for path, (_, high) in masks.items() if not high],
        [path for path, (low, _) in masks.items() if low],
    )
    refuse_constant_masks(empty, full, len(masks), rule)


def refuse_constant_masks(empty: Sequence[Source], full: Sequence[Source], count: int, rule: ForegroundRule) -> None:
    """Does the work of `refuse_constant`.

    `empty` are the masks without foreground, `full` those without background, and `count` is the number of all masks.
    """
    flags = " ".join(to_foreground_flags(rule))
    for what, names in (("no foreground", empty), ("nothing but foreground", full)):
        if names and len(names) == count:
            with open_image(names[0]) as image:
                values = list_values(rotate_upright(image), names[0])
            raise UserError(
                f"{flags} leaves {what} in all {count} masks of {names[0].parent} ({values} in {names[0].name}); "
                "give other values"
            )
        if names:
            text = shortlist([path.name for path in names])
            warn(f"{flags} leaves {what} in {len(names)} of {count} masks of {names[0].parent}: {text}")
