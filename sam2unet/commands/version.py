"""Prints the version."""

import argparse

from .. import __version__
from ..cli import Parser
from ..errors import print_line


def parser() -> argparse.ArgumentParser:
    return Parser(description=__doc__)


def run(args: argparse.Namespace) -> None:
    print_line(f"sam2unet {__version__}")
