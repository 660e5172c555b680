"""List images with their masks as SAM-Med2D reads them: image2label_train.json and label2image_test.json.

A mask belongs to the image whose stem its own begins with, alone or before an underscore: ct_07.png has ct_07.png,
ct_07_liver.png and ct_07_liver_001.png. A mask file is one object; --split writes one file for each object instead.
Paths are written as they are given here, and are read from the same working folder.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sam2unet.atomic import claim_folder, make_folder, refuse_existing, write_atomic
from sam2unet.cli import Parser, add_mask_values, main
from sam2unet.data.check import check_masks
from sam2unet.data.pairs import Pair, list_images, warn_unpaired_masks
from sam2unet.data.reading import open_image, rotate_upright
from sam2unet.errors import UserError, print_line, shortlist, warn
from sam2unet.limits import check_numbers
from sam2unet.prompts.framing import Framing, read_label
from sam2unet.prompts.lists import TEST_LIST, TRAIN_LIST, ImageMasks, find_problems, write_test_list, write_train_list
from sam2unet.recipe import ForegroundRule, make_foreground_rule
from sam2unet.runtime.parallel import map_files


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    p.add_argument("masks", type=Path, metavar="MASKS", help="folder of their masks, one or more for an image")
    p.add_argument("--save_path", type=Path, required=True, metavar="DIR", help="gets the list, or both lists")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--part", choices=("train", "test"), default="train", help="which list these are for")
    what.add_argument(
        "--hold_out", type=int, metavar="N", help="every N-th image is for the test list, the others train"
    )
    p.add_argument(
        "--split",
        choices=("regions", "values"),
        help="objects are the connected regions of a mask, or the values above 0 of a label map; written to DIR/masks",
    )
    add_mask_values(p)
    p.add_argument(
        "--size", type=int, default=256, help="of the model: masks that have nothing left there are left out"
    )
    return p


def run(args: argparse.Namespace) -> None:
    check_numbers({"size": args.size})
    if args.hold_out is not None and args.hold_out < 2:
        raise UserError(f"hold_out is {args.hold_out}; it must be 2 or more, e.g. 5 for a fifth")
    if args.split == "values" and args.mask_threshold is not None:
        raise UserError(
            "--split values takes every value as an object; leave --mask_threshold out, --foreground selects some"
        )
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    framing = Framing(args.size, mask_threshold=rule)
    items = matched(args.images, args.masks)
    train, test = (items, []) if args.part == "train" else ([], items)
    if args.hold_out is not None:
        test = items[args.hold_out - 1 :: args.hold_out]
        train = [item for number, item in enumerate(items, 1) if number % args.hold_out]
        if not test:
            raise UserError(f"hold_out {args.hold_out} leaves no test image of {len(items)}; give a smaller one")
    masks = [mask for item in items for mask in item.masks]
    if args.split == "regions" and rule is not None:
        check_masks(masks, rule)
    if args.split and (long := [mask.name for mask in masks if len(os.fsencode(f"{mask.stem}_000.png")) > 255]):
        raise UserError(f"{len(long)} names of masks are too long to add _000 to: {shortlist(long)}; shorten them")
    make_folder(args.save_path)
    refuse_existing(*(args.save_path / name for part, name in ((train, TRAIN_LIST), (test, TEST_LIST)) if part))
    if args.split:
        folder = args.save_path / "masks"
        if folder.resolve() == args.masks.resolve():
            raise UserError(f"{folder} is the folder of masks; give another --save_path")
        claim_folder(folder, "masks of one object each")
        train, test = (split(part, folder, args.split, rule) for part in (train, test))
        framing = Framing(args.size)
    if train:
        train = usable(train, framing, strict=False)
        write_train_list(args.save_path, train)
        print_line(f"{len(train)} images with {count(train)} masks in {args.save_path / TRAIN_LIST}")
    if test:
        test = usable(test, framing, strict=True)
        write_test_list(args.save_path, [Pair(item.image, mask) for item in test for mask in item.masks])
        print_line(f"{len(test)} images with {count(test)} masks in {args.save_path / TEST_LIST}")


def matched(image_folder: Path, mask_folder: Path) -> list[ImageMasks]:
    """Images that have masks, sorted; the longest stem that fits takes a mask. Warns of both kinds left over."""
    images = list_images(image_folder)
    masks: dict[str, list[Path]] = {stem: [] for stem in images}
    spare = []
    for name, path in list_images(mask_folder).items():
        owners = [stem for stem in prefixes(name) if stem in images]
        masks[owners[0]].append(path) if owners else spare.append(path.name)
    warn_unpaired_masks(spare, image_folder, mask_folder)
    if lonely := [images[stem].name for stem, found in masks.items() if not found]:
        warn(
            f"{len(lonely)} of {len(images)} images have no mask in {mask_folder} and are left out: {shortlist(lonely)}"
        )
    if len(lonely) == len(images):
        raise UserError(
            f"no mask in {mask_folder} has the name of an image in {image_folder}, alone or before an underscore"
        )
    return [ImageMasks(path, tuple(masks[stem])) for stem, path in images.items() if masks[stem]]


def prefixes(name: str) -> list[str]:
    """`a_b_c` -> a_b_c, a_b, a."""
    words = name.split("_")
    return ["_".join(words[:length]) for length in range(len(words), 0, -1)]


def usable(items: Sequence[ImageMasks], framing: Framing, strict: bool) -> list[ImageMasks]:
    """Without masks that are empty, lost in the square or unreadable, which are warned of; UserError if all are."""
    pairs = [Pair(item.image, mask) for item in items for mask in item.masks]
    found = dict(zip(pairs, find_problems(pairs, framing, strict), strict=True))
    bad = [(pair, words) for pair, words in found.items() if words]
    if len(bad) == len(pairs):
        raise UserError(f"none of {len(pairs)} masks can be used; first: {bad[0][1]}")
    if bad:
        names = shortlist([pair.mask.name for pair, _ in bad])
        warn(f"{len(bad)} of {len(pairs)} masks are left out: {names}; first: {bad[0][1]}")
    kept = [ImageMasks(image, tuple(m for m in masks if not found[Pair(image, m)])) for image, masks in items]
    return [item for item in kept if item.masks]


def split(items: Sequence[ImageMasks], folder: Path, by: str, rule: ForegroundRule) -> list[ImageMasks]:
    """One 0/255 file per object in `folder`, named after its mask: `ct_07_000.png`, in label maps by the value."""

    def pieces(path: Path) -> list[Path]:
        written = []
        for number, piece in regions_of(path, rule) if by == "regions" else values_of(path, rule):
            target = folder / f"{path.stem}_{number:03d}.png"
            with write_atomic(target) as file:
                Image.fromarray(np.where(piece, 255, 0).astype(np.uint8)).save(file, "PNG")
            written.append(target)
        return written

    paths = [path for item in items for path in item.masks]
    found = dict(zip(paths, map_files(pieces, paths), strict=True))
    if paths and not any(found.values()):
        raise UserError(f"none of {len(paths)} masks holds an object: {shortlist([path.name for path in paths])}")
    objects = [ImageMasks(item.image, tuple(p for mask in item.masks for p in found[mask])) for item in items]
    return [item for item in objects if item.masks]


def regions_of(path: Path, threshold: ForegroundRule) -> list[tuple[int, np.ndarray]]:
    count, regions = cv2.connectedComponents(read_label(path, threshold).astype(np.uint8), connectivity=8)
    return [(number, regions == number + 1) for number in range(count - 1)]


def values_of(path: Path, wanted: ForegroundRule) -> list[tuple[int, np.ndarray]]:
    """A label map: values of an 8 or 16-bit grey file, or numbers of a palette's colours."""
    with open_image(path) as image:
        values = np.asarray(rotate_upright(image))
    if values.ndim != 2:
        raise UserError(f"{path} has {image.mode} pixels; a label map is grey or has a palette")
    found = set(np.unique(values).tolist()) & set(wanted) if wanted else np.unique(values)
    return [(int(value), values == value) for value in sorted(found) if value > 0]


def count(items: Sequence[ImageMasks]) -> int:
    return sum(len(item.masks) for item in items)


if __name__ == "__main__":
    main(parser, run)
