"""Runs scripts/reproduce.py with its steps in this process, so that a test can kill all of them at once."""

import runpy
import sys

from sam2unet.commands import COMMANDS
from sam2unet.reproduce import study
from sam2unet.run_command import ROOT


def run_step(command: str, *flags: object) -> None:
    script = COMMANDS[command].script
    sys.argv = [script, *map(str, flags), *["--workers", "1"] * (command == "eval")]  # a pool takes longer to start
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    study.run_command = run_step
    runpy.run_path(str(ROOT / "scripts/reproduce.py"), run_name="__main__")
