"""Makes the lists of images and masks for SAM-Med2D: image2label_train.json and label2image_test.json.

The name of a mask is the name of its image, alone or with an underscore and more text: ct_07.png, ct_07_liver.png and
ct_07_liver_001.png are masks of ct_07.png. A mask must hold one object. If your masks hold several objects, --split
writes one mask for each object. The slices of volumes that show an object become PNG files in DIR/slices. If you give
relative paths, train and test from the same working folder.
"""

import argparse
from pathlib import Path

from ..cli import Parser, add_mask_values, add_recipe_flags
from ..errors import UserError
from ..limits import check_numbers
from ..recipe import make_foreground_rule
from ..slice_view import SliceView


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    p.add_argument("masks", type=Path, metavar="MASKS", help="folder of masks, one or more for each image")
    p.add_argument("--save_path", type=Path, required=True, metavar="DIR", help="folder for the lists")
    parts = p.add_mutually_exclusive_group()
    parts.add_argument("--part", choices=("train", "test"), default="train", help="the list to write; default: train")
    parts.add_argument(
        "--hold_out", type=int, metavar="N", help="write both lists; every N-th image or volume goes into the test list"
    )
    p.add_argument(
        "--split",
        choices=("regions", "values"),
        help="write a mask for each object to DIR/masks; an object is a connected region, or a value above 0",
    )
    add_mask_values(p)
    add_recipe_flags(p, "volumes")
    p.add_argument(
        "--size",
        type=int,
        default=256,
        help="input side of the model; masks that are empty at this size are left out; default: 256",
    )
    return p


def run(args: argparse.Namespace) -> None:
    from ..prompts.make_lists import make_lists

    check_numbers({"size": args.size})
    if args.hold_out is not None and args.hold_out < 2:
        raise UserError(f"hold_out is {args.hold_out}; it must be 2 or more, for example 5 for every fifth image")
    if args.split == "values" and args.mask_threshold is not None:
        raise UserError(
            "--split values makes an object of each value; leave --mask_threshold out; --foreground selects values"
        )
    make_lists(
        args.images,
        args.masks,
        args.save_path,
        SliceView(args.axis, args.window, args.context or 0),
        part=args.part,
        hold_out=args.hold_out,
        split=args.split,
        rule=make_foreground_rule(args.mask_threshold, args.foreground),
        size=args.size,
    )
