"""The parts that the benchmarks share: rows in processes of their own, the facts of the machine, and tables."""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.released.masks import use_released_order_
from sam2unet.errors import UserError
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES, Family, check_size, find_family_of
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import is_out_of_memory, pick_device, pick_half_type
from sam2unet.runtime.parallel import default_workers
from sam2unet.runtime.versions import read_cpu_name, versions
from sam2unet.weights.weight_files import add_weight_flags

MODELS = [name for name, family in FAMILIES.items() if family.task == "masks"]  # `prompts` measures the other models
NUMBER_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# FLOP/s without sparsity, from the data sheets. fp32 is the rate of matrix products in PyTorch's default, without TF32.
PEAKS = dict.fromkeys(("NVIDIA H200", "NVIDIA H100 80GB HBM3"), {"fp32": 67e12, "bf16": 989e12})

Measurement = dict[str, object]  # numbers by name; "rate" is images per second

Best = dict[str, Measurement | str]  # row -> its best measurement, or why there is none


class NotMeasured(UserError):
    """The memory is too small for a measurement, or its process was killed."""


def add_model_flags(p: argparse.ArgumentParser, weights: str) -> None:
    """Adds the flags of the model and of the machine. `weights` ends the help of the weight flags."""
    add_weight_flags(p, weights)
    p.add_argument("--model", choices=MODELS, default="sam2unet", help=f"{' or '.join(MODELS)}; default: sam2unet")
    for option in ("encoder", "dino"):
        p.add_argument(f"--{option}", help="size of that part; default: the released size, or the size in its file")
    p.add_argument("--device", help="default: a GPU if there is one")


def add_row_flags(p: argparse.ArgumentParser, rows: Sequence[str], options: Sequence[str]) -> None:
    p.add_argument("--size", type=int, help="side of the input in pixels; default: the released size of the model")
    p.add_argument("--rounds", type=int, default=3, help="measurements of each row; default: 3")
    words = f"default: {' '.join(rows)}. You can add +{', +'.join(options)} to ours and fast"
    p.add_argument("--rows", nargs="+", default=rows, metavar="ROW", help=words)


def check_rows(rows: Sequence[str], options: Sequence[str]) -> None:
    for row in rows:
        way, *added = row.split("+")
        if way not in ("released", "ours", "fast") or set(added) - set(options) or (way == "released" and added):
            raise UserError(f"no row {row}; there are released, and ours or fast with any of +{', +'.join(options)}")


def read_shape(args: argparse.Namespace) -> NetworkShape:
    return NetworkShape(encoder=args.encoder, dino=args.dino)


def read_side(args: argparse.Namespace) -> int:
    return Recipe.read(model=args.model, size=args.size).size


def count_workers(args: argparse.Namespace) -> int:
    return default_workers() if args.workers is None else args.workers


