"""How the scripts read flags and end: bad input is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
import typing
import warnings
from collections.abc import Callable
from typing import NoReturn

import PIL

from .errors import SomeFailed, Stopped, UserError, print_line, printable, unprinted, warn
from .recipe import FIELDS, RELEASED_RECIPES, Recipe
from .runtime.versions import version
from .typed_yaml import get_value_type

OF_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)  # errors of paths as the user gave them


class Parser(argparse.ArgumentParser):
    """Flags are spelt out in full, and a wrong one gets one line instead of the whole usage."""

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)} (see {self.prog} --help)\n")


def add_boolean(group: argparse._ActionsContainer, name: str, words: str) -> None:
    """Adds a flag in the forms of the released scripts: `--name`, `--name True` or `--name False`; default: None."""
    group.add_argument(f"--{name}", help=words, **BOOLEAN)


def add_recipe_flags(container: argparse._ActionsContainer, group: str) -> None:
    """Adds a flag for each field of `Recipe` in `group`. The value is None if the user does not give the flag."""
    hints = typing.get_type_hints(Recipe)
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            continue
        kind, choices = get_value_type(hints[name]), field.metadata.get("choices", ())
        options = {"help": f"{field.metadata['help']}{describe_default(name)}"}
        if field.metadata.get("switch"):
            options |= {"action": "store_const", "const": True}
        elif kind is bool:
            options |= BOOLEAN
        else:  # `Recipe` checks the choices: SAM-Med2D's scripts give other values, which `released_flags` translates
            options |= {"type": kind, "metavar": "|".join(choices) or METAVARS.get(kind)}
        if typing.get_origin(hints[name]) is tuple:
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


def read_recipe_flags(args: argparse.Namespace) -> dict[str, object]:
    """Returns the fields of a recipe that the user gave as flags."""
    flags = {name: value for name in FIELDS if (value := getattr(args, name, None)) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


def add_mask_values(group: argparse._ActionsContainer) -> None:
    """Adds `--mask_threshold` and `--foreground`, which exclude each other; see `recipe.make_foreground_rule`."""
    add_recipe_flags(group.add_mutually_exclusive_group(), "mask values")


def boolean(text: str) -> bool:
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return known[text.lower()]


BOOLEAN = {"type": boolean, "nargs": "?", "const": True, "metavar": "True|False"}
METAVARS = {int: "N", float: "X"}


def main(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]) -> NoReturn:
    """Parse, run, and exit: 0, 1 if part was left out, 2 on bad input, 130 on Ctrl-C, 143 on SIGTERM if waited for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding does not have
    try:
        status = status_of(parser, run)
    except SystemExit as e:
        status = e.code
    unfinished = status_of_output()
    sys.exit(status or unfinished)


def status_of(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]) -> int:
    args = parser().parse_args()
    check_installation()
    silence_libraries()
    try:
        run(args)
    except UserError as e:
        print_line(f"error: {e}", sys.stderr)
        return 1 if isinstance(e, SomeFailed) else 2
    except OSError as e:
        if e.errno not in OF_PATHS or e.filename is None:
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
    """Hide warnings of numpy, torch, matplotlib and others, here and in child processes; `python -W` shows them.

    They name lines of code that the user did not write. Our own are lines on stderr, `errors.warn`.
    """
    if sys.warnoptions in ([], ["ignore"]):  # the latter in a script that one of ours has started
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
        logging.disable(logging.WARNING)


def status_of_output() -> int:
    """1 if not all could be printed, and a line that says so, unless `| head` had read enough; else 0."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as e:
            unprinted.append(e)
            # Python would try again at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    found = list(unprinted)
    unprinted.clear()
    if lost := [e for e in found if not isinstance(e, BrokenPipeError)]:
        print_line(f"error: cannot print: {lost[0].strerror}; files of results are not affected", sys.stderr)
    return int(bool(found))


def check_installation() -> None:
    """Warn where two packages have written into one `cv2`, and of a Pillow that resizes otherwise."""
    both = [name for name in ("opencv-contrib-python", "opencv-python", "opencv-python-headless") if version(name)]
    if len(both) > 1:
        warn(f"{' and '.join(both)} overwrite each other's cv2; pip uninstall all of them, then install the headless")
    if int(PIL.__version__.split(".")[0]) >= 13:
        warn(
            'Pillow 13 resizes portraits otherwise than those before, which moves the numbers; pip install "pillow<13"'
        )
