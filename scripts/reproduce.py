"""Reproduces a published result of configs/: trains, predicts all test sets, scores them and writes a certificate."""

from sam2unet.cli import main
from sam2unet.commands.reproduce import parser, run

if __name__ == "__main__":
    main(parser, run)
