"""The command that checks and measures everything on a GPU."""

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import harness, models
from benchmarks.checks import make_data
from benchmarks.harness import Alone, Numbers, Results
from sam2unet.atomic import read_text, write_atomic
from sam2unet.errors import SomeFailed, UserError
from sam2unet.families.table import find_family
from sam2unet.limits import round_size
from sam2unet.run_command import ROOT
from sam2unet.runtime.device import can_compile, pick_device

MARKED_TABLE = re.compile(r"<!-- gpu: (.+) -->\n\n((?:\|.*\n)+)")  # in the docs: the name of a table of results
TOGETHER = ("models", "compile", "losses", "resume", "options")  # they run at the same time, and so do their commands
PAIRS = "--train_image_path {images} --train_mask_path {masks}"
SIZES = re.compile(r" --(encoder|dino|size|batch_size|count|steps|warm_up|pairs) \S+")  # flags that `shrink_` replaces
WORDS = {  # what a word in braces stands for, beside the folders of `make_data` and the folder `results`
    "pairs": PAIRS,
    "train": f"train {PAIRS} --rounds 1 --warm_up 3 --steps 6",
    "predict": "predict --test_image_path {images} --rounds 1",
}
# By value: the name of a step, its limit in seconds, and commands of `python -m benchmarks`. All take 530 seconds and
# 10 to begin.
STEPS = {
    "models": (140, """passes {pairs} --encoder tiny
        passes {pairs} --encoder large
        passes {pairs} --model sam2unext --encoder tiny --dino small --size 352
        passes {pairs} --model sam3unet --encoder large
        passes --data_path {lists} --model sam_med2d --encoder vit_b"""),
    "compile": (130, """{train} --encoder large --batch_size 12 --rows fast
        {train} --encoder large --batch_size 64 --rows fast
        {predict} --encoder large --rows fast
        {train} --model sam2unext --batch_size 1 --rows fast
        {predict} --model sam2unext --count 32 --rows fast
        {predict} --encoder large --batch_size 1 --rows fast
        {train} --encoder large --batch_size 12 --rows fast+grad_checkpointing
        {train} --encoder large --batch_size 64 --rows fast+grad_checkpointing"""),
    "losses": (130, """train {pairs} --encoder tiny --batch_size 12 --rounds 1 --warm_up 0 --steps 200 \
            --rows released ours fast --save_path {results}"""),
    "resume": (130, "resume {pairs}"),
    "options": (130, "options"),
    "train": (140, """{train} --encoder large --batch_size 12
        {train} --encoder large --batch_size 64"""),
    "predict": (60, """{predict} --encoder large --count 512
        {predict} --encoder large --batch_size 1 --rows ours fast
        {predict} --encoder large --batch_size 32 --rows ours fast"""),
    "profile": (35, "train {pairs} --encoder large --batch_size 12 --rounds 1 --steps 2 --rows ours fast --profile"),
    "sam2unext": (75, """{train} --model sam2unext --batch_size 1 --rows released ours fast
        {predict} --model sam2unext --count 32"""),
    "sam3unet": (45, """{train} --model sam3unet --batch_size 12 \
            --rows released ours ours+grad_checkpointing fast+grad_checkpointing
        {predict} --model sam3unet --count 32"""),
    "sam_med2d": (25, """prompts --data_path {lists} --rounds 1
        train --data_path {lists} --model sam_med2d --rounds 1 --warm_up 1 --steps 3 --workers 0 \
            --rows released ours ours+fused ours+bf16+fused"""),
    "eval": (20, "eval --pred_path {maps} --gt_path {masks} --pairs 200 --rounds 1"),
}  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Check and measure the whole project on a GPU in nine minutes, on generated images, with random weights.

    Every result is written at once to results.jsonl and results.md in --save_path. A run that is stopped keeps its
    results. Processes are killed when the time of their step is over. NAME.log has what the step NAME printed. The
    steps up to `options` run at the same time, because they measure no time. The others follow one by one.
    """
    if args.write_docs:
        print(f"{write_docs(args.results.read(), ROOT / 'docs/benchmarks.md')} rows in docs/benchmarks.md")
        return
    start, begin = int(time.time()), time.monotonic()
    machine = args.alone.run(describe_machine, args.device)
    args.results.add("check", "machine", "machine", machine | {"quick": args.quick})
    together, deadline = [name for name in args.only if name in TOGETHER], begin
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), *((4, (60, 80)) if args.quick else (64, (737, 984))))
        for names in filter(None, (together, *([name] for name in args.only if name not in together))):
            # Time that earlier steps did not need is added. A busy machine may be slow, which is no error in a test.
            deadline += max(STEPS[name][0] for name in names) * (3 if args.quick else 1)
            lines = [
                (name, line) for name in names for line in list_lines(name, data | {"results": args.results.folder})
            ]
            if args.quick:  # commands that differ only in sizes are one command then
                lines = list(dict.fromkeys((name, SIZES.sub("", line)) for name, line in lines))
            if not machine["compiles"]:
                lines = [(name, line) for name, line in lines if name != "compile"]
            limit = min(deadline, begin + 60 * args.minutes)
            with ThreadPoolExecutor(14 if names is together else 1) as pool:
                list(pool.map(lambda job, limit=limit: run_line(args, limit, *job), lines))
            print(f"{', '.join(names)}: until second {time.monotonic() - begin:.0f}", flush=True)
    results = args.results.read(start)
    if failed := [result for result in results if result["ok"] is False]:
        raise SomeFailed(f"{len(failed)} results failed, first: {failed[0]['table']}, {failed[0]['row']}")


def describe_machine(device: str | None) -> Numbers:
    device = pick_device(device)
    text = f"{models.name_device(device)}; {models.describe_versions()}"
    return {"result": text, "type": device.type, "compiles": can_compile(device)}


def list_lines(name: str, data: Mapping[str, Path]) -> list[str]:
    """Returns the commands of a step."""
    words, lines = {key: text.format_map(data) for key, text in WORDS.items()}, STEPS[name][1]
    return [line.format_map(data | words) for line in lines.splitlines()]


def run_line(args: argparse.Namespace, deadline: float, name: str, line: str) -> None:
    """Runs a command of `python -m benchmarks`. Errors become results."""
    from benchmarks.__main__ import parser  # it imports this module

    prefix = "compiling: " if name == "compile" else ""  # its rows run at the same time, so they are slow
    folder = args.results.folder
    alone, results = Alone(deadline, folder / f"{name}.log"), Results(folder, name, prefix)
    try:
        command = parser().parse_args(line.split())
        command.device = args.device
        if args.quick:
            shrink_(command)
        harness.run_command(command, alone, results)
    except (Exception, SystemExit) as e:
        results.add("check", name, line, harness.explain(e))


def shrink_(command: argparse.Namespace) -> None:
    """Makes a command quick: tiny models and few steps."""
    few = dict(encoder="micro", batch_size=2, warm_up=1, steps=2, count=2, megapixels=0.01, pairs=2, workers=0)
    rows = getattr(command, "rows", ())
    rows = [row for row in rows if row in ("ours", "fast")] or rows[:2]
    vars(command).update(few, rows=rows, peaks={"fp32": 1e12})
    if hasattr(command, "model"):
        family = find_family(command.model)
        command.size, command.dino = round_size(64, family.stride), "micro" if "dino" in family.options else None


def write_docs(results: Sequence[Numbers], page: Path) -> int:
    """Writes results of a GPU into the tables of `page` that have a marker. Returns the number of rows.

    A cell changes if a result has its row and its column. The first title of the table names the device.
    """
    machine = next((result for result in reversed(results) if result["step"] == "gpu"), {})
    if machine.get("type") != "cuda" or machine["quick"]:
        raise UserError("there are no results of a GPU; run this command on a GPU first, without --quick")
    tables = harness.make_tables([result for result in results if result["ok"]])
    count = 0

    def fill(match: re.Match) -> str:
        nonlocal count
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[2].splitlines()]
        titles = lines[0][1:]
        for line in lines[2:]:
            if cells := tables.get(match[1], {}).get(line[0]):
                lines[0][0], count = machine["result"], count + 1
                line[1:] = [cells.get(*pair) for pair in zip(titles, line[1:], strict=True)]
        return match[0].removesuffix(match[2]) + f"{harness.format_lines(lines)}\n"

    text = MARKED_TABLE.sub(fill, read_text(page))
    with write_atomic(page) as file:
        file.write(text.encode())
    return count