def run_alone(function: Callable[..., Measurement], *arguments: object) -> Measurement:
    """Returns what `function` measures in a new process, so that no row changes the memory or the speed of another."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as e:
            raise NotMeasured("not measured: its process was killed") from e
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
            raise NotMeasured("not measured: out of memory") from e


def pick_faster(a: Measurement, b: Measurement) -> Measurement:
    return max(a, b, key=lambda measurement: measurement["rate"])


def measure_in_turns(
    rows: Sequence[str],
    rounds: int,
    measure: Callable[[str], Measurement],
    summary: str = "{rate:.3f} images/s",
    best_of: Callable[[Measurement, Measurement], Measurement] = pick_faster,
) -> Best:
    """Returns the best measurement of each row. In each round every row is measured once, in a process of its own."""
    best: Best = {}
    for number in range(1, rounds + 1):
        for row in rows:
            try:
                new = run_alone(measure, row)
                text = summary.format(**new).rstrip()
                best[row] = best_of(best[row], new) if isinstance(best.get(row), dict) else new
            except NotMeasured as e:
                text = str(e)
                best.setdefault(row, text)
            print(f"round {number}, {row}: {text}", file=sys.stderr, flush=True)
    return best


def describe_machine(
    args: argparse.Namespace,
    model: nn.Module,
    count_flops: Callable[[str, Family, nn.Module, Tensor], tuple[int, ...]],
    packages: Sequence[str],
) -> Measurement:
    """Returns what all rows have in common. Raises UserError for flags that no row can work with.

    Args:
        count_flops: returns floating-point operations, of "released" or "ours", for an image (1, 3, S, S). Model and
            image are on the meta device.
    """
    device, side = pick_device(args.device), read_side(args)
    family = find_family_of(model)
    check_size(family, side)
    if count_workers(args) < 0:
        raise UserError(f"workers is {args.workers}; it must be 0 or above")
    title = family.describe(family.find_shape(model.state_dict()))
    model, image = model.to("meta"), torch.empty(1, 3, side, side, device="meta")
    ours = count_flops("ours", family, model, image)
    name = name_device(device)
    return {
        "device": name if device.type == "cuda" else f"{name}, {torch.get_num_threads()} threads",
        "versions": describe_versions(packages),
        "work": f"{title} at {side}x{side}",
        "flops": {"released": count_flops("released", family, use_released_order_(model), image), "ours": ours},
        "peaks": PEAKS.get(name)
        or {kind: measure_peak(device, NUMBER_TYPES[kind]) for kind in list_fast_types(device)},
        "peaks_from": "data sheet" if name in PEAKS else "the fastest of some products and convolutions",
    }


def list_fast_types(device: torch.device) -> list[str]:
    """Returns the number types that the hardware computes with. Others would take minutes to measure."""
    return ["fp32"] if pick_half_type(device) == "off" else ["fp32", "bf16"]


def name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else read_cpu_name()


def describe_versions(packages: Sequence[str]) -> str:
    return f"{', '.join(map(' '.join, versions(packages).items()))}; {datetime.date.today().isoformat()}"


def describe_work(machine: Measurement, work: str, arithmetic: str) -> str:
    """Returns the lines above a table."""
    flops = (f"{way} {' and '.join(f'{n / 1e9:.1f}' for n in counts)}" for way, counts in machine["flops"].items())
    peaks = (f"{kind} {peak / 1e12:.4g}" for kind, peak in machine["peaks"].items())
    return "\n".join(
        (
            f"{machine['device']}; {machine['versions']}",
            f"{machine['work']}, {work}",
            f"arithmetic {arithmetic}, GFLOP: {', '.join(flops)}",
            f"device's peak, TFLOP/s: {', '.join(peaks)} ({machine['peaks_from']})",
        )
    )


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Returns FLOP/s of a matrix product or of a convolution, whichever is faster. CPUs use two libraries for them."""
    side, width = (8192, 1024) if device.type == "cuda" else (1024, 128)
    a, b, images, weight = (
        torch.randn(shape, device=device).to(dtype)
        for shape in ((side, side), (side, side), (1, width, 130, 130), (width, width, 3, 3))
    )
    works = {
        2 * side**3: lambda: a @ b,
        2 * 9 * width**2 * 128**2: lambda: F.conv2d(images, weight),
    }
    return max(flops / min(time_calls(work, device)) for flops, work in works.items())


def time_calls(work: Callable[[], object], device: torch.device) -> list[float]:
    """Returns the seconds of up to 20 calls, together about 2 seconds."""
    seconds = []
    while len(seconds) < 20 and sum(seconds) < 2:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def time_updates(
    updates: Iterator[object], warm_up: int, steps: int, device: torch.device
) -> tuple[float, list[object]]:
    """Returns the seconds of `steps` updates after `warm_up` others, and what all updates yielded."""
    results = [next(updates) for _ in range(warm_up)]
    wait(device)
    start = time.perf_counter()
    results += [next(updates) for _ in range(steps)]
    wait(device)
    return time.perf_counter() - start, results


def wait(device: torch.device) -> None:
    """Waits until the device has finished, so that a clock shows the time of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def format_peak_share(machine: Measurement, row: str, images_per_second: float, kind: str) -> str:
    """Returns the arithmetic per second of a row, as a share of the device's peak in the row's number type."""
    flops = machine["flops"]["released" if row == "released" else "ours"][-1]
    peak = machine["peaks"].get(kind.replace("fp16", "bf16"))  # fp16 is as fast as bf16 where it is used
    return f"{images_per_second * flops / peak:.1%} of {kind}" if peak else "not measured"


def format_number(value: float, digits: str = ".3g") -> str:
    return f"{value:{digits}}" if value < 100 else f"{value:.0f}"


def format_ratio(best: Best, row: str, name: str = "rate") -> str:
    """Returns how many times the released number a number is, or no text if `released` was not measured."""
    released = best.get("released", "")
    return "" if isinstance(released, str) else f"{best[row][name] / released[name]:.2f}"


def format_table(titles: Sequence[str], best: Best, make_cells: Callable[[str], list[str]], *first_cells: str) -> str:
    """Returns a table in Markdown with one line per row: `first_cells`, the name of the row, its other cells."""
    lines = [f"| {' | '.join(titles)} |", f"| {' | '.join('---' if t == 'row' else '---:' for t in titles)} |"]
    for row, measurement in best.items():
        cells = [*first_cells, row, *([measurement] if isinstance(measurement, str) else make_cells(row))]
        lines.append(f"| {' | '.join(cells)} |" + " |" * (len(titles) - len(cells)))
    return "\n".join(lines)


def format_speeds(title: str, best: Best, unit: float | None = None) -> str:
    """Returns a table of rates, or of times in `1 / unit` seconds."""

    def make_cells(row: str) -> list[str]:
        rate = best[row]["rate"]
        return [f"{rate if unit is None else unit / rate:#.3g}", format_ratio(best, row)]

    return format_table(("row", title, "ratio"), best, make_cells)
