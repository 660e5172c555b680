"""Turns facts about files into findings: what is wrong or unusual in a data set, in words."""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...classes import Classes, UnknownValues
from ...errors import UserError, shortlist
from ...limits import shorten
from ...recipe import MaskRule
from ..images.masks import WAY_OUT, MaskCoding
from ..mask_values import describe_unknown_values
from ..pairs import Pair, find_duplicates, pair_names
from ..volumes.slices import Slice, Source, find_file
from .check import Size, describe_mismatch, have_same_shape

WARNING, PROBLEM = "warning", "problem"  # unusual; training on it would be wrong

# NEAR of the BITS of `perceptual_bits` may differ. Measured on 205,000 pairs of photographs (polyps, horses, tiles,
# nuclei): photographs of different scenes differ in at least 111 bits. Copies that were resized, or saved as JPEG with
# quality 20, differ in at most 53 (faint nuclei on black: 105). Copies that lost 2 % at each side differ in at most 85.
NEAR, BITS = 90, 512
NOT_SEARCHED = 'not searched, because ImageHash is not installed: pip install "sam2unet[check]"'
MANY = 20  # file names in a line about files that must be corrected
GREY = 0.1  # share of grey pixels in a mask; masks with soft outlines have less


class ImageFacts(NamedTuple):
    size: Size  # upright
    rotated: bool  # the EXIF orientation is not upright
    pixels: bytes  # digest of the pixels that training reads
    bits: np.ndarray | None  # (BITS,) bool


class MaskFacts(NamedTuple):
    size: Size  # upright
    foreground: float  # share of the pixels; with classes, of all but the first class
    soft: float  # share of the pixels that are neither 0 nor 255
    pixels: np.ndarray | None = None  # with C classes, (C + 1,): the pixels of each class, and the ignored ones


class Finding(NamedTuple):
    title: str
    text: str
    level: str = ""  # or WARNING or PROBLEM
    marks: Mapping[Source, str] = {}  # the text for a file on the contact sheet


class Twin(NamedTuple):
    other: Source  # an image of the other folder
    image: Source  # the most similar image of this folder
    distance: int  # number of bits that differ


def list_names(names: Sequence[str], of: Sequence | Mapping, limit: int = 5) -> str:
    return f"{len(names)} of {len(of)}: {shortlist(names, limit)}"


def pair_up(images: Sequence[Source], masks: Sequence[Source]) -> tuple[list[Pair], list[Finding]]:
    """Pairs images and masks by name. Of files with one name it takes the first. Returns findings about the others."""
    by_stem = [
        find_duplicates(zip(list_mask_names(images, masks), images, strict=True)),
        find_duplicates((path.stem, path) for path in masks),
    ]
    pairs, unpaired_images, unpaired_masks = pair_names(*(dict(sorted(paths.items())) for paths, _ in by_stem))
    findings = [Finding("pairs", f"{len(pairs)}")]
    if unpaired_images:
        text = f"{list_names(unpaired_images, images, MANY)}; a mask has its image's name, whatever the extension"
        findings.append(Finding("without mask", text, PROBLEM))
    if unpaired_masks:
        text = f"{list_names(unpaired_masks, masks)}; these masks are left out"
        findings.append(Finding("without image", text, WARNING))
    for files, (_, duplicates) in zip((images, masks), by_stem, strict=True):
        if duplicates:
            text = f"{list_names(duplicates, files, MANY)} in {files[0].parent}; remove or rename one of each"
            findings.append(Finding("same stem", text, PROBLEM))
    return pairs, findings


def list_mask_names(images: Sequence[Source], masks: Sequence[Source]) -> list[str]:
    """Returns the name that the mask of each image has: its stem.

    The mask of a volume with one slice, for example an X-ray, may be a picture. Its name is that of the case.
    """
    counts, stems = Counter(map(find_file, images)), {path.stem for path in masks}

    def name_image(path: Source) -> str:
        if isinstance(path, Slice) and counts[path.volume] == 1 and path.case in stems:
            return path.case
        return path.stem

    return list(map(name_image, images))


def report_data_set(
    pairs: Sequence[Pair],
    images: Mapping[Source, ImageFacts],
    masks: Mapping[Source, MaskFacts],
    bad_images: Mapping[Source, UserError],
    bad_masks: Mapping[Source, UserError],
    rule: MaskRule,
) -> list[Finding]:
    unreadable = report_unreadable("images", bad_images) + report_unreadable("masks", bad_masks)
    findings = unreadable + report_coding(bad_masks, len(masks) + len(bad_masks), rule)
    findings += report_sizes(pairs, images, masks) + report_rotated(images)
    looks = {pair.mask: masks[pair.mask] for pair in pairs if pair.mask in masks}
    if looks:
        findings += report_classes(looks, rule) if isinstance(rule, Classes) else report_foreground(looks)
    return findings + report_repeated(images)


