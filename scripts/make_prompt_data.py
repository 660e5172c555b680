"""Make the lists of images and masks for SAM-Med2D: image2label_train.json and label2image_test.json."""

from sam2unet.cli import main
from sam2unet.commands.make_prompt_data import parser, run

if __name__ == "__main__":
    main(parser, run)
