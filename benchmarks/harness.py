"""The parts that the benchmarks share: flags, rows in processes of their own, the facts of the machine, and clocks."""

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
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.released.masks import use_released_order_
from sam2unet.errors import UserError
from sam2unet.families.load import open_model, read_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES, check_size, find_family, find_family_of
from sam2unet.layers import hiera, sam3_vit, sam_vit
from sam2unet.limits import check_numbers
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import is_out_of_memory, pick_device, pick_half_type, set_seed
from sam2unet.runtime.parallel import default_workers
from sam2unet.runtime.versions import read_cpu_name, versions
from sam2unet.weights.weight_files import add_weight_flags, read_weight_flags

# FLOP/s without sparsity, from the data sheets. fp32 is the rate of matrix products in PyTorch's default, without TF32.
PEAKS = dict.fromkeys(("NVIDIA H200", "NVIDIA H100 80GB HBM3"), {"fp32": 67e12, "bf16": 989e12})
REFERENCES = ("released", "torchmetrics", "monai")  # a ratio divides by the rate of one of these rows
RESULTS = "results of benchmarks gpu"  # the marker of their folder
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")

Measurement = dict[str, object]  # numbers by name; "rate" is images per second, "ok" is False if a check failed
Cells = dict[str, str]  # title of a column -> text
# Title of a column -> name of a number, and its format. `ratio`: divided by released; `share`: of the device's peak.
Columns = dict[str, tuple[str, str]]


class NotMeasured(UserError):
    """There is no result. The text begins with `not measured`, or with `failed` after an error in the code."""


@dataclass(frozen=True)
class Alone:
    """Runs functions in new processes, so that no row changes the memory or the speed of another."""

    deadline: float | None = None  # the value of `time.monotonic` at which the processes are killed. None: never.
    log: Path | None = None  # gets what the processes print, and tracebacks. None: they go to the terminal.

    def run(self, function: Callable, *arguments: object) -> object:
        """Returns what `function` returns. Raises NotMeasured if it fails, is killed or does not end in time."""
        seconds = None if self.deadline is None else max(0, self.deadline - time.monotonic())
        if seconds == 0:
            raise NotMeasured(self.report(PoolTimeout()))
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
            except (Exception, SystemExit) as e:
                raise NotMeasured(self.report(e)) from e
            finally:
                for kill in (os.killpg, os.kill):  # it may not have begun its group yet
                    with suppress(ProcessLookupError):
                        kill(group, signal.SIGKILL)

    def report(self, error: BaseException) -> str:
        """Returns what the row shows instead of numbers. Writes the traceback of an error in the code."""
        reasons = {
            PoolTimeout: "the time of its step was over",
            BrokenProcessPool: "its process was killed",
            ModuleNotFoundError: f"the package {getattr(error, 'name', '')} is not installed",
        }
        if isinstance(error, NotMeasured):
            return str(error)
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            return "not measured: out of memory"
        if type(error) in reasons:
            return f"not measured: {reasons[type(error)]}"
        with open(self.log, "a") if self.log else nullcontext(sys.stderr) as file:
            traceback.print_exception(error, file=file)
        return f"failed: {''.join(traceback.format_exception_only(error)).strip().splitlines()[-1]}"


