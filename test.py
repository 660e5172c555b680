"""Predict a map for every image of a folder or frame of a video; with SAM-Med2D, score answers to prompts."""

from sam2unet.cli import main
from sam2unet.commands.test import parser, run

if __name__ == "__main__":
    main(parser, run)
