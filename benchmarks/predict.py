"""Maps made per second from the same photographs: the released way, ours as it is, and ours with --fast.

Each row of each round is a process of its own; the best of --rounds counts, for each number, and rounds take turns, so
that a busy moment does not hit one row alone. Outside the clock: imports, the model, and one warm-up over some
photographs, with compiling. `images/s` is a folder from files to files. What an image's parts take is measured apart,
one after another: decode (file to input tensor), forward (normalise and the model, per image of a batch), resize
(logits to 8-bit map), write (PNG). The released way: batches of one, one file after another, all three outputs,
attention on padded windows, fp32, PNG by imageio.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.train import add_model, fields_of, measured
from sam2unet.data.pairs import list_images
from sam2unet.data.reading import read_image
from sam2unet.errors import UserError
from sam2unet.weights.weight_files import add_weight_flags

ROWS = ("released", "ours", "fast")
OPTIONS = ("fp32", "bf16", "fp16", "compile", "fold")
STAGES = ("decode", "forward", "resize", "write")
TITLES = ("row", "images/s", "ratio", *(f"{stage}, ms" for stage in STAGES), "forward of device's peak", "batch")


@dataclass(frozen=True)
class Job:
    """What one process measures; `row` names a way of predicting and options, joined by plus signs."""

    row: str
    folder: str
    checkpoint: str | None
    model: str
    sizes: dict[str, str]
    weight_paths: dict[str, str]
    size: int | None
    device: str | None
    workers: int | None
    batch_size: int | None


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--test_image_path", type=Path, required=True, help="folder of photographs")
    p.add_argument("--checkpoint", type=Path, help="default: random weights, which take as long")
    add_weight_flags(p)
    add_model(p)
    p.add_argument("--size", type=int, help="input side in pixels; default: the model's released one")
    p.add_argument("--megapixels", type=float, default=0.7, help="photographs are resized to this; default: 0.7")
    p.add_argument("--count", type=int, default=32, help="photographs, repeated if there are fewer; default: 32")
    p.add_argument("--rounds", type=int, default=3, help="default: 3")
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--workers", type=int, help="of our rows, as of test.py")
    p.add_argument("--batch_size", type=int, help="of our rows; default: 1, and what --fast chooses")
    p.add_argument(
        "--rows",
        nargs="+",
        default=ROWS,
        metavar="ROW",
        help=f"default: {' '.join(ROWS)}. To ours or fast can be added +{', +'.join(OPTIONS)}",
    )


def run(args: argparse.Namespace) -> None:
    check_rows(args.rows)
    if min(args.count, args.rounds, args.batch_size or 1) < 1 or args.megapixels <= 0:
        raise UserError("count, rounds, megapixels and batch_size must be above 0")
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_photographs(args.test_image_path, Path(folder), args.count, args.megapixels)
        machine = found_by("machine", args, folder)
        if "failed" in machine:
            raise UserError(f"cannot measure here: {machine['failed']}")
        print(describe(machine, args, sizes), flush=True)
        best: dict[str, dict] = {}
        for round in range(args.rounds):
            for row in args.rows:
                found = found_by(row, args, folder)
                print(f"round {round + 1}, {row}: {in_short(found)}", file=sys.stderr, flush=True)
                best[row] = better(best.get(row), found)
    print(table(best, machine))


def check_rows(rows: list[str]) -> None:
    for row in rows:
        way, *options = row.split("+")
        if way not in ROWS or set(options) - set(OPTIONS) or (way == "released" and options):
            raise UserError(f"no row {row}; there are released, and ours or fast with any of +{', +'.join(OPTIONS)}")


def write_photographs(source: Path, folder: Path, count: int, megapixels: float) -> list[tuple[int, int]]:
    """Resized copies, JPEG, with their aspect ratios; their sizes (width, height)."""
    sizes = []
    for number, path in enumerate(itertools.islice(itertools.cycle(list_images(source).values()), count)):
        photo = read_image(path)
        factor = math.sqrt(megapixels * 1e6 / (photo.width * photo.height))
        sizes.append((max(1, round(photo.width * factor)), max(1, round(photo.height * factor))))
        photo.resize(sizes[-1]).save(folder / f"{number:05d}.jpg", quality=95)
    return sizes


def found_by(row: str, args: argparse.Namespace, folder: str) -> dict:
    return measured(Job(**fields_of(args, Job) | {"row": row, "folder": folder}), "predict_row")


def better(best: dict | None, found: dict) -> dict:
    """The best of each number."""
    if best is None or "failed" in best or "failed" in found:
        return best if best and "failed" in found else found
    faster = {name: min(best["ms"][name], found["ms"][name]) for name in STAGES}
    return found | {"ms": faster, "rate": max(best["rate"], found["rate"])}


def describe(machine: dict, args: argparse.Namespace, sizes: list[tuple[int, int]]) -> str:
    mean = sum(width * height for width, height in sizes) / len(sizes) / 1e6
    return "\n".join(
        (
            "; ".join((machine["device"], ", ".join(map(" ".join, machine["versions"].items())), machine["date"])),
            f"{machine['model']} at {machine['size']}x{machine['size']}, "
            f"{len(sizes)} photographs of {mean:.2f} megapixels, workers {machine['workers']}; "
            f"best of {args.rounds} rounds",
            "arithmetic of one forward pass, GFLOP: "
            + ", ".join(f"{way} {flops / 1e9:.1f}" for way, flops in machine["flops"].items()),
            "device's peak, TFLOP/s: "
            + ", ".join(f"{kind} {peak / 1e12:.4g}" for kind, peak in machine["peaks"].items())
            + f" ({machine['peaks_from']})",
        )
    )


def in_short(found: dict) -> str:
    if "failed" in found:
        return f"not measured: {found['failed']}"
    chosen = f"  ({found['chosen']})" if found["chosen"] else ""
    return f"{found['rate']:.3f} images/s, forward {found['ms']['forward']:.2f} ms{chosen}"


def table(best: dict[str, dict], machine: dict) -> str:
    """Markdown. Ratios are to the row `released`, where that was measured."""
    first = best.get("released", {"failed": ""})
    lines = [f"\n| {' | '.join(TITLES)} |", "| --- " + "| ---: " * (len(TITLES) - 1) + "|"]
    for row, found in best.items():
        if "failed" in found:
            lines.append(f"| {row} | not measured: {found['failed']} |" + " |" * (len(TITLES) - 2))
            continue
        flops = machine["flops"]["released" if row == "released" else "ours"]
        peak = machine["peaks"][found["kind"].replace("fp16", "bf16")]  # fp16 is as fast as bf16 where it is used
        cells = [
            f"{found['rate']:.3g}" if found["rate"] < 100 else f"{found['rate']:.0f}",
            "" if "failed" in first else f"{found['rate'] / first['rate']:.2f}",
            *(
                f"{found['ms'][stage]:.3g}" if found["ms"][stage] < 100 else f"{found['ms'][stage]:.0f}"
                for stage in STAGES
            ),
            f"{flops / (found['ms']['forward'] / 1e3) / peak:.1%} of {found['kind']}",
            str(found["batch_size"]),
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)
