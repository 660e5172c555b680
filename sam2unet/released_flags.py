"""Flags of the released SAM-Med2D scripts that have another name or no meaning here. One line says what they do."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .atomic import read_yaml
from .cli import add_boolean, replace_data_flag
from .errors import UserError, print_line
from .recipe import CHOICES
from .weights.weight_files import WEIGHT_FLAGS

MODEL = "sam_med2d"  # the model that has these flags
# the flags of the other models
OTHER_FLAGS = ("train_image_path", *(flag for flag in WEIGHT_FLAGS if flag != "sam_checkpoint"))


def add_released_flags(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("flags of the released SAM-Med2D scripts", "the script prints what they do here")
    group.add_argument("--work_dir", type=Path, metavar="DIR", help="instead of --save_path, together with --run_name")
    group.add_argument("--run_name", metavar="NAME", help="name of a folder in --work_dir")
    group.add_argument("--metrics", nargs="+", metavar="NAME", help="has no effect: Dice and IoU are always reported")
    group.add_argument("--model_type", metavar="SIZE", help="the same as --encoder; has no effect in test.py")
    add_boolean(group, "use_amp", "True is the same as --amp fp16")


def translate_train_flags(args: argparse.Namespace) -> None:
    """Replaces released flags by flags of train.py. Without --model, a flag of SAM-Med2D chooses this model."""
    notes = []
    name = args.model or (read_yaml(args.config).get("model") if args.config else None)
    has_other_flags = any(getattr(args, flag) for flag in OTHER_FLAGS)
    has_list = bool(args.data) and (args.data / "image2label_train.json").is_file()
    replace_data_flag(args, "train", name == MODEL or (name is None and has_list and not has_other_flags))
    reason = next((flag for flag in ("data_path", "sam_checkpoint") if getattr(args, flag) is not None), None)
    if name is None and reason and not has_other_flags:
        args.model = name = MODEL
        notes.append(f"--{reason} belongs to --model {MODEL}")
    if args.model_type is not None:
        encoder = "vit_h" if args.model_type == "default" else args.model_type  # as in the released builder
        if name != MODEL or args.encoder not in (None, encoder):
            raise UserError("--model_type is --encoder of --model sam_med2d; leave --model_type out")
        args.encoder = encoder
        notes.append(f"--model_type is --encoder {encoder}")
    if args.lr_scheduler not in (None, *CHOICES["lr_scheduler"]) and name == MODEL:
        notes.append(f"--lr_scheduler {args.lr_scheduler} is step, half after epochs 5 and 10, as for any value")
        args.lr_scheduler = "step"
    translate_common(args, lambda work, run: work / "models" / (run or "sam-med2d"), name == MODEL, notes)


def translate_test_flags(args: argparse.Namespace) -> None:
    """Replaces released flags by flags of test.py."""
    notes = []
    if args.checkpoint is None and args.sam_checkpoint is not None:
        args.checkpoint, args.sam_checkpoint = [args.sam_checkpoint], None
        notes.append("--sam_checkpoint is the model to test, --checkpoint")
    if args.checkpoint is None:
        raise UserError("--checkpoint, the model to test, is missing")
    if args.model_type is not None:
        notes.append(f"--model_type {args.model_type} has no meaning, the checkpoint says its size")
    if args.lr_scheduler is not None:
        notes.append("--lr_scheduler has no meaning in a test")
    released = args.data_path is not None
    translate_common(args, lambda work, run: work / (run or "sammed"), released, notes)


def translate_common(
    args: argparse.Namespace, folder: Callable[[Path, str | None], Path], released: bool, notes: list[str]
) -> None:
    """Replaces the released flags that both scripts have. Prints `notes`.

    Args:
        folder: returns the folder of results for --work_dir and --run_name.
        released: without --save_path, the folder of results is that of the released script.
    """
    named = args.work_dir is not None or args.run_name is not None
    if args.save_path is None and not (named or released):
        raise UserError("--save_path, a folder for results, is missing")
    if args.save_path is None:
        args.save_path = folder(args.work_dir or Path("workdir"), args.run_name)
        notes.append(f"results go to {args.save_path}, without --save_path")
    elif named:
        notes.append("--work_dir and --run_name have no meaning beside --save_path")
    if args.metrics is not None:
        notes.append("--metrics has no meaning, Dice and IoU are always reported")
    if args.use_amp is not None:
        args.amp = args.amp or ("fp16" if args.use_amp else "off")
        notes.append(f"--use_amp is --amp {args.amp}")
    if notes:
        print_line(f"flags: {'; '.join(notes)}")
