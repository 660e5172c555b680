"""Finds known benchmarks in a folder of downloads, and makes the folders that scripts/reproduce.py needs."""

from sam2unet.cli import main
from sam2unet.commands.prepare_benchmarks import parser, run

if __name__ == "__main__":
    main(parser, run)
