"""A step of a longer script: one of the project's scripts, run as a user would run it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def call(script: str, *flags: object) -> None:
    """Run `script` of the project from the current folder, after showing the command; its failure ends this one too."""
    words = [str(ROOT / script), *(str(flag) for flag in flags)]
    print(f"\n$ python {shlex.join(word.removeprefix(f'{os.getcwd()}/') for word in words)}", flush=True)
    process = subprocess.Popen([sys.executable, *words])
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal tells the step too, which may have something to save first
        code = process.wait() or 130
    if code < 0:
        print(f"error: {script} was ended by signal {-code}", file=sys.stderr)
    if code:
        sys.exit(code if code > 0 else 128 - code)
