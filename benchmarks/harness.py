"""What all benchmarks share: functions in new processes, clocks, results, and tables of results."""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from sam2unet.atomic import read_text, write_atomic
from sam2unet.errors import UserError
from sam2unet.runtime.device import is_out_of_memory
from tests.networks import add_sizes

Numbers = dict[str, object]  # by name; "rate" is images per second; "ok" is False if a check failed; "result" is a text
Cells = dict[str, str]  # title of a column -> text

# The columns of each kind of table: the title, the name of a number, and its format. `ratio` divides by the number of a
# reference. `share` is of the largest rate of the device. `limit` also shows the tolerance.
REFERENCES = ("released", "torchmetrics", "monai")
RATIO = {"ratio": ("rate", "ratio")}
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "images/s": ("rate", "#.3g"),
        **RATIO,
        "peak GiB": ("peak_gib", ".2f"),
        "of released": ("peak_gib", "ratio"),
        "GiB at start": ("start_gib", ".2f"),
        "of device's peak": ("share", "share"),
        "loss 1": ("first_loss", ".5f"),
        "last losses": ("last_loss", ".4f"),
    },
    "predict": {
        "images/s": ("rate", ".3g"),
        **RATIO,
        **{f"{stage}, ms": (stage, ".3g") for stage in ("decode", "forward", "resize", "write")},
        "forward of device's peak": ("forward_share", "share"),
        "batch": ("batch_size", "d"),
        "model alone, ms": ("model", ".3g"),
        "model of device's peak": ("model_share", "share"),
    },
    "encoder": {"encoder, ms": ("ms", "#.3g"), **RATIO},
    "click": {"click, ms": ("ms", "#.3g"), **RATIO},
    "eval": {"pairs/s": ("rate", "#.3g"), **RATIO},
    "build": {"masks/s": ("rate", "#.4g")},
    "start": {
        "start, CPU s": ("cpu", ".1f"),
        "start, s": ("seconds", ".1f"),
        "start, MiB": ("memory", ".0f"),
        "batch, ms": ("step", ".1f"),
        "worker, MiB": ("worker", ".0f"),
    },
    "pass": {name: (name, "limit") for name in ("logits", "loss", "gradient")},
    "check": {"result": ("result", "")},
}
lock = threading.Lock()


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
        # All processes are forks of one that has imported everything. It must not touch the GPU, so it asks NVML.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.__main__", "timm"])
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=call_and_send, args=(sender, self.log, function, *arguments))
        process.start()
        sender.close()
        try:
            if not receiver.poll(seconds):
                raise NotMeasured("not measured: the time of its step was over")
            value = receiver.recv()
        except EOFError:
            raise NotMeasured("not measured: its process was killed") from None
        finally:
            for kill in (os.killpg, os.kill):  # it may not have begun its group yet
                with suppress(ProcessLookupError):
                    kill(process.pid, signal.SIGKILL)
            process.join()
        if isinstance(value, UserError):
            raise value
        return value


def call_and_send(sender: Connection, log: Path | None, function: Callable, *arguments: object) -> None:
    """Sends what `function` returns, or a UserError."""
    prepare_process(log)
    try:
        value = function(*arguments)
    except UserError as e:
        value = e
    except (Exception, SystemExit) as e:
        value = NotMeasured(explain(e)["result"])
    sender.send(value)


def prepare_process(log: Path | None) -> None:
    """Begins a process group, so that `Alone` can kill what the process starts. Adds the encoder size `micro`."""
    os.setpgid(0, 0)
    add_sizes()
    if log:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def explain(error: BaseException) -> Numbers:
    """Returns what a row shows instead of numbers. Prints the traceback of an error in the code."""
    if isinstance(error, NotMeasured):
        text = str(error)
    elif isinstance(error, RuntimeError) and is_out_of_memory(error):
        text = "not measured: out of memory"
    elif isinstance(error, ModuleNotFoundError):
        text = f"not measured: the package {error.name} is not installed"
    else:
        traceback.print_exception(error)
        text = f"failed: {''.join(traceback.format_exception_only(error)).strip().splitlines()[-1]}"
    return {"result": text, "ok": False if text.startswith("failed") else None}


