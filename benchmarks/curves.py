"""Losses of the first updates as one picture: the released way, ours, and ours in bf16, from the same weights.

Same images in the same order, same flips, trunk frozen. The numbers are written beside the picture, as CSV.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np

from benchmarks.train import add_training_flags, job_of, measured
from sam2unet.atomic import make_folder, refuse_existing, write_atomic
from sam2unet.errors import UserError
from sam2unet.scoring.plots import COLOURS, STYLE

ROWS = {"released": "released way, fp32", "ours": "ours, fp32", "ours+bf16": "ours, bf16"}
LAST = 50  # updates whose mean loss is printed
WINDOW = 15  # updates in a running mean


def add_flags(p: argparse.ArgumentParser) -> None:
    add_training_flags(p)
    p.add_argument("--size", type=int, default=96, help="side in pixels; default: 96")
    p.add_argument("--batch_size", type=int, default=12, help="default: 12")
    p.add_argument("--steps", type=int, default=200, help="updates; default: 200")
    p.add_argument("--save_path", type=Path, required=True, help="the picture, PNG")


def run(args: argparse.Namespace) -> None:
    refuse_existing(args.save_path, args.save_path.with_suffix(".csv"))
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as e:
        raise UserError('curves need matplotlib, which is not installed: pip install -e ".[plots]"') from e
    machine = measured(job_of(args, "machine"))
    print(f"{machine['model']} at {args.size}x{args.size}, batch {args.batch_size}, on {machine['device']}")
    curves = {}
    for row, title in ROWS.items():
        found = measured(job_of(args, row, batch_size=args.batch_size))
        if "failed" in found:
            raise UserError(f"{title}: {found['failed']}")
        curves[title] = found["losses"][: args.steps]
        last = curves[title][-LAST:]
        print(
            f"{title:<20} first loss {curves[title][0]:.5f}, mean of the last {len(last)} {np.mean(last):.4f}",
            flush=True,
        )
    picture, numbers = io.BytesIO(), io.StringIO()
    with matplotlib.style.context(["default", STYLE]):
        figure = matplotlib.figure.Figure(figsize=(6.8, 4.6), layout="constrained")
        draw(figure, curves)
        figure.savefig(picture, format="png", metadata={"Software": None})
    csv.writer(numbers, lineterminator="\n").writerows([curves, *zip(*curves.values(), strict=True)])
    make_folder(args.save_path.resolve().parent)
    with write_atomic(args.save_path) as file, write_atomic(args.save_path.with_suffix(".csv")) as table:
        file.write(picture.getvalue())
        table.write(numbers.getvalue().encode())


def draw(figure, curves: dict[str, list[float]]) -> None:
    """Above the losses, faint, and their running means; below how far these are from the first curve's."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    first = running_mean(next(iter(curves.values())))
    # Curves that lie on each other are all seen when each is thinner than the one before.
    for (title, losses), colour, width in zip(curves.items(), COLOURS, (5, 2.5, 1), strict=False):
        updates, means = np.arange(1, len(losses) + 1), running_mean(losses)
        above.plot(updates, losses, color=colour, linewidth=width / 3, alpha=0.3)
        above.plot(updates, means, color=colour, linewidth=width, label=title)
        below.plot(updates, means - first, color=colour, linewidth=width / 2 + 0.5)
    above.set(ylabel="loss, sum of three outputs", xlim=(0, len(first)))
    below.set(xlabel="update", ylabel="less the first", ylim=(-0.1, 0.1))
    above.legend(title=f"running means of {WINDOW}")


def running_mean(values: list[float]) -> np.ndarray:
    """Of the `WINDOW` values around each; of fewer at the ends."""
    kernel = np.ones(min(WINDOW, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
