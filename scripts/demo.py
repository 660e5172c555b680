"""A page to try a checkpoint on: drop images, see their maps, compare two checkpoints, download the PNGs.

With a model for prompts: drop an image, click in objects or draw boxes around them, download their masks.
"""

import argparse
from pathlib import Path

import make_sample_data as sample
import numpy as np

from sam2unet.cli import Parser, add_mask_values, main
from sam2unet.demo import serve
from sam2unet.demo.files import Example, Limits
from sam2unet.recipe import make_foreground_rule
from sam2unet.weights.weight_files import add_weight_flags, read_weight_flags

EXAMPLES = (0, 6, 8, 14, 15, 21)  # places in the sample data's test part; the one before the last is camouflaged


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="<title>-<epoch>.pth; or two files of models for masks",
    )
    add_weight_flags(p)
    p.add_argument("--size", type=int, help="input side; default: that of the training, if known, or the released one")
    add_mask_values(p)
    p.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    page = p.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this computer alone")
    page.add_argument("--port", type=int, default=7860, help="0: any free one; default: 7860")
    page.add_argument(
        "--max_images", type=int, default=Limits.images, help="at once, frames of a clip too; default: 20"
    )
    page.add_argument("--max_megapixels", type=float, default=Limits.megapixels, help="of an image; default: 40")
    page.add_argument("--max_mb", type=float, default=Limits.megabytes, help="of a file; default: 50")
    return p


def run(args: argparse.Namespace) -> None:
    serve.run(
        args.checkpoint,
        make_examples,
        weight_paths=read_weight_flags(args),
        size=args.size,
        device=args.device,
        mask_threshold=make_foreground_rule(args.mask_threshold, args.foreground),
        limits=Limits(args.max_images, args.max_megapixels, args.max_mb),
        host=args.host,
        port=args.port,
    )


def make_examples(folder: Path) -> list[Example]:
    objects, scenes = (sample.read_photographs(names) for names in (sample.OBJECTS, sample.SCENES))
    examples = []
    for number in EXAMPLES:
        camouflaged = number % 4 == 3
        picture, truth = sample.paste(objects, scenes, np.random.default_rng([0, 1, number]), camouflaged)
        name = f"{'camouflaged' if camouflaged else 'salient'}_{number:03d}"
        image, mask = folder / f"{name}.jpg", folder / f"{name}.png"
        sample.save(picture, image)
        sample.save(truth, mask)
        examples.append(Example(image, mask, name))
    return examples


if __name__ == "__main__":
    main(parser, run)