def time_call(work: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Returns the seconds until `work` and the device have finished, and what `work` returned."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    value = work()
    wait()
    return time.perf_counter() - start, value


def time_calls(work: Callable[[], object], device: torch.device, count: int = 20) -> list[float]:
    """Returns the seconds of up to `count` calls, together about one second."""
    times: list[float] = []
    while len(times) < count and sum(times) < 1:
        times.append(time_call(work, device)[0])
    return times


@dataclass(frozen=True)
class Results:
    """`results.jsonl` and `results.md` in a folder. Several processes may add results at the same time."""

    folder: Path
    step: str
    prefix: str = ""  # of the names of tables
    show: bool = False  # also print the results on stderr

    def add(self, kind: str, table: str, row: str, numbers: Numbers) -> None:
        """Appends a result, and writes the tables again. `kind` is a key of `COLUMNS`."""
        head = {"time": round(time.time()), "step": self.step, "kind": kind, "table": self.prefix + table, "row": row}
        path, result = self.folder / "results.jsonl", head | {"ok": True} | numbers
        with lock:
            with open(path, "ab", buffering=0) as file:  # one write for a whole line
                file.write(b"\n" + json.dumps(result).encode())  # the line before may not be complete
            with write_atomic(self.folder / "results.md") as file:
                file.write(format_results(self.read()).encode())
        if self.show:
            words = ", ".join(f"{title} {cell}" for title, cell in format_cells(result, {}).items() if cell)
            print(f"{row}: {words}", file=sys.stderr, flush=True)

    def read(self, start: float = 0) -> list[Numbers]:
        """Returns the results since `start`, in seconds. A line that was not written completely is left out."""
        results = []
        for line in read_text(self.folder / "results.jsonl").splitlines():
            with suppress(ValueError):
                results.append(json.loads(line))
        return [result for result in results if result["time"] >= start]


def measure_rows(
    args: argparse.Namespace, kind: str, table: str, measure: Callable[[argparse.Namespace, str], Numbers]
) -> dict[str, Numbers]:
    """Measures each of `args.rows` in each of `args.rounds` rounds. Returns the fastest measurement of each row.

    The rows take turns. After each measurement, the fastest one of its row becomes a result.
    """
    best: dict[str, Numbers] = {}
    for row in [*args.rows] * args.rounds:
        try:
            numbers = args.alone.run(measure, args, row)
        except NotMeasured as e:
            numbers = explain(e)
        best[row] = max(best.get(row, numbers), numbers, key=lambda numbers: numbers.get("rate", 0))
        args.results.add(kind, table, row, best[row])
    return best


def run_command(args: argparse.Namespace, alone: Alone, results: Results) -> None:
    args.alone, args.results = alone, results
    args.alone.run(args.work, args) if args.whole else args.work(args)


def make_tables(results: Sequence[Numbers]) -> dict[str, dict[str, Cells]]:
    """Returns the cells of each table by row. Of several results for a row, the last one counts."""
    tables: dict[str, dict[str, Numbers]] = {}
    for result in results:
        tables.setdefault(result["table"], {})[result["row"]] = result
    cells = {}
    for table, rows in tables.items():
        reference = next((rows[name] for name in REFERENCES if name in rows), {})
        cells[table] = {row: format_cells(numbers, reference) for row, numbers in rows.items()}
    return cells


def format_cells(numbers: Numbers, reference: Numbers) -> Cells:
    """Returns the text of each column. A ratio is empty if its reference was not measured."""
    columns = COLUMNS[numbers["kind"]]
    if "result" in numbers:
        return dict.fromkeys(columns, "") | {next(iter(columns)): numbers["result"]}
    cells = {}
    for title, (name, style) in columns.items():
        value = numbers[name]
        if style == "ratio":
            cells[title] = f"{value / reference[name]:.2f}" if name in reference else ""
        elif style == "limit":
            cells[title] = f"{value:.1e} ({numbers[f'{name}_limit']:g})"
        elif style == "share":
            cells[title] = f"{value:.1%} of {numbers['precision']}" if value else ""
        else:
            cells[title] = f"{value:{style}}" if value < 100 else f"{value:.0f}"
    return cells


def format_results(results: Sequence[Numbers]) -> str:
    """Returns the tables in Markdown. All columns but `row` are aligned right."""
    text = ""
    for table, rows in make_tables(results).items():
        titles = list(next(iter(rows.values())))
        lines = [["row", *titles], ["---", *["---:"] * len(titles)], *([row, *rows[row].values()] for row in rows)]
        text += f"## {table}\n\n{format_lines(lines)}\n\n"
    return text


def format_lines(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("|" + "".join(f" {cell} |".replace("  |", " |") for cell in line) for line in lines)
