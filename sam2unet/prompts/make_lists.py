"""Makes the lists of images and masks for SAM-Med2D from folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..atomic import claim_folder, make_folder, refuse_existing
from ..data.checks.check import check_masks
from ..data.images.masks import MaskCoding, is_colour_mask, read_mask, stored_values
from ..data.images.pictures import encode_png, write_bytes
from ..data.images.reading import open_image, read_image, rotate_upright
from ..data.pairs import Pair, find_duplicates, list_files, list_images, match, warn_unpaired_masks
from ..data.volumes.open import is_volume
from ..data.volumes.slices import Slice, Source, find_white, list_cases
from ..errors import UserError, print_line, shortlist, warn
from ..recipe import ForegroundRule
from ..runtime.parallel import map_files
from ..slice_view import DEFAULT_VIEW, SliceView
from .framing import Framing, read_label
from .lists import (
    TEST_LIST,
    TRAIN_LIST,
    ImageMasks,
    find_problems,
    group_masks,
    write_test_list,
    write_train_list,
)


def make_lists(
    images: Path,
    masks: Path,
    folder: Path,
    view: SliceView,
    part: str = "train",
    hold_out: int | None = None,
    split: str | None = None,
    rule: ForegroundRule = None,
    size: int = 256,
) -> None:
    """Writes the lists of images and masks into `folder`.

    Args:
        part: the list to write, `train` or `test`, if `hold_out` is None.
        hold_out: writes both lists; every N-th image or volume goes into the test list.
        split: `regions` or `values` writes a mask for each object to `folder`/masks.
        rule: which values of the masks are foreground.
        size: input side of the model. Masks that are empty at this size are left out.
    """
    names = (TRAIN_LIST, TEST_LIST) if hold_out is not None else (TRAIN_LIST if part == "train" else TEST_LIST,)
    refuse_existing(*(folder / name for name in names))
    protects = any((folder / name).exists() for name in (TRAIN_LIST, TEST_LIST))  # the list of an earlier call
    if any(map(is_volume, list_files(images, volumes=True))):
        keeps_values = rule is not None or split == "values"
        cases = write_slices(images, masks, folder / "slices", view, keeps_values, protects)
    elif view != DEFAULT_VIEW:
        raise UserError(f"{images} has no volumes, which --axis, --window and --context are for; leave them out")
    else:
        cases = {item: item.image.stem for item in match_masks(images, masks)}
    items = list(cases)
    train, test = divide_images(items, list(cases.values()), part, hold_out)
    paths = [mask for item in items for mask in item.masks]
    if split == "regions" and rule is not None:
        check_masks(paths, rule)
    if split and (long := [mask.name for mask in paths if len(os.fsencode(f"{mask.stem}_000.png")) > 255]):
        raise UserError(f"{len(long)} names of masks are too long to add _000: {shortlist(long)}; shorten them")
    make_folder(folder)
    if split:
        target = folder / "masks"
        if target.resolve() == masks.resolve():
            raise UserError(f"{target} is the folder of masks; give another --save_path")
        claim_folder(target, "masks of one object each")
        train, test = (split_masks(items, target, split, rule, protects) for items in (train, test))
    write_lists(folder, train, test, Framing(size, mask_threshold=None if split else rule))


def write_lists(folder: Path, train: Sequence[ImageMasks], test: Sequence[ImageMasks], framing: Framing) -> None:
    """Writes a list for each part that is not empty, without the masks that cannot be used."""
    train, test = keep_usable(train, framing, strict=False), keep_usable(test, framing, strict=True)
    if train:
        write_train_list(folder, train)
        print_line(f"{len(train)} images with {count_masks(train)} masks in {folder / TRAIN_LIST}")
    if test:
        write_test_list(folder, [Pair(item.image, mask) for item in test for mask in item.masks])
        print_line(f"{len(test)} images with {count_masks(test)} masks in {folder / TEST_LIST}")


def write_slices(
    image_folder: Path, mask_folder: Path, folder: Path, view: SliceView, keeps_values: bool, protects: bool
) -> dict[ImageMasks, str]:
    """Writes the slices whose mask is not empty as CASE_0042.png. Returns them with their cases, sorted by file name.

    Images are 8-bit. Masks are as `read_slice_mask` returns them. `protects` is as in `write_picture`.
    """
    pairs = match(image_folder, mask_folder, view)
    names = [f"{pair.image.stem.replace('/', '_')}.png" for pair in pairs]
    _, repeated = find_duplicates(zip(names, (pair.image for pair in pairs), strict=True))
    if repeated:
        raise UserError(f"slices with the same name in {image_folder}: {shortlist(repeated)}; rename one of each")
    claim_folder(folder, "slices of volumes")

    def write(job: tuple[str, Pair]) -> ImageMasks | None:
        name, pair = job
        mask = read_slice_mask(pair.mask, keeps_values)
        if not mask.getextrema()[1]:
            return None
        image_path, mask_path = folder / "images" / name, folder / "masks" / name
        write_picture(image_path, np.asarray(read_image(pair.image)), protects)
        write_picture(mask_path, np.asarray(mask), protects)
        return ImageMasks(image_path, (mask_path,))

    items = map_files(write, list(zip(names, pairs, strict=True)))
    cases = list_cases([pair.image.stem for pair in pairs])
    case_by_item = {item: case for item, case in zip(items, cases, strict=True) if item}
    if not case_by_item:
        raise UserError(f"no slice of the masks in {mask_folder} has an object")
    return dict(sorted(case_by_item.items(), key=lambda item: item[0].image.name))


def read_slice_mask(source: Source, keeps_values: bool) -> Image.Image:
    """Reads a mask whose values are stored as they are, in 8 or 16 bits.

    Without `keeps_values`, masks with 0 and 1, or with probabilities, become 0 and 255. Raises UserError for colours,
    and for values that 16 bits cannot store.
    """
    with open_image(source) as image:
        if is_colour_mask(image):
            raise MaskCoding.of(source, "it has colours")
        values = stored_values(rotate_upright(image), source)
    if not keeps_values and isinstance(source, Slice) and find_white(source.volume, source.grid):
        return read_mask(source)
    if values.min() < 0 or values.max() > 65535 or (values != np.rint(values)).any():
        raise UserError(f"{source} has values that a PNG cannot store; write a mask with whole numbers from 0 to 65535")
    return Image.fromarray(values.astype(np.uint8 if values.max() < 256 else np.uint16))


def write_picture(path: Path, pixels: np.ndarray, protects: bool) -> None:
    """Writes a PNG. With `protects`, raises UserError instead of changing a file, because a list may contain it."""
    content = encode_png(pixels)
    if protects and path.exists() and path.read_bytes() != content:
        raise UserError(f"{path} would change, and another list may contain it; give another --save_path")
    write_bytes(path, content)


def divide_images(
    items: Sequence[ImageMasks], cases: Sequence[str], part: str, hold_out: int | None
) -> tuple[Sequence[ImageMasks], Sequence[ImageMasks]]:
    """Returns the images for training and for the test. Images of one case stay together."""
    if hold_out is None:
        return (items, []) if part == "train" else ([], items)
    names = list(dict.fromkeys(cases))
    tested = set(names[hold_out - 1 :: hold_out])
    if not tested:
        raise UserError(f"hold_out {hold_out} leaves no test image of {len(names)}; give a smaller number")
    parts = [
        [item for item, case in zip(items, cases, strict=True) if (case in tested) == is_test] for is_test in (0, 1)
    ]
    return parts[0], parts[1]


def match_masks(image_folder: Path, mask_folder: Path) -> list[ImageMasks]:
    """Returns the images that have masks, sorted by name. Warns about images without masks and masks without images."""
    images = list_images(image_folder)
    masks, unused = group_masks(images, list_images(mask_folder))
    warn_unpaired_masks([path.name for path in unused], image_folder, mask_folder)
    if empty := [images[stem].name for stem, paths in masks.items() if not paths]:
        warn(f"{len(empty)} of {len(images)} images have no mask in {mask_folder} and are left out: {shortlist(empty)}")
    if len(empty) == len(images):
        raise UserError(
            f"no mask in {mask_folder} has the name of an image in {image_folder}, alone or with an underscore and more"
        )
    return [ImageMasks(path, tuple(masks[stem])) for stem, path in images.items() if masks[stem]]


def keep_usable(items: Sequence[ImageMasks], framing: Framing, strict: bool) -> list[ImageMasks]:
    """Leaves out masks that cannot be read or are empty at the size of the model, with a warning.

    Raises:
        UserError: no mask can be used.
    """
    pairs = [Pair(item.image, mask) for item in items for mask in item.masks]
    problems = dict(zip(pairs, find_problems(pairs, framing, strict), strict=True))
    bad = [(pair, problem) for pair, problem in problems.items() if problem]
    if pairs and len(bad) == len(pairs):
        raise UserError(f"none of {len(pairs)} masks can be used; first: {bad[0][1]}")
    if bad:
        names = shortlist([pair.mask.name for pair, _ in bad])
        warn(f"{len(bad)} of {len(pairs)} masks are left out: {names}; first: {bad[0][1]}")
    kept = [ImageMasks(image, tuple(m for m in masks if not problems[Pair(image, m)])) for image, masks in items]
    return [item for item in kept if item.masks]


def split_masks(
    items: Sequence[ImageMasks], folder: Path, by: str, rule: ForegroundRule, protects: bool
) -> list[ImageMasks]:
    """Writes one 0/255 mask per object to `folder`, for example `ct_07_000.png`.

    The number counts the regions, or is the value in a label map. `protects` is as in `write_picture`.
    """

    def write_objects(path: Source) -> list[Source]:
        written: list[Source] = []
        for number, mask in split_regions(path, rule) if by == "regions" else split_values(path, rule):
            target = folder / f"{path.stem}_{number:03d}.png"
            write_picture(target, np.where(mask, 255, 0).astype(np.uint8), protects)
            written.append(target)
        return written

    paths = [path for item in items for path in item.masks]
    objects = dict(zip(paths, map_files(write_objects, paths), strict=True))
    if paths and not any(objects.values()):
        raise UserError(f"none of {len(paths)} masks holds an object: {shortlist([path.name for path in paths])}")
    split_items = [ImageMasks(item.image, tuple(p for mask in item.masks for p in objects[mask])) for item in items]
    return [item for item in split_items if item.masks]


def split_regions(path: Source, threshold: ForegroundRule) -> list[tuple[int, np.ndarray]]:
    """Returns a number and a mask, bool (H, W), for each 8-connected region."""
    count, regions = cv2.connectedComponents(read_label(path, threshold).astype(np.uint8), connectivity=8)
    return [(number, regions == number + 1) for number in range(count - 1)]


def split_values(path: Source, selected: ForegroundRule) -> list[tuple[int, np.ndarray]]:
    """Returns a value and a mask, bool (H, W), for each object of a label map.

    The values are those of an 8 or 16-bit grey image, or the numbers of the colours of a palette.
    """
    with open_image(path) as image:
        values = np.asarray(rotate_upright(image))
    if values.ndim != 2:
        raise UserError(f"{path} has {image.mode} pixels; a label map must be grey or have a palette")
    if (values != np.rint(values)).any():
        raise UserError(f"{path} has values that are not whole numbers; a label map has a whole number for each object")
    assert not isinstance(selected, int)
    numbers = set(np.unique(values).tolist())
    numbers = numbers & set(selected) if selected else numbers
    return [(int(value), values == value) for value in sorted(numbers) if value > 0]


def count_masks(items: Sequence[ImageMasks]) -> int:
    return sum(len(item.masks) for item in items)
