"""Leakage: test images that the model was trained on. Their scores are too good."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..data.checks.audit import audit_files, audit_image, perceptual_bits
from ..data.checks.findings import BITS, NOT_SEARCHED, Twin, find_equal
from ..data.checks.near_duplicates import find_near_duplicates
from ..data.images.reading import open_image
from ..data.volumes.slices import Source
from ..errors import print_line, shortlist, warn


class SetLeakage(NamedTuple):
    """The test images of one data set that are also in the training set."""

    images: int  # number of test images
    equal: dict[Source, Source]  # test image -> the training image with equal pixels
    near: list[Twin] | None  # test images that look like a training image; None: not searched


def find_leakage(train: Sequence[Source], tests: Mapping[str, Sequence[Source]]) -> dict[str, SetLeakage]:
    """Compares the test images of each data set with all training images.

    Always finds images with equal pixels, whatever their format. Finds near duplicates if ImageHash is installed;
    otherwise it decodes only the images that have the size of an image in the other part. Keeps no pixels. Leaves out
    training images that cannot be read. Raises UserError for such a test image, because its map would be missing.
    """
    bits = perceptual_bits()
    test = [path for files in tests.values() for path in files]
    if bits is None:
        sides, bad = audit_files([*train, *test], read_sides)
        common = {sides[path] for path in train if path in sides} & {sides[path] for path in test if path in sides}
        train, test = ([path for path in part if path in bad or sides[path] in common] for part in (train, test))
    look = partial(audit_image, bits=bits)
    train_facts, _ = audit_files(train, look)
    test_facts, bad = audit_files(test, look)
    if bad:
        raise next(iter(bad.values()))
    leakage = {}
    for name, files in tests.items():
        facts = {path: test_facts[path] for path in files if path in test_facts}
        near = None if bits is None else find_near_duplicates(train_facts, facts)
        leakage[name] = SetLeakage(len(files), find_equal(train_facts, facts), near)
    return leakage


def read_sides(path: Source) -> tuple[int, ...]:
    """Returns the two sides of an image, the smaller one first. EXIF may swap them. Reads only the header."""
    with open_image(path) as image:
        return tuple(sorted(image.size))


def warn_leakage(leakage: Mapping[str, SetLeakage]) -> None:
    """Prints a warning for each data set with leakage."""
    for name, found in leakage.items():
        if found.equal:
            names = [f"{test.name} = {name_file(train)}" for test, train in found.equal.items()]
            text = f"{len(names)} of {found.images} test images are training images, pixel by pixel"
            warn(f"{name}: {text}: {shortlist(names)}; its figures are too good")
        if found.near:
            names = [f"{twin.other.name} ~ {name_file(twin.image)} ({twin.distance})" for twin in found.near]
            text = f"{len(names)} of {found.images} test images look like training images"
            warn(f"{name}: {text}: {shortlist(names)} (number of different bits, of {BITS}); look at them")
    if any(found.near is None for found in leakage.values()):
        print_line(f"near duplicates of training images: {NOT_SEARCHED}")


def name_file(image: Source) -> str:
    """Returns data set and name of an image: `CAMO-train/a.jpg` for `CAMO-train/images/a.jpg`."""
    return f"{image.parent.parent.name}/{image.name}"


def describe_leakage(equal: int, near: int | None) -> str:
    """Returns a cell of a table, such as `2 equal, 1 near`. `near` is None if near duplicates were not searched."""
    words = [f"{equal} equal"] * bool(equal) + [f"{near} near"] * bool(near)
    return ", ".join(words) or ("none" if near is not None else "none equal")
