"""Predicts maps of millions of images with a Ray cluster."""

from sam2unet.cli import main
from sam2unet.commands.predict_ray import parser, run

if __name__ == "__main__":
    main(parser, run)
