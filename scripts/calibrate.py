"""Fit the temperature of a checkpoint on validation images, so that its maps are probabilities."""

from sam2unet.cli import main
from sam2unet.commands.calibrate import parser, run

if __name__ == "__main__":
    main(parser, run)
