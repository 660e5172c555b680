"""Check and measure the whole project on a GPU in nine minutes, on generated images, with random weights.

Every result is written at once to results.jsonl and results.md in --save_path. A run that is stopped keeps its results.
Processes are killed when the time of their step is over. NAME.log has what the step NAME printed. The steps up to
`options` run at the same time, because they measure no time. The others follow one by one.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import checks, harness, predict, prompts, scoring, train
from benchmarks.harness import Alone, Cells, Measurement
from sam2unet.atomic import claim_folder, read_text, write_atomic
from sam2unet.cli import Parser
from sam2unet.errors import SomeFailed, UserError
from sam2unet.families.table import find_family
from sam2unet.limits import round_size
from sam2unet.run_command import ROOT
from sam2unet.runtime.device import can_compile, pick_device

QUICK = "--encoder micro --rows ours fast"
QUICK_TRAIN = f"{QUICK} --batch_size 2 --warm_up 1 --steps 2 --workers 0"
COMMANDS = {  # name: a function that adds the flags, one that runs, and what --quick adds
    "eval": (scoring.add_flags, scoring.run, "--pairs 2"),
    "predict": (predict.add_flags, predict.run, f"{QUICK} --count 2 --workers 1 --megapixels 0.01"),
    "train": (train.add_flags, train.run, QUICK_TRAIN),
    "losses": (train.add_loss_flags, train.run_losses, QUICK_TRAIN),
    "profile": (train.add_flags, train.run_profile, QUICK_TRAIN),
    "prompts": (prompts.add_flags, prompts.run, f"{QUICK} --steps 1 --rows released ours"),
}
PAIRS = "--train_image_path {images} --train_mask_path {masks} --rounds 1"
LARGE = f"train {PAIRS} --warm_up 3 --steps 6 --encoder large"
NEXT = f"train {PAIRS} --warm_up 3 --steps 6 --model sam2unext --batch_size 1"
SAM3_TRAIN = f"train {PAIRS} --warm_up 3 --steps 6 --model sam3unet --batch_size 12"
SAM3_TRAIN += " --rows released ours ours+grad_checkpointing fast+grad_checkpointing"
PREDICT = "predict --test_image_path {images} --rounds 1"
PREDICT_LARGE, PREDICT_NEXT = f"{PREDICT} --encoder large", f"{PREDICT} --model sam2unext --count 32"
LARGE_12, LARGE_64 = f"{LARGE} --batch_size 12", f"{LARGE} --batch_size 64"
FAST_LINES = (LARGE_12, LARGE_64, PREDICT_LARGE, NEXT, PREDICT_NEXT, f"{PREDICT_LARGE} --batch_size 1")
COMPILED = [f"{line} --rows fast" for line in FAST_LINES]
COMPILED += [f"{line} --rows fast+grad_checkpointing" for line in (LARGE_12, LARGE_64)]
PREDICT_SIZES = [f"{PREDICT_LARGE} --batch_size {size} --rows ours fast" for size in (1, 32)]

MARKED_TABLE = re.compile(r"<!-- gpu: (.+) -->\n\n((?:\|.*\n)+)")  # in the docs: the name of a table of results
lock = threading.Lock()


class Step(NamedTuple):
    seconds: int  # its time limit
    jobs: Sequence[str | Callable]  # commands of `python -m benchmarks`, and functions (see checks.py)
    together: bool = False  # it runs at the same time as the other such steps, and so do its jobs


STEPS = {  # by value; the first five run at the same time, so all take 530 seconds and 10 to begin
    "models": Step(140, [partial(checks.compare_passes, *model) for model in checks.MODELS], True),
    "compile": Step(130, COMPILED, True),
    "losses": Step(130, [f"losses {PAIRS} --encoder tiny --batch_size 12 --save_path {{results}}"], True),
    "resume": Step(130, [checks.check_resume], True),
    "options": Step(130, [checks.check_options], True),
    "train": Step(140, [LARGE_12, LARGE_64]),
    "predict": Step(60, [f"{PREDICT_LARGE} --count 512", *PREDICT_SIZES]),
    "profile": Step(35, [f"profile {PAIRS} --encoder large --batch_size 12 --steps 2 --rows ours fast"]),
    "sam2unext": Step(75, [f"{NEXT} --rows released ours fast", PREDICT_NEXT]),
    "sam3unet": Step(45, [SAM3_TRAIN, f"{PREDICT} --model sam3unet --count 32"]),
    "sam_med2d": Step(25, ["prompts --data_path {lists} --rounds 1"]),
    "eval": Step(20, ["eval --pred_path {maps} --gt_path {masks} --pairs 200 --rounds 1"]),
}


class StepRun:
    """A step that runs. `data` has the folders of generated files: images, masks, maps, lists; and the results."""

    def __init__(self, name: str, args: argparse.Namespace, data: dict[str, Path], deadline: float):
        self.name, self.args, self.data = name, args, data
        self.alone = Alone(deadline, args.save_path / f"{name}.log")
        self.record = partial(add_result, args.save_path, name)

    def run(self) -> None:
        with ThreadPoolExecutor(6 if STEPS[self.name].together else 1) as pool:
            list(pool.map(self.run_job, STEPS[self.name].jobs))

    def run_job(self, job: str | Callable) -> None:
        try:
            if isinstance(job, str):
                run, args = self.parse(job)
                for text in run(args):
                    with open(self.alone.log, "a") as log:
                        print(text, file=log)
            else:
                self.alone.run(job, self.record, self.data, self.args.device, self.args.quick)
        except (Exception, SystemExit) as e:
            row = job if isinstance(job, str) else " ".join(map(str, getattr(job, "args", ("all",))))
            self.record(self.name, row, self.alone.report(e), {})

    def parse(self, line: str) -> tuple[Callable, argparse.Namespace]:
        """Returns the function and the flags of a command of `python -m benchmarks`."""
        command, *words = [word.format(**self.data) for word in line.split()]
        add, run, quick_words = COMMANDS[command]
        if self.args.quick:
            family = find_family(words[words.index("--model") + 1] if "--model" in words else "sam2unet")
            words += quick_words.split() + ["--dino", "small"] * ("dino" in family.options)
            words += ["--size", str(round_size(64, family.stride))] * (command != "eval")
        if self.args.device and command != "eval":
            words += ["--device", self.args.device]
        parser = Parser()
        add(parser)
        parser.set_defaults(alone=self.alone, record=self.record)
        return run, parser.parse_args(words)


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--save_path", type=Path, required=True, help="folder of the results, new or of this command")
    p.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    p.add_argument("--minutes", type=float, default=9, help="time limit of the whole command; default: 9")
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--quick", action="store_true", help="tiny models and few steps: a test of this command")
    words = "measure nothing; write the results in --save_path into docs/benchmarks.md"
    p.add_argument("--write_docs", action="store_true", help=words)


def run(args: argparse.Namespace) -> Iterator[str]:
    if args.write_docs:
        yield f"{write_docs(read_results(args.save_path), ROOT / 'docs/benchmarks.md')} rows in docs/benchmarks.md"
        return
    start, end = int(time.time()), time.monotonic() + 60 * args.minutes
    claim_folder(args.save_path, harness.RESULTS)
    machine = args.alone.run(describe_machine, args)
    record = partial(add_result, args.save_path)
    record("machine", "machine", machine["machine"], machine, {})
    if not machine["compiles"] and "compile" in args.only:
        args.only.remove("compile")
        record("compile", "all rows", "all", "not measured: --fast does not compile on this device", {})
    yield machine["machine"]

    def run_step(name: str, deadline: float) -> str:
        begin = time.monotonic()
        StepRun(name, args, data, min(deadline, end)).run()
        bad = [result["ok"] is False for result in read_results(args.save_path, start) if result["step"] == name]
        return f"{name}: {time.monotonic() - begin:.0f} s, {len(bad)} results, {sum(bad)} failed"

    with tempfile.TemporaryDirectory() as folder:
        data = checks.make_data(Path(folder), *((4, (60, 80)) if args.quick else (64, (737, 984))))
        data["results"] = args.save_path
        together = [name for name in args.only if STEPS[name].together]
        deadline = time.monotonic() + max((STEPS[name].seconds for name in together), default=0)
        with ThreadPoolExecutor(len(together) or 1) as pool:
            yield from pool.map(run_step, together, [deadline] * len(together))
        for name in args.only:
            if not STEPS[name].together:
                deadline += STEPS[name].seconds  # time that earlier steps did not need is added
                yield run_step(name, deadline)
    if failed := [result for result in read_results(args.save_path, start) if result["ok"] is False]:
        raise SomeFailed(f"{len(failed)} results failed, first: {failed[0]['table']}, {failed[0]['row']}")


def describe_machine(args: argparse.Namespace) -> Measurement:
    device = pick_device(args.device)
    text = f"{harness.name_device(device)}; {harness.describe_versions()}"
    return {"machine": text, "type": device.type, "quick": args.quick, "compiles": can_compile(device)}


def add_result(folder: Path, step: str, table: str, row: str, numbers: Measurement | str, cells: Cells) -> None:
    """Appends a result to `results.jsonl` and writes `results.md` again. Processes may do this at the same time.

    `numbers` can be a text that says why there is no result.
    """
    if step == "compile":  # its rows run at the same time, so they are slow
        table = f"compiling: {table}"
    if isinstance(numbers, str):
        numbers, cells = {"ok": False if numbers.startswith("failed") else None}, {"result": numbers}
    result = dict(step=step, table=table, row=row, ok=True, time=round(time.time()), cells=cells) | numbers
    path = folder / "results.jsonl"
    with lock:
        torn = path.exists() and not path.read_bytes().endswith(b"\n")  # the writer of the last line was killed
        with open(path, "ab", buffering=0) as file:  # one write for a whole line
            file.write(b"\n" * torn + json.dumps(result).encode() + b"\n")
        with write_atomic(folder / "results.md") as file:
            file.write(format_results(read_results(folder)).encode())


def read_results(folder: Path, start: float = 0) -> list[dict]:
    """Returns the results since `start`, in seconds. A line that was not written completely is left out."""
    results = []
    for line in read_text(folder / "results.jsonl").splitlines():
        with suppress(ValueError):
            results.append(json.loads(line))
    return [result for result in results if result["time"] >= start]


def format_results(results: list[dict]) -> str:
    """Returns the tables in Markdown. Of several results for a row, the last one counts."""
    tables: dict[str, dict[str, Cells]] = {}
    for result in results:
        ok = {True: "yes", False: "NO", None: ""}[result["ok"]]
        tables.setdefault(result["table"], {})[result["row"]] = {"row": result["row"], "ok": ok} | result["cells"]
    text = ""
    for table, rows in tables.items():
        titles = list(dict.fromkeys(title for cells in rows.values() for title in cells))
        lines = [[cells.get(title, "") for title in titles] for cells in rows.values()]
        text += f"## {table}\n\n{harness.format_table(titles, lines)}\n\n"
    return text


def write_docs(results: list[dict], page: Path) -> int:
    """Writes results of a GPU into the tables of `page` that have a marker. Returns the number of rows.

    A cell changes if a result has its row and its column. The first title of the table names the device.
    """
    machine, cells_by_row, count = "", {}, 0
    for result in results:
        if result["step"] == "machine":
            machine = result["machine"] if result["type"] == "cuda" and not result["quick"] else ""
        elif machine and result["ok"]:
            cells_by_row[result["table"], result["row"]] = result["cells"] | {"machine": machine}
    if not cells_by_row:
        raise UserError("there are no results of a GPU; run this command on a GPU first, without --quick")

    def fill(match: re.Match) -> str:
        nonlocal count
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[2].splitlines()]
        titles = lines[0][1:]
        for line in lines[2:]:
            if cells := cells_by_row.get((match[1], line[0])):
                lines[0][0], count = cells["machine"], count + 1
                line[1:] = [cells.get(*pair) for pair in zip(titles, line[1:], strict=True)]
        return match[0].removesuffix(match[2]) + f"{harness.format_lines(lines)}\n"

    text = MARKED_TABLE.sub(fill, read_text(page))
    with write_atomic(page) as file:
        file.write(text.encode())
    return count
