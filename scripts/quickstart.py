"""Trains, predicts and scores on sample data or on your own folders, and writes a picture of the result."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sam2unet.atomic import claim_folder, make_folder, write_together
from sam2unet.cli import Parser, add_mask_values, main
from sam2unet.data.pairs import Pair, match
from sam2unet.data.pictures import draw_overview, pick_evenly
from sam2unet.data.reading import FOREGROUND, read_image, read_mask
from sam2unet.errors import UserError, print_line
from sam2unet.recipe import ForegroundRule, make_foreground_rule, to_foreground_flags
from sam2unet.run_script import ROOT, run_script
from sam2unet.weights.download import locate_weight_files
from sam2unet.weights.weight_files import add_source_flag

MAX_RATIO = 0.7  # MAE on the sample data, divided by that of the best constant map


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, prog="quickstart.sh")
    p.add_argument(
        "--images",
        type=Path,
        help="folder of your images; every fifth pair is held out for the score; default: sample data",
    )
    p.add_argument("--masks", type=Path, help="folder of their masks, with the names of the images")
    p.add_argument(
        "--hiera_path",
        type=Path,
        metavar="FILE|NAME",
        help="SAM 2 checkpoint to start from; on a GPU with the released recipe; default: random tiny encoder",
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
    folder = args.folder / args.save_path
    train, test, maps = folder / "data/train", folder / "data/test", folder / "maps"
    has_own_data = args.images is not None
    if has_own_data:
        images, masks = ((args.folder / path).resolve() for path in (args.images, args.masks))
        pairs = match(images, masks)
        if len(pairs) < 5:
            raise UserError(f"{len(pairs)} pairs are too few to hold out every fifth; give at least 5")
    if claim_folder(
        folder, f"a quickstart with {images} and {masks}" if has_own_data else "a quickstart with sample data"
    ):
        print_line(f"{args.save_path} is of an earlier quickstart, which goes on; its model is kept")
    if not has_own_data:
        run_script("scripts/make_sample_data.py", "--save_path", folder / "data")
    elif not (folder / "data").exists():
        with write_together(folder) as part:
            hold_out(pairs, part / "data/train", part / "data/test")
    released = args.hiera_path and torch.cuda.is_available()
    recipe = ["--config", ROOT / f"configs/{'sam2unet' if released else 'quickstart'}.yaml"]
    recipe += ["--hiera_path", locate_hiera(args)] if args.hiera_path else ["--encoder", "tiny"]
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    coding = to_foreground_flags(rule)
    inputs = ["--train_image_path", train / "images", "--train_mask_path", train / "masks"]
    run_script("train.py", *recipe, *inputs, "--save_path", folder, "--resume", "auto", *coding)
    checkpoint = max(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    inputs = ["--test_image_path", test / "images", "--test_gt_path", test / "masks"]
    run_script("test.py", "--checkpoint", checkpoint, *inputs, "--save_path", maps)
    scores = ["--dataset_name", "held-out", "--pred_path", maps, "--gt_path", test / "masks"]
    run_script("eval.py", *scores, "--save_dir", folder / "scores", *coding)

    pairs = match(test / "images", test / "masks")
    shown = (
        (read_image(pair.image), read_mask(pair.mask, rule), Image.open(maps / f"{pair.image.stem}.png"))
        for pair in pick_evenly(pairs)
    )
    draw_overview(shown, folder / "overview.png")
    results = json.loads((folder / "scores/results.json").read_text())
    ours, constant = results["datasets"]["held-out"][""]["MAE"], constant_error(pairs, rule)
    print_line()
    print_line(f"held-out MAE {ours:.3f}, best constant map {constant:.3f}, ratio {ours / constant:.2f}")
    print_line(f"pictures: {os.path.relpath(folder / 'overview.png', args.folder)}")
    if not has_own_data and ours > MAX_RATIO * constant:
        raise UserError(f"the ratio should be at most {MAX_RATIO} on the sample data; this installation trains worse")


def locate_hiera(args: argparse.Namespace) -> Path:
    path = args.folder / args.hiera_path
    if path.exists():
        return path
    return args.folder / locate_weight_files({"hiera_path": args.hiera_path}, args.weights_from)["hiera_path"]


def hold_out(pairs: list[Pair], train: Path, test: Path) -> None:
    """Makes links to every fifth pair in `test` and to the other pairs in `train`."""
    for number, pair in enumerate(pairs, start=1):
        split = train if number % 5 else test
        for kind, path in zip(("images", "masks"), pair, strict=True):
            make_folder(split / kind)
            (split / kind / path.name).symlink_to(path.resolve())


def constant_error(pairs: list[Pair], mask_threshold: ForegroundRule) -> float:
    """Returns the mean absolute error of a black or a white map, the lower of both. No constant grey is better."""
    masks = (np.asarray(read_mask(pair.mask, mask_threshold)) > FOREGROUND for pair in pairs)
    share = np.mean([mask.mean() for mask in masks])
    return float(min(share, 1 - share))


if __name__ == "__main__":
    main(parser, run)
