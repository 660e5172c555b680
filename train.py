"""Train a model on folders of images and masks, or on lists. For several GPUs: torchrun --nproc_per_node=N train.py."""

from sam2unet.cli import main
from sam2unet.commands.train import parser, run

if __name__ == "__main__":
    main(parser, run)
