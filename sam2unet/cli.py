"""How the scripts read flags and how they end. Bad input gives one line on stderr and exit status 2."""

import argparse
import errno
import io
import logging
import os
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import PIL

from .classes import Classes
from .data.index.select import IndexQuery
from .data.layouts.choose import choose_folders
from .errors import SomeFailed, Stopped, UserError, print_errors, print_line, printable, warn
from .recipe import FIELDS, RELEASED_RECIPES, Recipe
from .run_command import CONFIGS
from .runtime.versions import version
from .typed_yaml import get_value_type

HINTS = typing.get_type_hints(Recipe)
PATH_ERRORS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)  # a path that the user gave is wrong


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations of flags. An error is one line, without the usage."""

    def __init__(self, **options: typing.Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)} (see {self.prog} --help)\n")


class PassThroughParser(Parser):
    """A parser that collects unknown flags in `others`."""

    def parse_args(  # type: ignore[override]  # without the overloads of argparse
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        known, others = self.parse_known_args(args, namespace)
        known.others = others
        return known


def add_boolean(group: argparse._ActionsContainer, name: str, words: str) -> None:
    """Adds a flag in the forms of the released scripts: `--name`, `--name True` or `--name False`; default: None."""
    group.add_argument(f"--{name}", help=words, **BOOLEAN)


def add_recipe_flags(container: argparse._ActionsContainer, group: str) -> None:
    """Adds a flag for each field of `Recipe` in `group`. The value is None if the user does not give the flag."""
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            continue
        kind, choices = get_value_type(HINTS[name]), field.metadata.get("choices", ())
        kind = Path if kind is Classes else kind
        options: dict[str, typing.Any] = {"help": f"{field.metadata['help']}{describe_default(name)}"}
        if field.metadata.get("switch"):
            options |= {"action": "store_const", "const": True}
        elif kind is bool:
            options |= BOOLEAN
        else:  # `Recipe` checks the choices: SAM-Med2D's scripts give other values, which `released_flags` translates
            options |= {"type": kind, "metavar": "|".join(choices) or METAVARS.get(kind)}
        if typing.get_origin(HINTS[name]) is tuple:
            options["nargs"] = "+"
        container.add_argument(f"--{name}", *field.metadata.get("aliases", ()), **options)


def describe_default(name: str) -> str:
    """Returns the end of a help text, for example `; default: 352; sam2unext: 1024; sam_med2d: 256`."""
    default = FIELDS[name].default
    if default in (None, ()):
        return ""
    others = {model: recipe[name] for model, recipe in RELEASED_RECIPES.items() if name in recipe}
    values = {"default": default} | others
    return "".join(f"; {model}: {format_default(value)}" for model, value in values.items())


def format_default(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def locate_recipe_file(text: str) -> Path:
    """Returns the path `text`. If there is no such file, a recipe of this project: `polyp`, `configs/polyp.yaml`."""
    path = Path(text)
    recipe = CONFIGS / f"{path.stem}.yaml"
    is_name = text in (path.stem, f"{path.stem}.yaml", f"configs/{path.stem}.yaml")
    return recipe if is_name and not path.exists() and recipe.is_file() else path


def read_recipe_flags(args: argparse.Namespace) -> dict[str, typing.Any]:
    """Returns the fields of a recipe that the user gave as flags."""
    flags = {name: value for name in FIELDS if (value := getattr(args, name, None)) is not None}
    if "classes" in flags:
        flags["classes"] = Classes.read(flags["classes"])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


def list_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, typing.Any]:
    """Returns the flags with a value for the record of a run. 0 is a value if it is not the default."""

    def has_value(name: str, value: object) -> bool:
        if value == 0:
            return value is not False and value != parser.get_default(name)
        return value is not None and value != []

    return {name: value for name, value in vars(args).items() if has_value(name, value)}


def add_mask_values(group: argparse._ActionsContainer) -> None:
    """Adds `--mask_threshold` and `--foreground`, which exclude each other; see `recipe.make_foreground_rule`."""
    add_recipe_flags(group.add_mutually_exclusive_group(), "mask values")


def add_data_flag(group: argparse._ActionsContainer, split: str) -> None:
    """Adds `--data`, which `replace_data_flag` replaces."""
    words = f"instead of both folders: a folder that contains them under usual names; takes those for {split}"
    group.add_argument("--data", type=Path, metavar="DIR", help=words)


def replace_data_flag(args: argparse.Namespace, split: str, takes_lists: bool) -> None:
    """Replaces `--data` by the flags of the folders inside, or by `--data_path` for a model that `takes_lists`.

    Raises UserError if these flags are there too, or if the folders are not clear.
    """
    if args.data is None:
        return
    flags = ("train_image_path", "train_mask_path") if split == "train" else ("test_image_path", "test_gt_path")
    if others := [name for name in (*flags, "data_path") if getattr(args, name)]:
        raise UserError(f"--data finds the folders of --{' and --'.join(others)}; give one of the two")
    if takes_lists:
        args.data_path = args.data
    else:
        pair = choose_folders(args.data, split)
        for name, path in zip(flags, (pair.images, pair.masks), strict=True):
            setattr(args, name, [path] if split == "train" else path)


def add_index_flags(group: argparse._ActionsContainer) -> None:
    """Adds `--index` and the flags that choose a part of an index, see `data.index.select.IndexQuery`."""
    group.add_argument("--index", type=Path, metavar="DIR", help="instead: an index of images, from sam2unet index")
    group.add_argument(
        "--where", metavar="CONDITIONS", help='with --index: take only this part, e.g. "modality=ct and dataset!=AMOS*"'
    )
    group.add_argument(
        "--split", metavar="case:F", help="with --index: train on this fraction of the cases, test on the others"
    )


def read_index_flags(args: argparse.Namespace) -> IndexQuery | None:
    """Returns the part of an index that the flags name, or None without `--index`. UserError for flags without it."""
    flags = {name: getattr(args, name, None) for name in ("where", "split", "balance")}
    if args.index is not None:
        return IndexQuery(args.index, **flags)
    if names := [name for name, value in flags.items() if value is not None]:
        raise UserError(f"without --index, leave out --{' and --'.join(names)}")
    return None


def parse_boolean(text: str) -> bool:
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return values[text.lower()]


BOOLEAN: dict[str, typing.Any] = {"type": parse_boolean, "nargs": "?", "const": True, "metavar": "True|False"}
METAVARS = {int: "N", float: "X", Path: "FILE"}


def main(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]) -> NoReturn:
    """Parses the flags, runs the script and exits.

    The exit status is 0, 1 if a part of the work failed, 2 for bad input, 130 after Ctrl-C, and 143 after a SIGTERM
    that the script handles.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot show
    status: str | int | None
    try:
        status = run_to_status(parser, run)
    except SystemExit as e:
        status = e.code
    output_status = flush_output()
    sys.exit(status or output_status)


