"""Trains, predicts and scores on sample data or on your own folders, and writes a picture and a page of the result."""

import argparse
from pathlib import Path

from ..cli import Parser, add_mask_values
from ..errors import UserError
from ..limits import check_numbers
from ..recipe import make_foreground_rule
from ..weights.download import locate_weight_files
from ..weights.weight_files import add_source_flag

MINUTES = 30


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "--images",
        type=Path,
        help="folder of your images; every fifth pair is held out for the score; default: sample data",
    )
    p.add_argument("--masks", type=Path, help="folder of their masks, with the names of the images")
    p.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"with --images: about how long the run may take; it decides the input size and the number of updates; "
        f"default: {MINUTES}",
    )
    p.add_argument(
        "--hiera_path",
        type=Path,
        metavar="FILE|NAME",
        help="SAM 2 checkpoint to start from, e.g. sam2.1_hiera_tiny, which is downloaded once; helps most; default: "
        "random weights of the tiny encoder",
    )
    add_source_flag(p)
    add_mask_values(p)
    p.add_argument(
        "--save_path",
        type=Path,
        default=Path("runs/quickstart"),
        help="a new folder for all results; default: runs/quickstart",
    )
    p.add_argument(
        "--from", dest="folder", type=Path, default=Path.cwd(), help="the folder that relative paths start from"
    )
    return p


def run(args: argparse.Namespace) -> None:
    from ..quickstart.run import run_on_folders
    from ..quickstart.samples import run_on_samples

    if (args.images is None) != (args.masks is None):
        raise UserError("--images and --masks go together")
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    if args.images is None and args.minutes is not None:
        raise UserError("--minutes is for your own images; give --images and --masks, or leave it out")
    minutes = MINUTES if args.minutes is None else args.minutes
    check_numbers({"minutes": minutes})
    weights = locate_hiera(args) if args.hiera_path else None
    if args.images is None:
        run_on_samples(args.folder / args.save_path, weights, rule, args.folder)
        return
    images, masks = ((args.folder / path).resolve() for path in (args.images, args.masks))
    run_on_folders(images, masks, args.folder / args.save_path, minutes, weights, rule, args.folder)


def locate_hiera(args: argparse.Namespace) -> Path:
    path = args.folder / args.hiera_path
    if path.exists():
        return path
    return args.folder / locate_weight_files({"hiera_path": args.hiera_path}, args.weights_from)["hiera_path"]
