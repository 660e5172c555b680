"""How the scripts read flags and end: bad input is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

import PIL

from .errors import SomeFailed, Stopped, UserError, print_line, printable, unprinted, warn
from .runtime.versions import version

OF_PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)  # errors of paths as the user gave them


class Parser(argparse.ArgumentParser):
    """Flags are spelt out in full, and a wrong one gets one line instead of the whole usage."""

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)} (see {self.prog} --help)\n")


def add_boolean(group: argparse._ActionsContainer, name: str, words: str) -> None:
    """`--name`, `--name True` or `--name False`, as released command lines have it; None if not given."""
    group.add_argument(f"--{name}", type=boolean, nargs="?", const=True, metavar="True|False", help=words)


def add_mask_values(group: argparse._ActionsContainer) -> None:
    """`--mask_threshold` or `--foreground`, as `data.foreground.foreground_rule` takes them."""
    group = group.add_mutually_exclusive_group()
    group.add_argument("--mask_threshold", type=int, metavar="N", help="mask values above N are foreground; cut hard")
    group.add_argument(
        "--foreground",
        type=int,
        nargs="+",
        metavar="V",
        help="these mask values are foreground; of masks with a palette, its indices",
    )


def boolean(text: str) -> bool:
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return known[text.lower()]


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
