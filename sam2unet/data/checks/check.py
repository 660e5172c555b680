"""Checks files before a long run, so that a bad file ends the run in seconds."""

from array import array
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ...classes import Classes, UnknownValues
from ...errors import UserError, print_line, shortlist, warn
from ...recipe import MaskRule
from ...runtime.parallel import iterate_files
from ...runtime.processes import ALONE, Processes
from ..images.masks import WAY_OUT, MaskCoding, read_mask
from ..images.reading import open_image, upright_size
from ..mask_values import describe_unknown_values, refuse_constant
from ..order import choose_evenly
from ..packed import LazySequence
from ..pairs import Pair
from ..volumes.slices import Source
from .check_memory import CheckMemory

T = TypeVar("T")
SAMPLE = 20_000  # pairs that are checked at the start. Of more pairs, a sample is checked.
ROUND = 256  # files per process between two exchanges of results
Sizes = frozenset[tuple[int, int]]  # the distinct (width, height) of images, as stored


class Size(NamedTuple):
    width: int
    height: int


class CheckedPairs(NamedTuple):
    """What a check of pairs has found."""

    sizes: Sizes
    counts: np.ndarray | None  # with `Classes`, the number of pixels of each class in each mask, int64 (pairs, C)


class Column(LazySequence[Source]):
    """The images or the masks of pairs."""

    def __init__(self, pairs: Sequence[Pair], field: Literal["image", "mask"]):
        self.pairs, self.field = pairs, field

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Source:
        return self.pairs[index].image if self.field == "image" else self.pairs[index].mask


def take_sample(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Returns all pairs, or `SAMPLE` of them, always the same."""
    if len(pairs) <= SAMPLE:
        return pairs
    return [pairs[i] for i in choose_evenly(len(pairs), SAMPLE).tolist()]


def choose_checked(pairs: Sequence[Pair], advice: str) -> Sequence[Pair]:
    """Returns `take_sample`, the pairs that the start of a run checks. Of a sample it prints a line with `advice`."""
    sample = take_sample(pairs)
    if len(sample) < len(pairs):
        print_line(
            f"check: {len(sample):,} of {len(pairs):,} pairs now, the others when they are read; {advice} checks all"
        )
    return sample


def check_pairs(pairs: Sequence[Pair], mask_threshold: MaskRule = None, processes: Processes = ALONE) -> CheckedPairs:
    """Reads all images and masks. UserError for an unreadable file, a mask with other values or another shape.

    Each process reads its share of the files, and all processes return the same.
    """
    images = array("q")
    with closing(check_sources(measure_image, Column(pairs, "image"), processes, "image")) as results:
        for numbers in results:
            if isinstance(numbers, UserError):
                raise numbers
            images.extend(numbers)
    stored, swapped = np.split(np.frombuffer(images, np.int64).reshape(-1, 3), [2], axis=1)
    masks, counts = check_masks(Column(pairs, "mask"), mask_threshold, processes)
    if rotated := [pairs[i].image.name for i in np.flatnonzero(swapped).tolist()]:
        warn_rotated(rotated)
    upright = np.where(swapped, stored[:, ::-1], stored)
    sizes = enumerate(zip(upright.tolist(), masks.tolist(), strict=True))
    if wrong := [describe_mismatch(pairs[i], *both) for i, both in sizes if not have_same_shape(*both)]:
        raise UserError(
            f"{len(wrong)} masks have another aspect ratio than their image: {shortlist(wrong)}; pair the files"
        )
    return CheckedPairs(frozenset(map(tuple, np.unique(stored, axis=0).tolist())), counts)


def readable_pairs(pairs: Sequence[Pair], processes: Processes = ALONE) -> list[Pair]:
    """Returns the pairs that can be read, and warns about the others. Raises UserError if no pair is left."""
    fields: tuple[Literal["image", "mask"], ...] = "image", "mask"
    looks = [check_sources(measure_image, Column(pairs, field), processes, field) for field in fields]
    kept = []
    for pair, *results in zip(pairs, *looks, strict=True):
        problems = [result for result in results if isinstance(result, UserError)]
        if problems:
            warn(f"left out: {problems[0]}")
        else:
            kept.append(pair)
    if not kept:
        raise UserError(f"none of {len(pairs)} pairs can be read")
    return kept


def have_same_shape(image: tuple[int, int], mask: tuple[int, int]) -> bool:
    """Returns whether the aspect ratios of two sizes, (width, height), differ by at most 2 %."""
    return abs(image[0] * mask[1] / (image[1] * mask[0]) - 1) <= 0.02


def describe_mismatch(pair: Pair, image: tuple[int, int], mask: tuple[int, int]) -> str:
    """Returns text such as `a.jpg (60x50, mask 60x60)`."""
    return f"{pair.image.name} ({image[0]}x{image[1]}, mask {mask[0]}x{mask[1]})"


def warn_rotated(names: Sequence[str]) -> None:
    warn(f"{len(names)} images are rotated by their EXIF orientation, which swaps their sides: {shortlist(names)}")


def check_masks(
    paths: Sequence[Source], threshold: MaskRule = None, processes: Processes = ALONE
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the sizes of the masks, int64 (masks, 2). With `Classes` also the pixels of each class, int64 (masks, C).

    Each process reads its share of the masks, and all processes return the same. UserError for masks that are not 0/255
    or have values of no class, and as in `refuse_constant`.
    """

    def measure_mask(path: Source) -> tuple[int, ...]:
        mask = read_mask(path, threshold)
        if isinstance(threshold, Classes):
            return *mask.size, *mask.histogram()[: len(threshold.items)]
        return mask.size if threshold is None else (*mask.size, *mask.getextrema())

    numbers, unknown, bad = array("q"), {}, {}
    with closing(check_sources(measure_mask, paths, processes, ("mask", threshold))) as results:
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, UnknownValues):
                unknown[path] = result
            elif isinstance(result, MaskCoding):
                bad[path] = result
            elif isinstance(result, UserError):
                raise result
            else:
                numbers.extend(result)
    if unknown and isinstance(threshold, Classes):
        text = describe_unknown_values(unknown, threshold)
        raise UserError(f"{len(unknown)} of {len(paths)} masks {text} (in {paths[0].parent})")
    if bad:
        found, names = f"{next(iter(bad.values())).found}; in {paths[0].parent}", shortlist([path.name for path in bad])
        raise UserError(f"{len(bad)} of {len(paths)} masks are not 0/255: {names} ({found}); {WAY_OUT}")
    sizes, facts = np.split(np.frombuffer(numbers, np.int64).reshape(len(paths), -1), [2], axis=1)
    if isinstance(threshold, Classes):
        return sizes, facts
    if threshold is not None:
        refuse_constant(dict(zip(paths, facts.tolist(), strict=True)), threshold)
    return sizes, None