def run_to_status(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]) -> int:
    args = parser().parse_args()
    check_installation()
    silence_libraries()
    try:
        run(args)
    except UserError as e:
        print_line(f"error: {e}", sys.stderr)
        return 1 if isinstance(e, SomeFailed) else 2
    except OSError as e:
        if e.errno not in PATH_ERRORS or e.filename is None:
            raise
        print_line(f"error: {os.strerror(e.errno)}: {os.fsdecode(e.filename)}; give another path", sys.stderr)
        return 2
    except Stopped as e:
        print_line(e, sys.stderr)
        return 128 + e.signal
    except KeyboardInterrupt:
        print_line("stopped", sys.stderr)
        return 130
    return 0


def silence_libraries() -> None:
    """Hides the warnings of libraries, here and in child processes. `python -W` shows them."""
    if sys.warnoptions in ([], ["ignore"]):  # ["ignore"]: another script of the project started this one
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
        logging.disable(logging.WARNING)


def flush_output() -> int:
    """Flushes the output. Returns 1 if a line could not be printed, else 0. Prints the reason if it is not `| head`."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as e:
            print_errors.append(e)
            # Otherwise Python flushes again at its end, and prints an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    errors = list(print_errors)
    print_errors.clear()
    if others := [e for e in errors if not isinstance(e, BrokenPipeError)]:
        print_line(f"error: cannot print: {others[0].strerror}; files of results are not affected", sys.stderr)
    return int(bool(errors))


def check_installation() -> None:
    """Warns if two installed packages share the module `cv2`, or if Pillow has a version that resizes differently."""
    packages = [name for name in ("opencv-contrib-python", "opencv-python", "opencv-python-headless") if version(name)]
    if len(packages) > 1:
        names = " and ".join(packages)
        warn(f"{names} overwrite each other's cv2; uninstall all of them, then install the headless one")
    if int(PIL.__version__.split(".")[0]) >= 13:
        warn('Pillow 13 resizes portraits differently, which changes the numbers; pip install "pillow<13"')
