"""Trains, predicts and scores on sample data or on your own folders. quickstart.sh runs it."""

import sys

from sam2unet.cli import main
from sam2unet.commands.quickstart import parser, run

if __name__ == "__main__":
    sys.argv[0] = "quickstart.sh"  # the name in messages
    main(parser, run)