def report_others(
    images: Mapping[Source, ImageFacts],
    others: Mapping[Source, ImageFacts],
    bad_others: Mapping[Source, UserError],
    twins: Sequence[Twin],
    searched: bool,
) -> list[Finding]:
    """Reports leakage between a data set and other images. `searched`: near duplicates were searched."""
    findings = [Finding("others", f"{len(others)} images to compare with")]
    findings += report_unreadable("others", bad_others, WARNING) + report_shared(images, others)
    return findings + report_similar(twins, others, searched)


def report_unreadable(what: str, bad: Mapping[Source, UserError], level: str = PROBLEM) -> list[Finding]:
    bad = {path: e for path, e in bad.items() if not isinstance(e, (MaskCoding, UnknownValues))}
    marks = {path: f"{what[:-1]} cannot be read" for path in bad}
    reason = next((str(bad[path]) for path in marks), "")
    text = (
        f"{len(marks)} {what}: {shortlist([path.name for path in marks], MANY)}; {'first: ' * (len(marks) > 1)}{reason}"
    )
    return [Finding("unreadable", text, level, marks)] if marks else []


def report_coding(bad: Mapping[Source, UserError], total: int, rule: MaskRule) -> list[Finding]:
    unknown = {path: e for path, e in bad.items() if isinstance(e, UnknownValues)}
    if unknown and isinstance(rule, Classes):
        marks = {path: f"no class: {shortlist(list(map(rule.describe, e.counts)))}" for path, e in unknown.items()}
        text = f"{len(unknown)} of {total} {describe_unknown_values(unknown, rule)}"
        return [Finding("mask values", text, PROBLEM, marks)]
    marks = {path: e.found for path, e in bad.items() if isinstance(e, MaskCoding)}
    kinds = "; ".join(
        found if len(marks) == count else f"{count} with {found}"
        for found, count in Counter(marks.values()).most_common(3)
    )
    text = f"{len(marks)} of {total} not 0/255: {shortlist([path.name for path in marks], MANY)} ({kinds}); {WAY_OUT}"
    return [Finding("mask coding", text, PROBLEM, marks)] if marks else []


def report_sizes(
    pairs: Sequence[Pair], images: Mapping[Source, ImageFacts], masks: Mapping[Source, MaskFacts]
) -> list[Finding]:
    findings, other_shapes, other_sizes = [], {}, []
    if images:
        counts = Counter(look.size for look in images.values())
        least, most = (f(counts, key=lambda size: size.width * size.height) for f in (min, max))
        often, count = counts.most_common(1)[0]
        text = f"{len(counts)} different, {format_size(least)} to {format_size(most)}"
        text += f", most often {format_size(often)} ({count})" if count > 1 else ""
        findings.append(Finding("sizes", text if len(counts) > 1 else f"all {format_size(often)}"))
    for pair in pairs:
        if pair.image in images and pair.mask in masks:
            image, mask = images[pair.image].size, masks[pair.mask].size
            if not have_same_shape(image, mask):
                other_shapes[pair.mask] = describe_mismatch(pair, image, mask)
            elif image != mask:
                other_sizes.append(f"{pair.mask.name} ({format_size(mask)}, image {format_size(image)})")
    if other_sizes:
        findings.append(Finding("mask sizes", f"{list_names(other_sizes, pairs)}; the image's shape, which is enough"))
    if other_shapes:
        text = f"{list_names(list(other_shapes.values()), pairs, MANY)}; another aspect ratio than the image's"
        marks = {path: "another aspect ratio" for path in other_shapes}
        findings.append(Finding("mask shapes", text, PROBLEM, marks))
    return findings


def format_size(size: Size) -> str:
    return f"{size.width}x{size.height}"


def report_rotated(images: Mapping[Source, ImageFacts]) -> list[Finding]:
    marks = {path: "rotated by EXIF" for path, look in images.items() if look.rotated}
    names = list_names([path.name for path in marks], images)
    text = f"{names}; rotated by their EXIF orientation: check that their masks are upright"
    return [Finding("EXIF", text, WARNING, marks)] if marks else []


