"""Measure this machine. Each command compares the released way with ours on the same files.

Each row of each round runs in a process of its own. The fastest round counts. The rounds take turns, so that a busy
moment does not slow down one row alone.

`gpu` checks and measures everything on a GPU in nine minutes, without any files.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import checks, gpu, predict, scale, scoring, train
from benchmarks.harness import Alone, Results, format_results, run_command
from sam2unet.atomic import claim_folder
from sam2unet.cli import Parser, main
from sam2unet.families.table import FAMILIES
from sam2unet.weights.weight_files import add_weight_flags

FLAGS = {
    "train_image_path": dict(type=Path, nargs="+", default=[], metavar="DIR", help="folders of images"),
    "train_mask_path": dict(type=Path, nargs="+", default=[], metavar="DIR", help="folders of masks"),
    "data_path": dict(type=Path, metavar="DIR", help="for SAM-Med2D: folder with image2label_train.json"),
    "test_image_path": dict(type=Path, metavar="DIR", required=True, help="folder of photographs"),
    "megapixels": dict(type=float, default=0.7, help="size of the resized photographs; default: 0.7"),
    "count": dict(type=int, default=32, help="photographs, repeated if there are fewer; default: 32"),
    "steps": dict(type=int, default=20, help="timed updates; default: 20"),
    "warm_up": dict(type=int, help="updates before the timed ones; default: 2 on a CPU, 20 on a GPU"),
    "profile": dict(action="store_true", help="also print the operations of an update with their times"),
    "checkpoint": dict(type=Path, help="default: random weights, which take the same time"),
    "model": dict(choices=FAMILIES, default="sam2unet", help=f"{', '.join(FAMILIES)}; default: sam2unet"),
    "encoder": dict(help="size of the trunk; default: the released size, or the size in its file"),
    "dino": dict(help="size of DINO; default: the released size, or the size in its file"),
    "size": dict(type=int, help="side of the input in pixels; default: the released size of the model"),
    "batch_size": dict(type=int, help="default: in training the released size, in prediction 1 or that of --fast"),
    "workers": dict(type=int, help="processes or threads that read files; default: one per core, at most 8"),
    "device": dict(help="default: a GPU if there is one"),
    "pred_path": dict(type=Path, metavar="DIR", required=True, help="folder of maps"),
    "gt_path": dict(type=Path, metavar="DIR", required=True, help="folder of the masks, with the same names"),
    "classes": dict(type=Path, metavar="FILE", help="YAML file with classes: compare with torchmetrics"),
    "surfaces": dict(action="store_true", help="distances between surfaces: compare with MONAI"),
    "pairs": dict(type=int, default=60, help="number of pairs; default: 60"),
    "rounds": dict(type=int, default=3, help="measurements of each row; default: 3"),
    "save_path": dict(type=Path, metavar="DIR", help="folder of the results"),
    "only": dict(nargs="+", choices=gpu.STEPS, default=list(gpu.STEPS), metavar="STEP", help=", ".join(gpu.STEPS)),
    "minutes": dict(type=float, default=9, help="time limit of the whole command; default: 9"),
    "quick": dict(action="store_true", help="tiny models and few steps: a test of this command"),
    "write_docs": dict(action="store_true", help="write the results in --save_path into docs/benchmarks.md instead"),
}
MODEL, TRAIN = "model encoder dino size batch_size workers device", "train_image_path train_mask_path data_path"


class Command(NamedTuple):
    run: Callable[[argparse.Namespace], None]
    flags: str
    rows: Sequence[str] = ()
    options: Sequence[str] = ()  # what the rows ours and fast can have
    whole: bool = False  # all of it runs in a process of its own


COMMANDS = {
    "train": Command(train.run, f"{TRAIN} steps warm_up profile save_path rounds {MODEL}", train.ROWS, train.OPTIONS),
    "predict": Command(
        predict.run, f"test_image_path checkpoint megapixels count rounds {MODEL}", predict.ROWS, predict.OPTIONS
    ),
    "prompts": Command(
        predict.run_prompts, f"data_path checkpoint rounds {MODEL}", predict.PROMPT_ROWS, ("bf16", "fp16")
    ),
    "eval": Command(scoring.run, "pred_path gt_path classes surfaces pairs rounds", scoring.ROWS),
    "scale": Command(scale.run, "save_path", scale.ROWS),
    "passes": Command(checks.compare_passes, f"{TRAIN} {MODEL}", whole=True),
    "resume": Command(checks.check_resume, "train_image_path train_mask_path device", whole=True),
    "options": Command(checks.check_options, "device", whole=True),
    "gpu": Command(gpu.run, "save_path only minutes device quick write_docs"),
}


def parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    p = Parser(description=__doc__, formatter_class=layout)
    commands = p.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, command in COMMANDS.items():
        text = command.run.__doc__
        sub = commands.add_parser(name, help=text.splitlines()[0], description=text, formatter_class=layout)
        for flag in command.flags.split():
            sub.add_argument(f"--{flag}", **FLAGS[flag])
        if "model" in command.flags:
            add_weight_flags(sub, "; default: random weights, which take the same time")
        if command.rows:
            words = f"default: {' '.join(command.rows)}"
            words += f". You can add +{', +'.join(command.options)} to ours and fast" * bool(command.options)
            sub.add_argument("--rows", nargs="+", default=command.rows, metavar="ROW", help=words)
        sub.set_defaults(work=command.run, whole=command.whole, rows=command.rows, options=command.options, peaks=None)
    return p


def run(args: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process of a row ends too
    with tempfile.TemporaryDirectory() as folder:
        if save_path := getattr(args, "save_path", None):
            claim_folder(save_path, "results of benchmarks")
        results = Results(save_path or Path(folder), args.command, show=True)
        run_command(args, Alone(), results)
        print(format_results(results.read()))


if __name__ == "__main__":
    main(parser, run)
