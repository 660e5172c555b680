"""Checks a data set before training: reads every file and lists everything that is wrong or unusual."""

from sam2unet.cli import main
from sam2unet.commands.check_data import parser, run

if __name__ == "__main__":
    main(parser, run)