def check_sources(
    check: Callable[[T], tuple[int, ...]],
    items: Sequence[T],
    processes: Processes,
    kind: object,
    identify: Callable[[T], tuple[Source, object]] | None = None,
) -> Generator[tuple[int, ...] | UserError, None, None]:
    """Yields `check(item)`, whole numbers, or its UserError for each item. Each process checks its share.

    The next run does not check again what is unchanged since then and had no error; see `CheckMemory`.

    Args:
        kind: the kind of check and its settings.
        identify: returns the file of an item, and other things that the numbers depend on. None: the item is the file.
    """
    memory = CheckMemory(repr(kind))

    def look(item: T) -> tuple[bytes | None, tuple[int, ...] | UserError]:
        key = memory.make_key(*(identify(item) if identify else (item, None)))
        if key in memory.results:
            return key, memory.results[key]
        try:
            return key, check(item)
        except UserError as e:
            return key, e

    share = range(processes.rank, len(items), processes.world)
    try:
        results = iterate_files(look, (items[i] for i in share), len(share))
        for key, result in processes.exchange(results, len(items), ROUND):
            if not isinstance(result, UserError):
                memory.add(key, result)
            yield result
    finally:
        if not processes.local_rank:
            memory.save()


def measure_image(path: Source) -> tuple[int, ...]:
    """Returns the (width, height) as stored, and 1 if EXIF swaps the sides, else 0. Decodes the whole file."""
    size, swapped = check_image(path)
    return *(size[::-1] if swapped else size), int(swapped)


def measure_sizes(pairs: Sequence[Pair], processes: Processes = ALONE) -> dict[Source, tuple[int, ...] | UserError]:
    """Returns for each distinct image what `measure_image` returns, or its error. Reads only the headers of the files.

    Each process reads its share of the images.
    """

    def measure_header(path: Source) -> tuple[int, ...]:
        with open_image(path) as image:
            return *image.size, int(upright_size(image) != image.size)

    images = list(dict.fromkeys(pair.image for pair in pairs))
    return dict(zip(images, check_sources(measure_header, images, processes, "size"), strict=True))


def list_sizes(images: Collection[tuple[int, ...] | UserError]) -> Sizes:
    """Returns the sizes of the images that `measure_sizes` could read. Raises the first error if it could read none."""
    sizes = frozenset((image[0], image[1]) for image in images if not isinstance(image, UserError))
    if not sizes:
        for image in images:
            if isinstance(image, UserError):
                raise image
    return sizes


def check_image(path: Source) -> tuple[Size, bool]:
    """Returns the size that `read_image` gives, and whether EXIF swaps the sides. Decodes the whole file."""
    with open_image(path) as image:
        size = Size(*upright_size(image))
        swapped = size != image.size
        image.draft("RGB", (image.width // 8, image.height // 8))  # JPEG: fewer pixels, but the whole file is read
        image.load()
        return size, swapped
