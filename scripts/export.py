"""Write a model as ONNX or torch.export, checked against torch on pictures before the file is there."""

import argparse
from pathlib import Path

import numpy as np
from make_sample_data import OBJECTS, SCENES, paste, read_photographs
from PIL import Image

from sam2unet.cli import Parser, main
from sam2unet.data.inputs import find_inputs
from sam2unet.data.reading import read_image
from sam2unet.engine import export
from sam2unet.engine.pictures import spread
from sam2unet.errors import UserError
from sam2unet.sources import add_sources, sources_of

COUNT = 4  # pictures to check on


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument("--checkpoint", type=Path, required=True, help="<title>-<epoch>.pth, .safetensors or hub folder")
    add_sources(p)
    p.add_argument("--output", type=Path, required=True, help="model.onnx or model.pt2")
    p.add_argument("--format", choices=("onnx", "pt2"), help="default: what --output ends in")
    p.add_argument(
        "--size", type=int, help="input side, fixed; default: that of the training, if known, or the released one"
    )
    p.add_argument("--whole", action="store_true", help="uint8 photographs in, uint8 maps out, both of the input side")
    p.add_argument("--images", type=Path, help=f"folder to take {COUNT} pictures for the check from; default: made up")
    return p


def run(args: argparse.Namespace) -> None:
    output = args.output
    if args.format and output.suffix != f".{args.format}":
        if output.suffix:
            raise UserError(f"--format {args.format} and --output {output.name} say different things; leave one out")
        output = output.with_suffix(f".{args.format}")
    export.run(args.checkpoint, output, pictures(args.images), args.size, args.whole, sources_of(args))


def pictures(source: Path | None) -> list[Image.Image]:
    if source is not None:
        return [read_image(item.path) for item in spread(find_inputs(source), COUNT)]
    objects, scenes = read_photographs(OBJECTS), read_photographs(SCENES)
    return [paste(objects, scenes, np.random.default_rng(seed), seed % 2 == 1)[0] for seed in range(COUNT)]


if __name__ == "__main__":
    main(parser, run)
