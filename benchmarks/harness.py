"""The parts that the benchmarks share: rows in processes of their own, the facts of the machine, and tables."""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as PoolTimeout  # Python 3.10 has a class of its own
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.released.masks import use_released_order_
from sam2unet.errors import UserError
from sam2unet.families.load import open_model, read_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES, check_size, find_family_of
from sam2unet.layers import hiera, sam_vit
from sam2unet.limits import check_numbers
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import is_out_of_memory, pick_device, pick_half_type, set_seed
from sam2unet.runtime.parallel import default_workers
from sam2unet.runtime.versions import read_cpu_name, versions
from sam2unet.weights.weight_files import add_weight_flags, read_weight_flags

MODELS = [name for name, family in FAMILIES.items() if family.task == "masks"]  # `prompts` measures the other models
# FLOP/s without sparsity, from the data sheets. fp32 is the rate of matrix products in PyTorch's default, without TF32.
PEAKS = dict.fromkeys(("NVIDIA H200", "NVIDIA H100 80GB HBM3"), {"fp32": 67e12, "bf16": 989e12})

Measurement = dict[str, object]  # numbers by name; "rate" is images per second
Cells = dict[str, str]  # title of a column -> text
Columns = dict[
    str, tuple[str, str]
]  # title -> name of a number, and its format; `ratio`: to released; `share`: of peak


class NotMeasured(UserError):
    """There is no result. The text begins with `not measured`, or with `failed` after an error in the code."""


@dataclass(frozen=True)
class Alone:
    """Runs functions in new processes, so that no row changes the memory or the speed of another.

    Attributes:
        deadline: the value of `time.monotonic` at which the processes are killed. None: never.
        log: gets what the processes print, and tracebacks. None: they go to the terminal.
    """

    deadline: float | None = None
    log: Path | None = None

    def run(self, function: Callable, *arguments: object) -> object:
        """Returns what `function` returns. Raises NotMeasured if it fails, is killed or does not end in time."""
        seconds = self.deadline and self.deadline - time.monotonic()
        if seconds is not None and seconds <= 0:
            raise NotMeasured("not measured: the time of its step was over")
        # All processes are forks of one that has imported everything. It must not touch the GPU, so it asks NVML.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.__main__", "timm"])
        with ProcessPoolExecutor(1, context, prepare_process, (self.log,)) as pool:
            future = pool.submit(function, *arguments)
            (group,) = pool._processes
            try:
                return future.result(seconds)
            except UserError:
                raise
            except BrokenProcessPool as e:
                raise NotMeasured("not measured: its process was killed") from e
            except PoolTimeout as e:
                raise NotMeasured("not measured: the time of its step was over") from e
            except ModuleNotFoundError as e:
                raise NotMeasured(f"not measured: the package {e.name} is not installed") from e
            except (Exception, SystemExit) as e:
                if isinstance(e, RuntimeError) and is_out_of_memory(e):
                    raise NotMeasured("not measured: out of memory") from e
                raise NotMeasured(self.report(e)) from e
            finally:
                for kill in (os.killpg, os.kill):  # it may not have begun its group yet
                    with suppress(ProcessLookupError):
                        kill(group, signal.SIGKILL)

    def report(self, error: BaseException) -> str:
        """Writes the traceback. Returns the last line of the error."""
        with open(self.log or os.devnull, "a") as file:
            traceback.print_exception(error, file=file if self.log else sys.stderr)
        return describe_error(error)


def describe_error(error: BaseException) -> str:
    return f"failed: {''.join(traceback.format_exception_only(error)).strip().splitlines()[-1]}"


def prepare_process(log: Path | None) -> None:
    """Begins a process group, so that `Alone` can kill what the process starts. Adds the encoder size `micro`."""
    os.setpgid(0, 0)
    hiera.SIZES["micro"] = dict(dim=8, heads=1, depths=(1, 1, 1, 1), global_blocks=(3,), grid=7, windows=(8, 4, 14, 7))
    sam_vit.SIZES["micro"] = dict(dim=32, depth=2, heads=2, global_blocks=(1,))
    if log:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def add_model_flags(p: argparse.ArgumentParser, weights: str) -> None:
    """Adds the flags of the model and the machine. `weights` ends the help of the weight flags."""
    add_weight_flags(p, weights)
    p.add_argument("--model", choices=MODELS, default="sam2unet", help=f"{' or '.join(MODELS)}; default: sam2unet")
    for option in ("encoder", "dino"):
        p.add_argument(f"--{option}", help="size of that part; default: the released size, or the size in its file")
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--workers", type=int, help="processes or threads that read files; default: one per core, at most 8")


