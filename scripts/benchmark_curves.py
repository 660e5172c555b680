"""Losses of the first updates as one picture: the released way, ours, and ours in bf16, from the same weights.

Same images in the same order, same flips, trunk frozen. A point per update, and their running mean as a line.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from benchmark_train import add_training_flags, job_of, measured

from sam2unet.errors import UserError
from sam2unet.files import make_folder, written_whole
from sam2unet.scoring.plots import COLOURS, LINES, STYLE

ROWS = {"released": "released way, fp32", "ours": "ours, fp32", "ours+bf16": "ours, bf16"}
LAST = 50  # updates whose mean loss is printed


def add_flags(p: argparse.ArgumentParser) -> None:
    add_training_flags(p)
    p.add_argument("--size", type=int, default=96, help="side in pixels; default: 96")
    p.add_argument("--batch_size", type=int, default=12, help="default: 12")
    p.add_argument("--steps", type=int, default=200, help="updates; default: 200")
    p.add_argument("--save_path", type=Path, required=True, help="the picture, PNG")


def run(args: argparse.Namespace) -> None:
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as e:
        raise UserError('curves need matplotlib, which is not installed: pip install -e ".[plots]"') from e
    machine = measured(job_of(args, "machine"))
    print(f"{machine['encoder']} at {args.size}x{args.size}, batch {args.batch_size}, on {machine['device']}")
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
    picture = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure = matplotlib.figure.Figure(figsize=(6.4, 3.4), layout="constrained")
        draw(figure, curves)
        figure.savefig(picture, format="png", metadata={"Software": None})
    make_folder(args.save_path.resolve().parent)
    with written_whole(args.save_path) as file:
        file.write(picture.getvalue())


def draw(figure, curves: dict[str, list[float]], window: int = 15) -> None:
    axes = figure.subplots()
    for (title, losses), colour, line in zip(curves.items(), COLOURS, LINES, strict=False):
        updates = np.arange(1, len(losses) + 1)
        axes.plot(updates, losses, ".", color=colour, markersize=2.5, alpha=0.35, markeredgewidth=0)
        axes.plot(updates, running_mean(losses, window), color=colour, linestyle=line, label=title)
    axes.set(xlabel="update", ylabel="loss, sum of the three outputs", xlim=(0, None))
    axes.legend()


def running_mean(values: list[float], window: int) -> np.ndarray:
    """Of the `window` values around each; of fewer at the ends."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
