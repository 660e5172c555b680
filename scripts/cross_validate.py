"""Cross-validation: trains a model for each fold, predicts the fold that it did not see, and scores all folds once."""

from sam2unet.cli import main
from sam2unet.commands.cross_validate import parser, run

if __name__ == "__main__":
    main(parser, run)