def add_row_flags(p: argparse.ArgumentParser, rows: Sequence[str], options: Sequence[str]) -> None:
    p.add_argument("--size", type=int, help="side of the input in pixels; default: the released size of the model")
    p.add_argument("--rounds", type=int, default=3, help="measurements of each row; default: 3")
    words = f"default: {' '.join(rows)}. You can add +{', +'.join(options)} to ours and fast"
    p.add_argument("--rows", nargs="+", default=rows, metavar="ROW", help=words)


def check_flags(args: argparse.Namespace, options: Sequence[str]) -> None:
    """Raises UserError for rows with other `options`, and for numbers that are not above 0."""
    for row in args.rows:
        way, *added = row.split("+")
        if way not in ("released", "ours", "fast") or set(added) - set(options) or (way == "released" and added):
            raise UserError(f"no row {row}; there are released, and ours or fast with any of +{', +'.join(options)}")
    for name in ("batch_size", "rounds", "steps", "count", "megapixels"):
        if (value := getattr(args, name, None)) is not None and min(value if isinstance(value, list) else [value]) <= 0:
            raise UserError(f"{name} must be above 0")


def choose_precision(row: str, default: str) -> str:
    """Returns the value of --amp for a row, for example `bf16` for `ours+bf16`."""
    precisions = {"fp32": "off", "bf16": "bf16", "fp16": "fp16"}
    return next((precisions[option] for option in row.split("+") if option in precisions), default)


def count_workers(args: argparse.Namespace) -> int:
    check_numbers({"workers": args.workers})
    return default_workers() if args.workers is None else args.workers


def build_model(args: argparse.Namespace) -> nn.Module:
    """Returns the model of a checkpoint, or a new one, on the CPU."""
    if getattr(args, "checkpoint", None):
        return open_model(read_checkpoint(args.checkpoint), read_weight_flags(args), "cpu")
    set_seed(getattr(args, "seed", 0))
    return start_model(args.model, NetworkShape(encoder=args.encoder, dino=args.dino), read_weight_flags(args))[0]


def measure_rows(
    args: argparse.Namespace,
    table: str,
    measure: Callable[[argparse.Namespace, str], Measurement],
    columns: Columns,
    machine: Measurement | None = None,
    **first: str,
) -> str:
    """Measures each of `args.rows` in each of `args.rounds` rounds. Gives each result to `args.record` at once.

    Returns:
        A table in Markdown with the fastest measurements. A line begins with the cells `first`.
    """
    best: dict[str, Measurement | str] = {}  # row -> its fastest measurement, or why there is none
    cells: dict[str, Cells] = {}
    for row in [*args.rows] * args.rounds:
        try:
            new = args.alone.run(measure, args, row)
        except NotMeasured as e:
            best.setdefault(row, str(e))
            args.record(table, row, str(e), {})
            continue
        if not isinstance(best.get(row), dict) or new["rate"] > best[row]["rate"]:
            best[row] = new
        cells = {row: make_cells(columns, row, best, machine) for row in best if isinstance(best[row], dict)}
        args.record(table, row, new, cells[row])
    lines = [[*first.values(), row, *(cells[row].values() if row in cells else [best[row]])] for row in best]
    return format_table([*first, "row", *next(iter(cells.values()), {})], lines)


