"""Converts a .pth with all weights to a .safetensors with only the trained weights, or back. Nothing is lost."""

from sam2unet.cli import main
from sam2unet.commands.convert_checkpoint import parser, run

if __name__ == "__main__":
    main(parser, run)