def report_classes(looks: Mapping[Source, MaskFacts], classes: Classes) -> list[Finding]:
    names = [shorten(name, 24) for name in classes.names] + ["ignored"] * bool(classes.ignore)
    codes = [classes.describe(code) for code in classes.codes] + [", ".join(map(classes.describe, classes.ignore))]
    names, codes = ([f"{text:<{max(map(len, texts))}}" for text in texts] for texts in (names, codes))
    rows = zip(names, codes, describe_shares(looks.values()), strict=False)
    findings = [Finding("class", f"{name}  {code}  {text}") for name, code, text in rows]
    pixels = np.sum([look.pixels for look in looks.values() if look.pixels is not None], axis=0)[:-1]
    if absent := [name for name, count in zip(classes.names, pixels, strict=True) if not count]:
        few = len(classes.names) - len(absent) < 2
        text = f"{list_names(absent, classes.names)}; in no mask{'; nothing to learn' if few else ''}"
        findings.append(Finding("absent classes", text, PROBLEM if few else WARNING))
    ignored = [path for path, look in looks.items() if look.pixels is not None and not look.pixels[:-1].any()]
    if marks := dict.fromkeys(ignored, "only ignored pixels"):
        findings.append(Finding("ignored masks", list_names([path.name for path in marks], looks), WARNING, marks))
    return findings


def describe_shares(looks: Collection[MaskFacts]) -> list[str]:
    """Returns text for each class, and for the ignored pixels: `15.531% of the pixels, in 39 of 123 masks`."""
    pixels = np.stack([look.pixels for look in looks if look.pixels is not None])
    shares, counts = pixels.sum(0) / pixels.sum(), (pixels > 0).sum(0)
    return [f"{s:7.3%} of the pixels, in {n} of {len(pixels)} masks" for s, n in zip(shares, counts, strict=True)]


def report_foreground(looks: Mapping[Source, MaskFacts]) -> list[Finding]:
    shares = [look.foreground for look in looks.values()]
    mean, median = statistics.fmean(shares), statistics.median(shares)
    text = f"mean {mean:.3f}, median {median:.3f}, min {min(shares):.3f}, max {max(shares):.3f} of a mask's pixels"
    findings = [Finding("foreground", text)]
    for title, share in (("empty masks", 0), ("full masks", 1)):
        if marks := {path: title[:-1] for path, look in looks.items() if look.foreground == share}:
            text, all_of_them = list_names([path.name for path in marks], looks), len(marks) == len(looks)
            text += "; nothing to learn" if all_of_them else ""
            findings.append(Finding(title, text, PROBLEM if all_of_them else WARNING, marks))
    if soft := {path: look.soft for path, look in looks.items() if look.soft}:
        marks = {path: f"{share:.0%} grey" for path, share in soft.items() if share > GREY}
        names = list_names([path.name for path in marks or soft], looks)
        text = f"{names}; up to {max(soft.values()):.1%} of a mask is grey"
        findings.append(Finding("soft masks", text, WARNING if marks else "", marks))
    return findings


def report_repeated(images: Mapping[Source, ImageFacts]) -> list[Finding]:
    """Reports images with equal pixels. The format and the metadata of the files do not matter."""
    first: dict[bytes, Source] = {}
    marks = {
        path: f"same as {first[look.pixels].name}"
        for path, look in images.items()
        if first.setdefault(look.pixels, path) is not path
    }
    equal = [f"{path.name} {mark}" for path, mark in marks.items()]
    return [Finding("duplicates", f"{list_names(equal, images)}, pixel by pixel", WARNING, marks)] if marks else []


def find_equal(images: Mapping[Source, ImageFacts], others: Mapping[Source, ImageFacts]) -> dict[Source, Source]:
    """Returns for each of `others` the first of `images` with equal pixels. Leaves out others without such an image."""
    by_pixels = {look.pixels: path for path, look in reversed(list(images.items()))}
    return {path: by_pixels[look.pixels] for path, look in others.items() if look.pixels in by_pixels}


def report_shared(images: Mapping[Source, ImageFacts], others: Mapping[Source, ImageFacts]) -> list[Finding]:
    same = find_equal(images, others)
    equal = [f"{image.name} = {other.name}" for other, image in same.items()]
    text = f"{list_names(equal, others, MANY)}, pixel by pixel: leakage; remove them from one of the sets"
    marks = {image: f"in both sets: {other.name}" for other, image in same.items()}
    return [Finding("in both sets", text, PROBLEM, marks)] if same else []


def report_similar(twins: Sequence[Twin], others: Mapping[Source, ImageFacts], searched: bool) -> list[Finding]:
    if not searched:
        return [Finding("near duplicates", NOT_SEARCHED, WARNING)]
    near = [f"{twin.image.name} ~ {twin.other.name} ({twin.distance})" for twin in twins]
    text = f"{list_names(near, others, MANY)} (bits of {BITS} that differ, up to {NEAR}): likely leakage, look at them"
    return [Finding("near duplicates", text, WARNING)] if twins else []
