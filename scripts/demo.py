"""Open a page in the browser to try a checkpoint: drop images, look at their maps, compare two checkpoints."""

from sam2unet.cli import main
from sam2unet.commands.demo import parser, run

if __name__ == "__main__":
    main(parser, run)
