"""Makes a small data set with exact masks from the photographs in scikit-image and scikit-learn."""

from sam2unet.cli import main
from sam2unet.commands.make_sample_data import parser, run

if __name__ == "__main__":
    main(parser, run)
