"""What is in a data set: every file is looked at and all findings are gathered, for `scripts/check_data.py`."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError, shortlist
from ..recipe import ForegroundRule
from ..runtime.parallel import map_files
from .check import Size, describe_mismatch
from .pairs import Pair, find_duplicates, list_files, pair_names
from .reading import FOREGROUND, WAY_OUT, MaskCoding, open_image, orientation, read_image, read_mask

WARNING, PROBLEM = "warning", "problem"  # worth a look; training on it would be wrong

# Of the 512 bits of `perceptual_bits`. Among 205,000 pairs of photographs (polyps, horses, tiles, nuclei) the first
# that do not show the same scene differ in 111. Copies resized or saved as JPEG of quality 20 differ in at most 53 bits
# (faint nuclei on black: 105), copies that lost 2 % at each side in at most 85.
NEAR, BITS = 90, 512
MANY = 20  # names of files to put right that a line holds
GREY = 0.1  # share of a mask's pixels; outlines that are soft stay below it

Bits = Callable[[Image.Image], np.ndarray]


class ImageFacts(NamedTuple):
    size: Size  # upright
    turned: bool  # by its EXIF orientation
    pixels: bytes  # digest of what training would read
    bits: np.ndarray | None  # (BITS,) bool


class MaskFacts(NamedTuple):
    size: Size  # upright
    foreground: float  # share of the pixels
    soft: float  # share of the pixels that are neither 0 nor 255


class Finding(NamedTuple):
    title: str
    text: str
    level: str = ""  # or WARNING or PROBLEM
    marks: Mapping[Path, str] = {}  # what the contact sheet says at a file


class Twin(NamedTuple):
    other: Path  # an image of the other folder
    image: Path  # the most alike of this one
    distance: int  # bits that differ


class Inspection(NamedTuple):
    findings: list[Finding]
    pairs: list[Pair]
    masks: dict[Path, MaskFacts]  # those that could be read
    twins: list[Twin]  # near duplicates, nearest first

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)


def audit_folders(
    image_folder: Path, mask_folder: Path, other_folder: Path | None = None, mask_threshold: ForegroundRule = None
) -> Inspection:
    """UserError: a folder that is not there, has no images, or is given twice. All else is a finding."""
    folders = [folder for folder in (image_folder, mask_folder, other_folder) if folder is not None]
    image_files, mask_files, *other_files = (list_files(folder) for folder in folders)
    if image_folder.resolve() == mask_folder.resolve():
        raise UserError(f"images and masks are the same folder: {image_folder}; give the folder of the masks")
    if other_folder and other_folder.resolve() in (image_folder.resolve(), mask_folder.resolve()):
        which = "images to train on" if other_folder.resolve() == image_folder.resolve() else "masks"
        raise UserError(
            f"--other {other_folder} is the folder of the {which}; give a folder of other images to compare"
        )
    bits = perceptual_bits() if other_folder else None
    images, bad_images = audit_files(image_files, partial(audit_image, bits=bits))
    masks, bad_masks = audit_files(mask_files, partial(audit_mask, threshold=mask_threshold))

    pairs, findings = pair_up(image_files, mask_files)
    findings += (
        report_unreadable("images", bad_images)
        + report_unreadable("masks", bad_masks)
        + report_coding(bad_masks, len(mask_files))
    )
    findings += (
        report_sizes(pairs, images, masks)
        + report_rotated(images)
        + report_contents(pairs, masks)
        + report_repeated(images)
    )
    twins: list[Twin] = []
    if other_folder:
        others, bad_others = audit_files(other_files[0], partial(audit_image, bits=bits))
        twins = find_near_duplicates(images, others) if bits else []
        findings.append(Finding("others", f"{len(others)} images to compare with"))
        findings += report_unreadable("others", bad_others, WARNING) + report_shared(images, others)
        findings += report_similar(twins, others, searched=bits is not None)
    return Inspection(findings, pairs, masks, twins)


def audit_files(files: Sequence[Path], look: Callable[[Path], NamedTuple]) -> tuple[dict, dict[Path, UserError]]:
    """What `look` makes of each file, and the errors of those that it cannot read."""

    def try_look(path: Path) -> NamedTuple | UserError:
        try:
            return look(path)
        except UserError as e:
            return e

    looks = dict(zip(files, map_files(try_look, files), strict=True))
    bad = {path: look for path, look in looks.items() if isinstance(look, UserError)}
    return {path: look for path, look in looks.items() if path not in bad}, bad


def audit_image(path: Path, bits: Bits | None) -> ImageFacts:
    with open_image(path) as image:
        turned = orientation(image) != 1
    picture = read_image(path)
    digest = hashlib.sha256(f"{picture.size}".encode())
    digest.update(picture.tobytes())
    return ImageFacts(Size(*picture.size), turned, digest.digest(), bits(picture) if bits else None)


def audit_mask(path: Path, threshold: ForegroundRule) -> MaskFacts:
    mask = read_mask(path, threshold)
    counts = mask.histogram()
    total = mask.width * mask.height
    return MaskFacts(Size(*mask.size), sum(counts[FOREGROUND + 1 :]) / total, sum(counts[1:255]) / total)


def perceptual_bits() -> Bits | None:
    """RGB picture -> (BITS,) bool, alike for pictures that look alike. None where ImageHash is not installed.

    Whether each of 16 x 16 places is brighter than the one before it, in either direction. Of the library's hashes
    this one keeps slightly cropped copies furthest from other photographs; pHash of 64 bits does not part them.
    """
    try:
        import imagehash
    except ImportError:
        return None

    def bits(picture: Image.Image) -> np.ndarray:
        grey = picture.convert("L")
        return np.concatenate([imagehash.dhash(grey, 16).hash, imagehash.dhash_vertical(grey, 16).hash], axis=None)

    return bits


def list_names(names: Sequence[str], of: Sequence | Mapping, limit: int = 5) -> str:
    return f"{len(names)} of {len(of)}: {shortlist(names, limit)}"


def pair_up(images: Sequence[Path], masks: Sequence[Path]) -> tuple[list[Pair], list[Finding]]:
    """Pairs by stem, of the first file where two have one stem, and what is left over."""
    by_stem = [find_duplicates([(path.stem, path) for path in files]) for files in (images, masks)]
    pairs, lonely, spare = pair_names(*(dict(sorted(paths.items())) for paths, _ in by_stem))
    findings = [Finding("pairs", f"{len(pairs)}")]
    if lonely:
        text = f"{list_names(lonely, images, MANY)}; a mask has its image's name, whatever the extension"
        findings.append(Finding("without mask", text, PROBLEM))
    if spare:
        findings.append(Finding("without image", f"{list_names(spare, masks)}; these masks are left out", WARNING))
    for files, (_, duplicates) in zip((images, masks), by_stem, strict=True):
        if duplicates:
            text = f"{list_names(duplicates, files, MANY)} in {files[0].parent}; remove or rename one of each"
            findings.append(Finding("same stem", text, PROBLEM))
    return pairs, findings


def report_unreadable(what: str, bad: Mapping[Path, UserError], level: str = PROBLEM) -> list[Finding]:
    marks = {path: f"{what[:-1]} cannot be read" for path, e in bad.items() if not isinstance(e, MaskCoding)}
    reason = next((str(bad[path]) for path in marks), "")
    text = (
        f"{len(marks)} {what}: {shortlist([path.name for path in marks], MANY)}; {'first: ' * (len(marks) > 1)}{reason}"
    )
    return [Finding("unreadable", text, level, marks)] if marks else []


def report_coding(bad: Mapping[Path, UserError], total: int) -> list[Finding]:
    marks = {path: e.found for path, e in bad.items() if isinstance(e, MaskCoding)}
    kinds = "; ".join(
        found if len(marks) == count else f"{count} with {found}"
        for found, count in Counter(marks.values()).most_common(3)
    )
    text = f"{len(marks)} of {total} not 0/255: {shortlist([path.name for path in marks], MANY)} ({kinds}); {WAY_OUT}"
    return [Finding("mask coding", text, PROBLEM, marks)] if marks else []


def report_sizes(
    pairs: Sequence[Pair], images: Mapping[Path, ImageFacts], masks: Mapping[Path, MaskFacts]
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
            if mismatch := describe_mismatch(pair, image, mask):
                other_shapes[pair.mask] = mismatch
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


def report_rotated(images: Mapping[Path, ImageFacts]) -> list[Finding]:
    marks = {path: "turned by EXIF" for path, look in images.items() if look.turned}
    text = (
        f"{list_names([path.name for path in marks], images)}; turned as EXIF says: check that their masks are upright"
    )
    return [Finding("EXIF", text, WARNING, marks)] if marks else []


def report_contents(pairs: Sequence[Pair], masks: Mapping[Path, MaskFacts]) -> list[Finding]:
    looks = {pair.mask: masks[pair.mask] for pair in pairs if pair.mask in masks}
    if not looks:
        return []
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


def report_repeated(images: Mapping[Path, ImageFacts]) -> list[Finding]:
    """The same pixels twice, whatever the file's format and metadata."""
    first: dict[bytes, Path] = {}
    marks = {
        path: f"same as {first[look.pixels].name}"
        for path, look in images.items()
        if first.setdefault(look.pixels, path) is not path
    }
    equal = [f"{path.name} {mark}" for path, mark in marks.items()]
    return [Finding("duplicates", f"{list_names(equal, images)}, pixel by pixel", WARNING, marks)] if marks else []