def prepare_process(log: Path | None) -> None:
    """Begins a process group, so that `Alone` can kill what the process starts. Adds the encoder size `micro`."""
    os.setpgid(0, 0)
    hiera.SIZES["micro"] = dict(dim=8, heads=1, depths=(1, 1, 1, 1), global_blocks=(3,), grid=7, windows=(8, 4, 14, 7))
    sam3_vit.SIZES["micro"] = dict(dim=32, depth=3, heads=2, hidden=48, global_blocks=(1,))
    sam_vit.SIZES["micro"] = dict(dim=32, depth=2, heads=2, global_blocks=(1,))
    if log:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def add_model_flags(p: argparse.ArgumentParser, task: str, rows: Sequence[str], options: Sequence[str]) -> None:
    """Adds the flags of the model, the machine and the rows. `options` are what the rows ours and fast can have.

    The models are those of `task`.
    """
    models = [name for name, family in FAMILIES.items() if family.task == task]
    add_weight_flags(p, "; default: random weights, which take the same time")
    p.add_argument("--model", choices=models, default=models[0], help=f"{', '.join(models)}; default: {models[0]}")
    for option in ("encoder", "dino"):
        p.add_argument(f"--{option}", help="size of that part; default: the released size, or the size in its file")
    p.add_argument("--size", type=int, help="side of the input in pixels; default: the released size of the model")
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--workers", type=int, help="processes or threads that read files; default: one per core, at most 8")
    p.add_argument("--seed", type=int, default=1024, help="for weights, order and flips; default: 1024")
    p.add_argument("--rounds", type=int, default=3, help="measurements of each row; default: 3")
    words = f"default: {' '.join(rows)}. You can add +{', +'.join(options)} to ours and fast"
    p.add_argument("--rows", nargs="+", default=rows, metavar="ROW", help=words)
    p.set_defaults(options=options)


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for unknown rows, and for numbers that are not above 0. Fills in the size and the workers."""
    for row in args.rows:
        way, *added = row.split("+")
        if way not in ("released", "ours", "fast") or set(added) - set(args.options) or (way == "released" and added):
            raise UserError(
                f"no row {row}; there are released, and ours or fast with any of +{', +'.join(args.options)}"
            )
    for name in ("batch_size", "rounds", "steps", "count", "megapixels"):
        if (value := getattr(args, name, None)) is not None and value <= 0:
            raise UserError(f"{name} must be above 0")
    check_numbers({"workers": args.workers})
    args.workers = default_workers() if args.workers is None else args.workers
    args.size = args.size or Recipe.read(model=args.model).size


def choose_precision(row: str, default: str) -> str:
    """Returns the value of --amp for a row, for example `bf16` for `ours+bf16`."""
    precisions = {"fp32": "off", "bf16": "bf16", "fp16": "fp16"}
    return next((precisions[option] for option in row.split("+") if option in precisions), default)


def build_model(args: argparse.Namespace) -> nn.Module:
    """Returns the model of a checkpoint, or a new one, on the CPU."""
    if getattr(args, "checkpoint", None):
        return open_model(read_checkpoint(args.checkpoint), read_weight_flags(args), "cpu")
    set_seed(args.seed)
    side = args.size if "size" in find_family(args.model).options else None
    return start_model(args.model, NetworkShape(args.encoder, args.dino, side), read_weight_flags(args))[0]


def measure_rows(
    args: argparse.Namespace,
    table: str,
    measure: Callable[[argparse.Namespace, str], Measurement],
    columns: Columns,
    machine: Measurement | None = None,
) -> tuple[str, dict[str, Measurement | str]]:
    """Measures each of `args.rows` in each of `args.rounds` rounds. Gives each result to `args.record` at once.

    Returns a table in Markdown, and for each row the fastest measurement, or why there is none.
    """
    best: dict[str, Measurement | str] = {}
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
    lines = [[row, *(cells[row].values() if row in cells else [best[row]])] for row in best]
    return f"\n{table}\n\n{format_table(['row', *columns], lines)}", best


def make_cells(columns: Columns, row: str, best: dict[str, Measurement | str], machine: Measurement | None) -> Cells:
    """Returns the text of each column. A ratio is empty if its reference was not measured."""
    numbers, released, cells = best[row], next((best[name] for name in REFERENCES if name in best), None), {}
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


def format_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown. Lines may be shorter than `titles`. All columns but `row` are aligned right."""
    rules = ["---" if title == "row" else "---:" for title in titles]
    return format_lines([titles, rules, *([*line, *[""] * (len(titles) - len(line))] for line in lines)])


def format_lines(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("|" + "".join(f" {cell} |".replace("  |", " |") for cell in line) for line in lines)


def print_result(table: str, row: str, numbers: Measurement | str, cells: Cells) -> None:
    """Prints a measurement on stderr; the `args.record` of a command."""
    words = [numbers] if isinstance(numbers, str) else [f"{title} {cell}" for title, cell in cells.items() if cell]
    print(f"{row}: {', '.join(words)}", file=sys.stderr, flush=True)


def inspect_model(args: argparse.Namespace, work: str, arithmetic: str, count_flops: Callable) -> Measurement:
    """Returns what all rows have in common: `title`, `text`, `flops` and `peaks`.

    Raises UserError for flags that no row can work with. `count_flops` returns floating-point operations, of "released"
    or "ours", for a model and an image (1, 3, S, S) on the meta device. `arithmetic` says of what.
    """
    device, model = pick_device(args.device), build_model(args)
    family, name = find_family_of(model), name_device(device)
    check_size(family, args.size)
    title = f"{family.describe(family.find_shape(model.state_dict()))} at {args.size}x{args.size}"
    model, image = model.to("meta"), torch.empty(1, 3, args.size, args.size, device="meta")
    ours = count_flops("ours", model, image)
    flops = {"released": count_flops("released", use_released_order_(model), image), "ours": ours}
    kinds = {"fp32": torch.float32} | ({} if pick_half_type(device) == "off" else {"bf16": torch.bfloat16})
    peaks = PEAKS.get(name) or {kind: measure_peak(device, dtype) for kind, dtype in kinds.items()}
    source = "data sheet" if name in PEAKS else "the fastest of some products and convolutions"
    counts = ", ".join(f"{way} {' and '.join(f'{n / 1e9:.1f}' for n in numbers)}" for way, numbers in flops.items())
    lines = (
        f"{name}; {describe_versions()}",
        f"{title}, {work}, workers {args.workers}, best of {args.rounds} rounds",
        f"arithmetic {arithmetic}, GFLOP: {counts}",
        f"device's peak, TFLOP/s: {', '.join(f'{k} {peak / 1e12:.4g}' for k, peak in peaks.items())} ({source})",
    )
    return {"title": title, "text": "\n".join(lines), "flops": flops, "peaks": peaks}


def name_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{read_cpu_name()}, {torch.get_num_threads()} threads"


def describe_versions(packages: Sequence[str] = PACKAGES) -> str:
    return f"{', '.join(f'{k} {v}' for k, v in versions(packages).items())}; {datetime.date.today().isoformat()}"


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
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    value = work()
    wait()
    return time.perf_counter() - start, value
