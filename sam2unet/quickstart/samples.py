"""Trains, predicts and scores on sample data. The run shows that an installation works."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from ..atomic import claim_folder
from ..data.images.masks import FOREGROUND, read_mask
from ..data.pairs import Pair, match
from ..errors import UserError, print_line
from ..recipe import ForegroundRule, to_foreground_flags
from ..run_command import CONFIGS, run_command
from .run import draw_maps

MAX_RATIO = 0.7  # MAE on the sample data, divided by that of the best constant map


def run_on_samples(folder: Path, weights: Path | None, rule: ForegroundRule, start: Path) -> None:
    """Writes sample data, a checkpoint, maps, scores and a picture into `folder`.

    Args:
        weights: a SAM 2 checkpoint to start from. None: random weights.
        start: the folder that printed paths start from.

    Raises:
        UserError: the maps of the held-out images are hardly better than a constant map.
    """
    train, test, maps = folder / "data/train", folder / "data/test", folder / "maps"
    if claim_folder(folder, "a quickstart with sample data"):
        print_line(f"{os.path.relpath(folder, start)} is of an earlier quickstart, which goes on; its model is kept")
    run_command("make-samples", "--save_path", folder / "data")
    released = weights and torch.cuda.is_available()
    recipe = ["--config", CONFIGS / f"{'sam2unet' if released else 'quickstart'}.yaml"]
    recipe += ["--hiera_path", weights] if weights else ["--encoder", "tiny"]
    inputs = ["--train_image_path", train / "images", "--train_mask_path", train / "masks"]
    coding = to_foreground_flags(rule)
    run_command("train", *recipe, *inputs, "--save_path", folder, "--resume", "auto", *coding)
    checkpoint = max(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    inputs = ["--test_image_path", test / "images", "--test_gt_path", test / "masks"]
    run_command("test", "--checkpoint", checkpoint, *inputs, "--save_path", maps)
    scores = ["--dataset_name", "held-out", "--pred_path", maps, "--gt_path", test / "masks"]
    run_command("eval", *scores, "--save_dir", folder / "scores", *coding)

    pairs = match(test / "images", test / "masks")
    draw_maps(pairs, folder, rule)
    results = json.loads((folder / "scores/results.json").read_text())
    ours, constant = results["datasets"]["held-out"][""]["MAE"], constant_error(pairs, rule)
    print_line()
    print_line(f"held-out MAE {ours:.3f}, best constant map {constant:.3f}, ratio {ours / constant:.2f}")
    print_line(f"pictures: {os.path.relpath(folder / 'overview.png', start)}")
    if ours > MAX_RATIO * constant:
        raise UserError(f"the ratio should be at most {MAX_RATIO} on the sample data; this installation trains worse")


def constant_error(pairs: list[Pair], rule: ForegroundRule) -> float:
    """Returns the mean absolute error of a black or a white map, the lower of both. No constant grey is better."""
    masks = (np.asarray(read_mask(pair.mask, rule)) > FOREGROUND for pair in pairs)
    share = np.mean([mask.mean() for mask in masks])
    return float(min(share, 1 - share))