def report_shared(images: Mapping[Path, ImageFacts], others: Mapping[Path, ImageFacts]) -> list[Finding]:
    by_pixels = {look.pixels: path for path, look in reversed(list(images.items()))}  # the first of equal ones
    same = {path: by_pixels[look.pixels] for path, look in others.items() if look.pixels in by_pixels}
    equal = [f"{image.name} = {other.name}" for other, image in same.items()]
    text = f"{list_names(equal, others, MANY)}, pixel by pixel: leakage; take them out of one of the sets"
    marks = {image: f"in both sets: {other.name}" for other, image in same.items()}
    return [Finding("in both sets", text, PROBLEM, marks)] if same else []


def find_near_duplicates(images: Mapping[Path, ImageFacts], others: Mapping[Path, ImageFacts]) -> list[Twin]:
    """For each of `others` the nearest of `images`, where at most NEAR bits differ; nearest first, equal pixels not."""
    known = {look.pixels for look in images.values()}
    others = {path: look for path, look in others.items() if look.pixels not in known}
    if not images or not others:
        return []
    # Bits as -1 and 1: a product of two rows is how many agree less how many differ.
    rows, columns = (np.array([look.bits for look in looks.values()], np.float32) * 2 - 1 for looks in (others, images))
    paths, twins = list(images), []
    for start in range(0, len(rows), 256):  # never all distances at once
        distances = (BITS - rows[start : start + 256] @ columns.T) / 2
        nearest = zip(list(others)[start : start + 256], distances.argmin(1), distances.min(1), strict=True)
        twins += [Twin(other, paths[index], int(least)) for other, index, least in nearest if least <= NEAR]
    return sorted(twins, key=lambda twin: twin.distance)


def report_similar(twins: Sequence[Twin], others: Mapping[Path, ImageFacts], searched: bool) -> list[Finding]:
    if not searched:
        text = 'not looked for, as ImageHash is not installed: pip install -e ".[check]"'
        return [Finding("near duplicates", text, WARNING)]
    near = [f"{twin.image.name} ~ {twin.other.name} ({twin.distance})" for twin in twins]
    text = f"{list_names(near, others, MANY)} (bits of {BITS} that differ, up to {NEAR}): likely leakage, look at them"
    return [Finding("near duplicates", text, WARNING)] if twins else []
