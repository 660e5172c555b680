"""Images trained on per second, peak memory and share of the device's peak: the released way and ours, same images.

Each row of each round is a process of its own; the fastest of --rounds counts, and rounds take turns, so that a busy
moment does not hit one row alone. Outside the clock: imports, the model, filling a cache (as from the second epoch on),
and warm-up updates (2 on a CPU; 20 on a GPU, with compiling, until batches that were read ahead are used up). Inside:
reading by worker processes or from the cache, flips, normalising, the update, the check of the loss. Trunk frozen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sam2unet.errors import UserError
from sam2unet.families.table import FAMILIES
from sam2unet.recipe import Recipe
from sam2unet.weights.weight_files import add_weight_flags, read_weight_flags

ROWS = ("released", "ours", "ours+grad_checkpointing", "fast", "fast+grad_checkpointing")
MODELS = [name for name, family in FAMILIES.items() if family.task == "masks"]  # for the others `prompts`
OPTIONS = ("bf16", "fp16", "compile", "channels_last", "fused", "grad_checkpointing", "ram")
TITLES = ("batch", "row", "images/s", "ratio", "peak GiB", "of released", "GiB at start", "of device's peak", "loss 1")


@dataclass(frozen=True)
class Job:
    """What one process measures; `row` names a way of training and options, joined by plus signs."""

    row: str
    train_image_path: str
    train_mask_path: str
    model: str
    sizes: dict[str, str]
    weight_paths: dict[str, str]
    size: int | None
    batch_size: int
    steps: int
    device: str | None
    workers: int | None
    seed: int


def add_flags(p: argparse.ArgumentParser) -> None:
    add_training_flags(p)
    p.add_argument("--size", type=int, help="side in pixels; default: the model's released one")
    p.add_argument("--batch_size", type=int, nargs="+", metavar="N", help="a table each; default: the released one")
    p.add_argument("--steps", type=int, default=20, help="updates inside the clock; default: 20")
    p.add_argument("--rounds", type=int, default=3, help="default: 3")
    p.add_argument(
        "--rows",
        nargs="+",
        default=ROWS,
        metavar="ROW",
        help=f"default: {' '.join(ROWS)}. To ours or fast can be added +{', +'.join(OPTIONS)}",
    )


def add_training_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--train_image_path", type=Path, required=True)
    p.add_argument("--train_mask_path", type=Path, required=True)
    add_weight_flags(p, " to start from; default: random weights, frozen all the same")
    add_model(p)
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--workers", type=int, help="processes that read images; default: one per core, at most 8")
    p.add_argument("--seed", type=int, default=1024, help="of weights, order and flips")


def run(args: argparse.Namespace) -> None:
    check_rows(args.rows)
    args.batch_size = args.batch_size or [Recipe.read(model=args.model).batch_size]
    if min(args.steps, args.rounds, *args.batch_size) < 1:
        raise UserError("batch_size, steps and rounds must be above 0")
    machine = measured(job_of(args, "machine"))
    print(describe(machine, args), flush=True)
    for batch_size in args.batch_size:
        best: dict[str, dict] = {}
        for round in range(args.rounds):
            for row in args.rows:
                found = measured(job_of(args, row, batch_size=batch_size))
                print(f"batch {batch_size}, round {round + 1}, {row}: {in_short(found, batch_size)}", file=sys.stderr)
                if row not in best or found.get("seconds", 1e9) < best[row].get("seconds", 1e9):
                    best[row] = found
        print(table(best, batch_size, machine), flush=True)


def check_rows(rows: list[str]) -> None:
    for row in rows:
        way, *options = row.split("+")
        if way not in ("released", "ours", "fast") or set(options) - set(OPTIONS) or (way == "released" and options):
            raise UserError(f"no row {row}; there are released, and ours or fast with any of +{', +'.join(OPTIONS)}")


def add_model(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", choices=MODELS, default="sam2unet", help=f"{' or '.join(MODELS)}; default: sam2unet")
    for option in ("encoder", "dino"):
        p.add_argument(f"--{option}", help="size of that part; default: the released one, or that of its file")


def job_of(args: argparse.Namespace, row: str, **other: object) -> Job:
    return Job(**fields_of(args, Job) | {"row": row, "batch_size": 1} | other)


def fields_of(args: argparse.Namespace, job: type) -> dict[str, object]:
    """Those of a Job that are flags, in a form that JSON takes."""
    flags = vars(args) | {
        "sizes": {option: size for option in ("encoder", "dino") if (size := getattr(args, option)) is not None},
        "weight_paths": {flag: str(path) for flag, path in read_weight_flags(args).items()},
    }
    fields = {field.name for field in dataclasses.fields(job)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in flags.items() if name in fields}


def measured(job: object, module: str = "train_row") -> dict:
    """What the script found for a Job, in a process of its own; only "failed", in words, where it could not."""
    command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(dataclasses.asdict(job))]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
        return {"failed": f"its process ended with {ended}"}
    *_, last = process.stdout.splitlines()
    found = json.loads(last)
    if "error" in found:
        raise UserError(found["error"])
    return found


def describe(machine: dict, args: argparse.Namespace) -> str:
    lines = [
        "; ".join((machine["device"], ", ".join(map(" ".join, machine["versions"].items())), machine["date"])),
        f"{machine['model']} at {machine['size']}x{machine['size']}, "
        f"{machine['pairs']} pairs, workers {machine['workers']}; {args.steps} updates, best of {args.rounds} rounds",
        "arithmetic per image, forward and in training, GFLOP: "
        + ", ".join(f"{way} {f / 1e9:.1f} and {t / 1e9:.1f}" for way, (f, t) in machine["flops"].items()),
        "device's peak, TFLOP/s: "
        + ", ".join(f"{kind} {peak / 1e12:.4g}" for kind, peak in machine["peaks"].items())
        + f" ({machine['peaks_from']})",
    ]
    return "\n".join(lines)


def in_short(found: dict, batch_size: int) -> str:
    if "failed" in found:
        return f"not measured: {found['failed']}"
    chosen = f"  ({found['chosen']})" if found["chosen"] else ""
    return f"{images_per_second(found, batch_size):.3f} images/s, {found['peak_mib'] / 1024:.2f} GiB{chosen}"


def images_per_second(found: dict, batch_size: int) -> float:
    return batch_size * found["steps"] / found["seconds"]


def table(best: dict[str, dict], batch_size: int, machine: dict) -> str:
    """Markdown. Ratios are to the row `released`, where that was measured."""
    first = best.get("released", {"failed": ""})
    lines = [f"\n| {' | '.join(TITLES)} |", "| ---: | --- " + "| ---: " * (len(TITLES) - 2) + "|"]
    for row, found in best.items():
        if "failed" in found:
            lines.append(f"| {batch_size} | {row} | not measured: {found['failed']} |" + " |" * (len(TITLES) - 3))
            continue
        rate = images_per_second(found, batch_size)
        flops = machine["flops"]["released" if row == "released" else "ours"][1]
        cells = [
            f"{rate:#.3g}" if rate < 100 else f"{rate:.0f}",
            "" if "failed" in first else f"{rate / images_per_second(first, batch_size):.2f}",
            f"{found['peak_mib'] / 1024:.2f}",
            "" if "failed" in first else f"{found['peak_mib'] / first['peak_mib']:.2f}",
            f"{found['start_mib'] / 1024:.2f}",
            # fp16 is as fast as bf16 where it is used
            f"{rate * flops / machine['peaks'][found['kind'].replace('fp16', 'bf16')]:.1%} of {found['kind']}",
            f"{found['losses'][0]:.5f}",
        ]
        lines.append(f"| {batch_size} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines)
