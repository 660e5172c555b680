"""The page for prompts, of a small model with made-up weights: a process for the browser's tests."""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from sam2unet.cli import Parser, main
from sam2unet.data.framing import Framing
from sam2unet.layers.sam_vit import SamViT
from sam2unet.models.sam_med2d import SAMMed2D

SIDE = 64


def small_model() -> SAMMed2D:
    """Two blocks, random, the same every time."""
    torch.manual_seed(0)
    encoder = SamViT(dim=32, depth=2, heads=2, global_blocks=(1,), side=SIDE, adapters=True)
    for name, parameter in encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter)
    return SAMMed2D(encoder).eval()


def run(args: argparse.Namespace) -> None:
    import demo

    from sam2unet.demo import serve
    from sam2unet.demo.files import Limits
    from sam2unet.demo.prompt_session import PromptMethod

    with serve.kept_inside() as home:
        method, limits = PromptMethod("small", small_model(), Framing(SIDE)), Limits(megapixels=2, megabytes=1)
        serve.serve(method, home, demo.make_examples, limits, "127.0.0.1", 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    main(Parser, run)
