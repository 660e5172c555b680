"""How the scripts read flags and end: bad input is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

import PIL

from .engine.versions import version
from .errors import SomeFailed, Stopped, UserError, warn


class Parser(argparse.ArgumentParser):
    """Flags are spelt out in full, and a wrong one gets one line instead of the whole usage."""

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_boolean(group: argparse._ActionsContainer, name: str, words: str) -> None:
    """`--name`, `--name True` or `--name False`, as released command lines have it; None if not given."""
    group.add_argument(f"--{name}", type=boolean, nargs="?", const=True, metavar="True|False", help=words)


def boolean(text: str) -> bool:
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return known[text.lower()]


def main(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]) -> NoReturn:
    """Parse, run, and exit: 0, 1 if part was left out, 2 on bad input, 130 on Ctrl-C, 143 on SIGTERM if waited for."""
    args = parser().parse_args()
    check_installation()
    # Pillow's warnings of large images and odd metadata come as two lines of its code; what is wrong it raises.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        run(args)
    except UserError as e:
        # An error raised in a worker process arrives as that process's traceback, whose last line is ours.
        line = re.sub(r"^sam2unet\.[\w.]+: ", "", str(e).strip().splitlines()[-1])
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1 if isinstance(e, SomeFailed) else 2)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Stopped as e:
        print(e, file=sys.stderr)
        sys.exit(128 + e.signal)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def check_installation() -> None:
    """Warn where two packages have written into one `cv2`, and of a Pillow that resizes otherwise."""
    both = [name for name in ("opencv-contrib-python", "opencv-python", "opencv-python-headless") if version(name)]
    if len(both) > 1:
        warn(f"{' and '.join(both)} overwrite each other's cv2; pip uninstall all of them, then install the headless")
    if int(PIL.__version__.split(".")[0]) >= 13:
        warn(
            'Pillow 13 resizes portraits otherwise than those before, which moves the numbers; pip install "pillow<13"'
        )
