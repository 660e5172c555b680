"""Measure this machine: scoring (`eval`), prediction (`predict`), training (`train`), the losses of training as curves
(`curves`), and models for prompts (`prompts`). Each command compares the released way with ours on the same files.

`gpu` checks and measures all of this on a GPU in nine minutes, without any files.
"""

import argparse

from benchmarks import curves, gpu, harness
from sam2unet.cli import Parser, main

COMMANDS = gpu.COMMANDS | {"curves": curves, "gpu": gpu}


def parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    p = Parser(description=__doc__, formatter_class=layout)
    commands = p.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, module in COMMANDS.items():
        title = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=title, description=module.__doc__, formatter_class=layout)
        module.add_flags(command)
        command.set_defaults(alone=harness.Alone(), record=harness.print_row)
    return p


def run(args: argparse.Namespace) -> None:
    for text in COMMANDS[args.command].run(args):
        print(text, flush=True)


if __name__ == "__main__":
    main(parser, run)
