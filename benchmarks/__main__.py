"""Measure this machine: scoring (`eval`), prediction (`predict`), training (`train`), the losses of training as curves
(`curves`), and models for prompts (`prompts`).

Each command compares the released way with ours on the same files.
"""

import argparse

from benchmarks import curves, predict, prompts, scoring, train
from sam2unet.cli import Parser, main

COMMANDS = {"eval": scoring, "predict": predict, "train": train, "curves": curves, "prompts": prompts}


def parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    p = Parser(description=__doc__, formatter_class=layout)
    commands = p.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, module in COMMANDS.items():
        title = module.__doc__.splitlines()[0]
        module.add_flags(commands.add_parser(name, help=title, description=module.__doc__, formatter_class=layout))
    return p


def run(args: argparse.Namespace) -> None:
    COMMANDS[args.command].run(args)


if __name__ == "__main__":
    main(parser, run)
