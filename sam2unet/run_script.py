"""A step of a longer script: one of the project's scripts, run as a user would run it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from .errors import print_line

ROOT = Path(__file__).resolve().parent.parent


def run_script(script: str, *flags: object) -> None:
    """Run `script` of the project from the current folder, after showing the command; its failure ends this one too."""
    words = [str(ROOT / script), *(str(flag) for flag in flags)]
    print_line()
    print_line(f"$ python {shlex.join(word.removeprefix(f'{os.getcwd()}/') for word in words)}")
    process = subprocess.Popen([sys.executable, *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal tells the step too, which may have something to save first
        code = process.wait() or 130
    if code < 0:
        print_line(f"error: {script} was ended by signal {-code}", sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)
