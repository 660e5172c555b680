"""Converts annotations between masks and the formats of other tools, and results of test.py to these formats."""

from sam2unet.cli import main
from sam2unet.commands.convert_annotations import parser, run

if __name__ == "__main__":
    main(parser, run)