def format_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown. Lines may be shorter than `titles`. All columns but `row` are aligned right."""
    rules = ["---" if title == "row" else "---:" for title in titles]
    return "\n".join(f"| {' | '.join(line)} |" + " |" * (len(titles) - len(line)) for line in (titles, rules, *lines))


def make_cells(columns: Columns, row: str, best: dict[str, Measurement | str], machine: Measurement | None) -> Cells:
    """Returns the text of each column. A ratio is empty if `released` was not measured."""
    numbers, released, cells = best[row], best.get("released"), {}
    for title, (name, style) in columns.items():
        value = numbers[name]
        if style == "ratio":
            cells[title] = f"{value / released[name]:.2f}" if isinstance(released, dict) else ""
        elif style == "share":  # arithmetic per second, as a share of the device's peak in the number type of the row
            flops = machine["flops"]["released" if row == "released" else "ours"][-1]
            peak = machine["peaks"].get(numbers["kind"].replace("fp16", "bf16"))  # both are equally fast on a GPU
            cells[title] = f"{value * flops / peak:.1%} of {numbers['kind']}" if peak else "not measured"
        else:
            cells[title] = f"{value:{style}}" if value < 100 else f"{value:.0f}"
    return cells


def print_row(table: str, row: str, numbers: Measurement | str, cells: Cells) -> None:
    """Prints a measurement on stderr; the `args.record` of a command."""
    words = [numbers] if isinstance(numbers, str) else [f"{title} {cell}" for title, cell in cells.items() if cell]
    print(f"{row}: {', '.join(words)}", file=sys.stderr, flush=True)


def inspect_model(args: argparse.Namespace, count_flops: Callable, packages: Sequence[str]) -> Measurement:
    """Returns what all rows have in common. Raises UserError for flags that no row can work with.

    Args:
        count_flops: returns floating-point operations, of "released" or "ours", for a model and an image (1, 3, S, S)
            on the meta device.
    """
    device, side, model = pick_device(args.device), args.size or Recipe.read(model=args.model).size, build_model(args)
    family, name = find_family_of(model), name_device(device)
    check_size(family, side)
    title = family.describe(family.find_shape(model.state_dict()))
    model, image = model.to("meta"), torch.empty(1, 3, side, side, device="meta")
    ours = count_flops("ours", model, image)
    kinds = {"fp32": torch.float32} | ({} if pick_half_type(device) == "off" else {"bf16": torch.bfloat16})
    return {
        "versions": f"{name}; {describe_versions(packages)}",
        "work": f"{title} at {side}x{side}",
        "flops": {"released": count_flops("released", use_released_order_(model), image), "ours": ours},
        "peaks": PEAKS.get(name) or {kind: measure_peak(device, dtype) for kind, dtype in kinds.items()},
        "peaks_from": "data sheet" if name in PEAKS else "the fastest of some products and convolutions",
    }


def name_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{read_cpu_name()}, {torch.get_num_threads()} threads"


def describe_versions(packages: Sequence[str]) -> str:
    return f"{', '.join(f'{k} {v}' for k, v in versions(packages).items())}; {datetime.date.today().isoformat()}"


def describe_work(machine: Measurement, work: str, arithmetic: str) -> str:
    """Returns the lines above a table."""
    flops = (f"{way} {' and '.join(f'{n / 1e9:.1f}' for n in counts)}" for way, counts in machine["flops"].items())
    peaks = ", ".join(f"{kind} {peak / 1e12:.4g}" for kind, peak in machine["peaks"].items())
    arithmetic = f"arithmetic {arithmetic}, GFLOP: {', '.join(flops)}"
    peaks = f"device's peak, TFLOP/s: {peaks} ({machine['peaks_from']})"
    return "\n".join((machine["versions"], f"{machine['work']}, {work}", arithmetic, peaks))


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Returns FLOP/s of a matrix product or of a convolution, whichever is faster. CPUs use two libraries for them."""
    side, width = (8192, 1024) if device.type == "cuda" else (1024, 128)
    shapes = (side, side), (side, side), (1, width, 130, 130), (width, width, 3, 3)
    a, b, images, weight = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
    works = {2 * side**3: lambda: a @ b, 2 * 9 * width**2 * 128**2: lambda: F.conv2d(images, weight)}
    return max(flops / min(time_calls(work, device)) for flops, work in works.items())


def time_calls(work: Callable[[], object], device: torch.device, count: int = 20) -> list[float]:
    """Returns the seconds of up to `count` calls, together about one second."""
    times: list[float] = []
    while len(times) < count and sum(times) < 1:
        times.append(time_call(work, device)[0])
    return times


def time_call(work: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Returns the seconds until `work` and the device have finished, and what `work` returned."""
    wait(device)
    start = time.perf_counter()
    value = work()
    wait(device)
    return time.perf_counter() - start, value


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
