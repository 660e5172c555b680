"""Losses of the first updates as one picture: the released way, ours, and ours in bf16, from the same weights.

All rows use the same images in the same order and the same flips, with a frozen trunk. A CSV file beside the picture
holds the numbers.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.train import add_training_flags, measure_training
from sam2unet.atomic import make_folder, refuse_existing, write_atomic
from sam2unet.errors import UserError
from sam2unet.scoring.plots import COLOURS, STYLE

ROWS = {"released": "released way, fp32", "ours": "ours, fp32", "ours+bf16": "ours, bf16"}
LAST = 50  # updates whose mean loss is printed
WINDOW = 15  # updates in a running mean


def add_flags(p: argparse.ArgumentParser) -> None:
    add_training_flags(p)
    p.set_defaults(warm_up=0)
    p.add_argument("--size", type=int, default=96, help="side of the input in pixels; default: 96")
    p.add_argument("--batch_size", type=int, default=12, help="default: 12")
    p.add_argument("--steps", type=int, default=200, help="updates; default: 200")
    p.add_argument("--save_path", type=Path, required=True, help="the picture, PNG")


def run(args: argparse.Namespace) -> Iterator[str]:
    refuse_existing(args.save_path, args.save_path.with_suffix(".csv"))
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as e:
        raise UserError('curves need matplotlib, which is not installed: pip install -e ".[plots]"') from e
    curves = {}
    for row, title in ROWS.items():
        curves[title] = losses = args.alone.run(measure_training, args, row)["losses"]
        mean = f"mean of the last {len(losses[-LAST:])} {np.mean(losses[-LAST:]):.4f}"
        yield f"{title:<20} first loss {losses[0]:.5f}, {mean}"
    picture, numbers = io.BytesIO(), io.StringIO()
    with matplotlib.style.context(["default", STYLE]):
        figure = matplotlib.figure.Figure(figsize=(6.8, 4.6), layout="constrained")
        draw_curves(figure, curves)
        figure.savefig(picture, format="png", metadata={"Software": None})
    csv.writer(numbers, lineterminator="\n").writerows([curves, *zip(*curves.values(), strict=True)])
    make_folder(args.save_path.resolve().parent)
    with write_atomic(args.save_path) as file, write_atomic(args.save_path.with_suffix(".csv")) as table:
        file.write(picture.getvalue())
        table.write(numbers.getvalue().encode())


def draw_curves(figure, curves: dict[str, list[float]]) -> None:
    """Draws the losses and their running means above, and the differences of the means from the first curve below."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    means = {title: compute_running_means(losses) for title, losses in curves.items()}
    # Each curve is thinner than the one before, so that curves that lie on each other are all visible.
    for (title, losses), colour, width in zip(curves.items(), COLOURS, (5, 2.5, 1), strict=False):
        above.plot(losses, color=colour, linewidth=width / 3, alpha=0.3)
        above.plot(means[title], color=colour, linewidth=width, label=title)
        below.plot(means[title] - next(iter(means.values())), color=colour, linewidth=width / 2 + 0.5)
    above.set(ylabel="loss, sum of three outputs")
    below.set(xlabel="update", ylabel="minus the first", ylim=(-0.1, 0.1))
    above.legend(title=f"running means of {WINDOW}")


def compute_running_means(values: list[float]) -> np.ndarray:
    """Returns the mean of the `WINDOW` values around each value. At the ends there are fewer."""
    kernel = np.ones(min(WINDOW, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
