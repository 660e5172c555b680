"""Lists, downloads and checks published weights. A name from the list replaces the path of a weight file."""

from sam2unet.cli import main
from sam2unet.commands.weights import parser, run

if __name__ == "__main__":
    main(parser, run)
