"""Makes an index of images and masks in folders and archives."""

from sam2unet.cli import main
from sam2unet.commands.index_data import parser, run

if __name__ == "__main__":
    main(parser, run)
