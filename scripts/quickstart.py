"""Trains, predicts and scores on sample data or on your own folders, and writes a picture and a page of the result."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sam2unet.atomic import claim_folder
from sam2unet.cli import Parser, add_mask_values, main
from sam2unet.data.pairs import Pair, match
from sam2unet.data.pictures import draw_overview, pick_evenly
from sam2unet.data.reading import FOREGROUND, read_image, read_mask
from sam2unet.errors import UserError, print_line
from sam2unet.limits import check_numbers
from sam2unet.quickstart.run import TITLES, run_on_folders
from sam2unet.recipe import ForegroundRule, make_foreground_rule, to_foreground_flags
from sam2unet.run_script import ROOT, run_script
from sam2unet.weights.download import locate_weight_files
from sam2unet.weights.weight_files import add_source_flag

MAX_RATIO = 0.7  # MAE on the sample data, divided by that of the best constant map
MINUTES = 30


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, prog="quickstart.sh")
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
        default=ROOT / "runs/quickstart",
        help="a new folder for all results; default: runs/quickstart",
    )
    p.add_argument(
        "--from", dest="folder", type=Path, default=Path.cwd(), help="the folder that relative paths start from"
    )
    return p


def run(args: argparse.Namespace) -> None:
    if (args.images is None) != (args.masks is None):
        raise UserError("--images and --masks go together")
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    if args.images is None:
        if args.minutes is not None:
            raise UserError("--minutes is for your own images; give --images and --masks, or leave it out")
        run_on_samples(args, rule)
        return
    minutes = MINUTES if args.minutes is None else args.minutes
    check_numbers({"minutes": minutes})
    images, masks = ((args.folder / path).resolve() for path in (args.images, args.masks))
    weights = locate_hiera(args) if args.hiera_path else None
    run_on_folders(images, masks, args.folder / args.save_path, minutes, weights, rule, args.folder)


def run_on_samples(args: argparse.Namespace, rule: ForegroundRule) -> None:
    folder = args.folder / args.save_path
    train, test, maps = folder / "data/train", folder / "data/test", folder / "maps"
    if claim_folder(folder, "a quickstart with sample data"):
        print_line(f"{args.save_path} is of an earlier quickstart, which goes on; its model is kept")
    run_script("scripts/make_sample_data.py", "--save_path", folder / "data")
    released = args.hiera_path and torch.cuda.is_available()
    recipe = ["--config", ROOT / f"configs/{'sam2unet' if released else 'quickstart'}.yaml"]
    recipe += ["--hiera_path", locate_hiera(args)] if args.hiera_path else ["--encoder", "tiny"]
    inputs = ["--train_image_path", train / "images", "--train_mask_path", train / "masks"]
    coding = to_foreground_flags(rule)
    run_script("train.py", *recipe, *inputs, "--save_path", folder, "--resume", "auto", *coding)
    checkpoint = max(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    inputs = ["--test_image_path", test / "images", "--test_gt_path", test / "masks"]
    run_script("test.py", "--checkpoint", checkpoint, *inputs, "--save_path", maps)
    scores = ["--dataset_name", "held-out", "--pred_path", maps, "--gt_path", test / "masks"]
    run_script("eval.py", *scores, "--save_dir", folder / "scores", *coding)

    pairs = match(test / "images", test / "masks")
    shown = pick_evenly(pairs)
    rows = (
        (read_image(pair.image), read_mask(pair.mask, rule), Image.open(maps / f"{pair.image.stem}.png"))
        for pair in shown
    )
    draw_overview(rows, folder / "overview.png", titles=TITLES, names=[pair.image.name for pair in shown])
    results = json.loads((folder / "scores/results.json").read_text())
    ours, constant = results["datasets"]["held-out"][""]["MAE"], constant_error(pairs, rule)
    print_line()
    print_line(f"held-out MAE {ours:.3f}, best constant map {constant:.3f}, ratio {ours / constant:.2f}")
    print_line(f"pictures: {os.path.relpath(folder / 'overview.png', args.folder)}")
    if ours > MAX_RATIO * constant:
        raise UserError(f"the ratio should be at most {MAX_RATIO} on the sample data; this installation trains worse")


def locate_hiera(args: argparse.Namespace) -> Path:
    path = args.folder / args.hiera_path
    if path.exists():
        return path
    return args.folder / locate_weight_files({"hiera_path": args.hiera_path}, args.weights_from)["hiera_path"]


def constant_error(pairs: list[Pair], rule: ForegroundRule) -> float:
    """Returns the mean absolute error of a black or a white map, the lower of both. No constant grey is better."""
    masks = (np.asarray(read_mask(pair.mask, rule)) > FOREGROUND for pair in pairs)
    share = np.mean([mask.mean() for mask in masks])
    return float(min(share, 1 - share))


if __name__ == "__main__":
    main(parser, run)
