"""Runs one command of the project from another one, as a user runs it."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import print_line

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # the folder of a checkout, or `site-packages`
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file()
CONFIGS = ROOT / "configs" if IS_CHECKOUT else PACKAGE / "configs"
NAME = "sam2unet"  # of the console command


def run_command(command: str, *flags: object) -> None:
    """Prints `command`, for example `train`, with its flags, and runs it. If it fails, exits with its status."""
    words = [command, *map(str, flags)]
    print_line()
    print_line(f"$ {NAME} {shlex.join(word.removeprefix(f'{os.getcwd()}/') for word in words)}")
    # The file, not `-m sam2unet`, because -m imports modules of the current folder, which is the user's.
    process = subprocess.Popen([sys.executable, str(PACKAGE / "__main__.py"), *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the other command gets the signal too, and may save its state before it ends
        code = process.wait() or 130
    if code < 0:
        print_line(f"error: {NAME} {command} was ended by signal {-code}", sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def format_command(words: Sequence[str]) -> str:
    """Returns the command line of `sys.argv`, for a record: `sam2unet eval ...` or `python eval.py ...`."""
    if words[0].startswith(f"{NAME} "):
        return f"{words[0]} {shlex.join(words[1:])}"
    return shlex.join(["python", *words])
