"""Check and measure the whole project on a GPU in nine minutes, on generated images, with random weights.

Every result is written at once to results.jsonl and results.md in --save_path. A run that is stopped keeps its results.
Processes are killed when the time of their step is over. NAME.log has what the step NAME printed. The steps up to
`options` run at the same time, because they measure no time. The others follow one by one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import checks, predict, prompts, scoring, train
from benchmarks.harness import Alone, Measurement, NotMeasured, describe_versions, name_device
from benchmarks.results import add_result, read_results, write_docs
from sam2unet.atomic import claim_folder, write_atomic
from sam2unet.cli import Parser
from sam2unet.errors import SomeFailed, UserError
from sam2unet.run_script import ROOT
from sam2unet.runtime.device import can_compile, pick_device
from sam2unet.runtime.versions import version

COMMANDS = {"eval": scoring, "predict": predict, "train": train, "prompts": prompts}
TRAIN = "train --train_image_path {images} --train_mask_path {masks} --rounds 1 --warm_up 3 --steps 6"
PREDICT = "predict --test_image_path {images} --rounds 1"
QUICK = {
    "train": "--encoder micro --size 64 --batch_size 2 --warm_up 1 --steps 2 --workers 0 --rows ours fast",
    "predict": "--encoder micro --size 64 --count 2 --workers 1 --megapixels 0.01 --rows ours fast",
    "prompts": "--encoder micro --image_size 64 --steps 1 --rows released ours",
    "eval": "--sizes 60x80 --pairs 2",
}
OPTIONAL = {"pysodmetrics": "`released` of eval", "imageio": "`released` of predict", "numba": "`numba` of eval"}


class Step(NamedTuple):
    """A part of the command.

    Attributes:
        seconds: its time limit.
        purpose: what it checks or measures.
        work: a method of `StepRun`, or commands of `python -m benchmarks`.
        together: it runs at the same time as the other such steps.
    """

    seconds: int
    purpose: str
    work: Callable[[StepRun], None] | tuple[str, ...]
    together: bool = False


class StepRun:
    """A step that runs. `data` has the folders of generated files: images, masks, maps and lists."""

    def __init__(self, name: str, args: argparse.Namespace, data: dict[str, Path], deadline: float):
        self.name, self.args, self.data = name, args, data
        self.alone = Alone(deadline, args.save_path / f"{name}.log")
        self.record = partial(add_result, args.save_path, name)

    def run(self) -> None:
        work = STEPS[self.name].work
        try:
            if callable(work):
                work(self)
            for line in () if callable(work) else work:
                module, args = self.parse(line)
                list(module.run(args))
        except UserError as e:
            self.record(self.name, "the step", str(e) if isinstance(e, NotMeasured) else f"failed: {e}", {})
        except (Exception, SystemExit) as e:
            self.record(self.name, "the step", self.alone.report(e), {})

    def parse(self, line: str) -> tuple[object, argparse.Namespace]:
        """Returns the module and the flags of a command of `python -m benchmarks`."""
        command, *words = [word.format(**self.data) for word in line.split()]
        if self.args.quick:
            words += QUICK[command].split() + (["--dino", "small"] if "sam2unext" in words else [])
        if self.args.device and command != "eval":
            words += ["--device", self.args.device]
        parser = Parser()
        COMMANDS[command].add_flags(parser)
        parser.set_defaults(alone=self.alone, record=self.record)
        return COMMANDS[command], parser.parse_args(words)

    def attempt(self, table: str, row: str, function: Callable, *arguments: object) -> object:
        """Returns what `function` returns in a new process. After an error, records it and returns None."""
        try:
            return self.alone.run(function, *arguments)
        except UserError as e:
            self.record(table, row, str(e), {})

    def check_models(self) -> None:
        with ThreadPoolExecutor() as pool:
            for model in checks.QUICK_MODELS if self.args.quick else checks.MODELS:
                table = f"one training step of {' '.join(map(str, model))}"
                job = checks.compare_passes, self.record, table, self.data, self.args.device, model
                pool.submit(self.attempt, table, "all", *job)

    def fill_caches(self) -> None:
        """Runs some updates or predictions of each compiled row, six rows at the same time."""
        if not self.alone.run(describe_machine, self.args)["compiles"]:
            self.record(self.name, "all", "not measured: --fast does not compile on this device", {})
            return

        def fill(line: str) -> None:
            module, args = self.parse(line)
            results, start = [], time.monotonic()
            args.record = lambda *result: results.append(result)
            list(module.run(args))
            for table, row, numbers, _ in results:
                seconds = {"seconds, with a few steps": f"{time.monotonic() - start:.0f}"}
                self.record("compiling, six rows at once", f"{table}: {row}", numbers, seconds)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(fill, COMPILED))

    def compare_losses(self) -> None:
        _, args = self.parse(f"{TRAIN} --encoder tiny --warm_up 0 --steps 200")
        means, table = {}, "loss curves"
        args.batch_size, args.steps = (2, 4) if self.args.quick else (12, 200)
        for row in ("ours", "fast"):
            if numbers := self.attempt(table, row, train.measure_training, args, row):
                losses = numbers["losses"]
                means[row] = float(np.mean(losses[-50:]))
                cells = {"first loss": f"{losses[0]:.5f}", "mean of the last 50": f"{means[row]:.4f}"}
                self.record(table, row, numbers, cells)
        if len(means) == 2:
            change = means["fast"] / means["ours"] - 1
            self.record(table, "difference", {"ok": abs(change) < 0.1}, {"mean of the last 50": f"{change:.2%} (10%)"})

    def check_resume(self) -> None:
        self.attempt(self.name, "all", checks.check_resume, self.record, self.data, self.args.device)

    def check_options(self) -> None:
        self.attempt(self.name, "all", checks.check_options, self.record, self.args.device)

    def profile(self) -> None:
        """Writes the operations of a training step to profile.txt, and the first ones as results."""
        text = ""
        for row in ("ours", "fast"):
            _, args = self.parse(f"{TRAIN} --encoder large --batch_size 12")
            args.steps = 2  # the profiler needs seconds for each
            (args.batch_size,) = args.batch_size
            table = f"one update of {args.encoder} at {args.size or 352}, batch {args.batch_size}, {row}"
            times = self.attempt(table, "all", train.profile_training, args, row) or []
            total = sum(ms for _, ms in times)
            text += f"{table}: {total:.1f} ms\n" + "".join(f"{ms:10.3f} ms  {name}\n" for name, ms in times[:60])
            for name, ms in times[:12]:
                self.record(
                    table, name[:80].replace("|", " "), {"ms": ms}, {"ms": f"{ms:.2f}", "share": f"{ms / total:.1%}"}
                )
        with write_atomic(self.args.save_path / "profile.txt") as file:
            file.write(text.encode())


LARGE, NEXT = f"{TRAIN} --encoder large", f"{TRAIN} --model sam2unext --batch_size 1"
PREDICT_LARGE, PREDICT_NEXT = f"{PREDICT} --encoder large", f"{PREDICT} --model sam2unext --count 32"
COMPILED = (
    f"{LARGE} --batch_size 12 --rows fast",
    f"{LARGE} --batch_size 64 --rows fast",
    f"{PREDICT_LARGE} --rows fast",
    f"{NEXT} --rows fast",
    f"{PREDICT_NEXT} --rows fast",
    f"{LARGE} --batch_size 12 --rows fast+grad_checkpointing",
    f"{LARGE} --batch_size 64 --rows fast+grad_checkpointing",
    f"{PREDICT_LARGE} --batch_size 1 --rows fast",
)
STEPS = {  # by value; the first five run at the same time, so all take 530 seconds and 10 to begin
    "models": Step(
        140, "one training step of each model: the GPU and the CPU, bf16, compiled", StepRun.check_models, True
    ),
    "compile": Step(130, "fills the caches of compiled code for the steps below", StepRun.fill_caches, True),
    "losses": Step(130, "200 losses in fp32 and with --fast", StepRun.compare_losses, True),
    "resume": Step(130, "train.py after SIGKILL, under torchrun, and NCCL", StepRun.check_resume, True),
    "options": Step(130, "every option of test.py", StepRun.check_options, True),
    "train": Step(165, "training of large at 352", (f"{LARGE} --batch_size 12 64",)),
    "predict": Step(
        65,
        "prediction with large at 352, and the model alone",
        (
            f"{PREDICT_LARGE} --count 512",
            f"{PREDICT_LARGE} --batch_size 1 --rows ours fast",
            f"{PREDICT_LARGE} --batch_size 32 --rows ours fast",
        ),
    ),
    "profile": Step(40, "where the time of a training step goes", StepRun.profile),
    "sam2unext": Step(
        85, "training and prediction with SAM2-UNeXT at 1024", (f"{NEXT} --rows released ours fast", PREDICT_NEXT)
    ),
    "sam_med2d": Step(25, "encoder, click and training of SAM-Med2D", ("prompts --data_path {lists} --rounds 1",)),
    "eval": Step(
        20,
        "evaluation on all cores",
        ("eval --pred_path {maps} --gt_path {masks} --sizes 737x984 --pairs 200 --rounds 1",),
    ),
}


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
    start, end = time.time(), time.monotonic() + 60 * args.minutes
    claim_folder(args.save_path, "results of benchmarks gpu")
    machine = args.alone.run(describe_machine, args)
    add_result(args.save_path, "machine", "machine", machine["machine"], machine, {})
    for package in machine["missing"]:
        text = f"not measured: the package {package} is not installed; there is no {OPTIONAL[package]}"
        add_result(args.save_path, "machine", "machine", package, text, {})
    yield machine["machine"]

    def run_step(name: str, deadline: float) -> str:
        begin = time.monotonic()
        StepRun(name, args, data, min(deadline, end)).run()
        results = [r for r in read_results(args.save_path) if r["step"] == name and r["time"] >= int(start)]
        bad = sum(result["ok"] is False for result in results)
        return f"{name}: {time.monotonic() - begin:.0f} s, {len(results)} results, {bad} failed"

    with tempfile.TemporaryDirectory() as folder:
        data = checks.make_data(Path(folder), *((4, (60, 80)) if args.quick else (64, (737, 984))))
        together = [name for name in args.only if STEPS[name].together]
        deadline = time.monotonic() + max((STEPS[name].seconds for name in together), default=0)
        with ThreadPoolExecutor(len(together) or 1) as pool:
            yield from pool.map(run_step, together, [deadline] * len(together))
        for name in args.only:
            if not STEPS[name].together:
                deadline += STEPS[name].seconds  # time that earlier steps did not need is added
                yield run_step(name, deadline)
    failed = [r for r in read_results(args.save_path) if r["ok"] is False and r["time"] >= int(start)]
    if failed:
        raise SomeFailed(f"{len(failed)} results failed, first: {failed[0]['table']}, {failed[0]['row']}")


def describe_machine(args: argparse.Namespace) -> Measurement:
    device = pick_device(args.device)
    name, packages = name_device(device), describe_versions(("torch", "torchvision", "timm", "numpy"))
    return {
        "machine": f"{name}; {packages}",
        "type": device.type,
        "quick": args.quick,
        "compiles": can_compile(device),
        "missing": [package for package in OPTIONAL if version(package) is None],
    }
