"""Measure this machine. Each command compares the released way with ours on the same files.

Each row of each round runs in a process of its own. The fastest round counts. The rounds take turns, so that a busy
moment does not slow down one row alone.

`gpu` checks and measures everything on a GPU in nine minutes, without any files.
"""

import argparse
import signal
import sys

from benchmarks import gpu, harness
from sam2unet.cli import Parser, main

COMMANDS = gpu.COMMANDS | {"gpu": (gpu.add_flags, gpu.run, "")}


def parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    p = Parser(description=__doc__, formatter_class=layout)
    commands = p.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, (add_flags, run, _) in COMMANDS.items():
        text = run.__doc__ or sys.modules[run.__module__].__doc__
        command = commands.add_parser(name, help=text.splitlines()[0], description=text, formatter_class=layout)
        add_flags(command)
        command.set_defaults(run=run, alone=harness.Alone(), record=harness.print_result)
    return p


def run(args: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process of a row ends too
    for text in args.run(args):
        print(text, flush=True)


if __name__ == "__main__":
    main(parser, run)
