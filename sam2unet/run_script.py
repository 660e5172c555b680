"""Runs one script of the project from another one, as a user runs it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from .errors import print_line

ROOT = Path(__file__).resolve().parent.parent


def run_script(script: str, *flags: object) -> None:
    """Prints the command and runs `script` from the current folder. If it fails, exits with its status."""
    words = [str(ROOT / script), *(str(flag) for flag in flags)]
    print_line()
    print_line(f"$ python {shlex.join(word.removeprefix(f'{os.getcwd()}/') for word in words)}")
    process = subprocess.Popen([sys.executable, *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the other script gets the signal too, and may save its state before it ends
        code = process.wait() or 130
    if code < 0:
        print_line(f"error: {script} was ended by signal {-code}", sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)
