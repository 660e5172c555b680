"""Exports a model as ONNX or torch.export. The file is compared with PyTorch on pictures before it is written."""

from sam2unet.cli import main
from sam2unet.commands.export import parser, run

if __name__ == "__main__":
    main(parser, run)
