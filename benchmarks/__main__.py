"""Measure this machine: scoring (`eval`), prediction (`predict`), training (`train`), its losses as curves
(`curves`), and models for prompts (`prompts`).

Each compares the released way with ours on the same files.
"""

import argparse

from benchmarks import curves, predict, prompts, scoring, train
from sam2unet.cli import Parser, main

KINDS = {
    "eval": scoring,
    "predict": predict,
    "train": train,
    "curves": curves,
    "prompts": prompts,
}


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = p.add_subparsers(dest="what", required=True, metavar="|".join(KINDS))
    for name, module in KINDS.items():
        form = argparse.RawDescriptionHelpFormatter
        module.add_flags(
            kinds.add_parser(
                name, help=module.__doc__.splitlines()[0], description=module.__doc__, formatter_class=form
            )
        )
    return p


def run(args: argparse.Namespace) -> None:
    KINDS[args.what].run(args)


if __name__ == "__main__":
    main(parser, run)
