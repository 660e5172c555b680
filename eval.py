"""Scores folders of prediction maps against folders of masks."""

from sam2unet.cli import main
from sam2unet.commands.eval import parser, run

if __name__ == "__main__":
    main(parser, run)
