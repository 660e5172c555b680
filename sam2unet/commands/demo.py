"""Open a page in the browser to try a checkpoint: drop images, look at their maps, compare two checkpoints.

With SAM-Med2D: drop an image, click on objects or draw boxes around them, download their masks.
"""

import argparse
from pathlib import Path

from ..cli import Parser, add_mask_values
from ..demo.files import Example, Limits
from ..recipe import make_foreground_rule
from ..weights.weight_files import add_weight_flags, read_weight_flags

EXAMPLES = (0, 6, 8, 14, 15, 21)  # numbers in the test part of the sample data; number 15 is camouflaged


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="checkpoint to show, or two checkpoints to compare; SAM-Med2D cannot be compared",
    )
    add_weight_flags(p)
    p.add_argument(
        "--size", type=int, help="input side; default: the side of the training if it is known, else the released side"
    )
    add_mask_values(p)
    p.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one, else cpu")
    page = p.add_argument_group("page")
    page.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of the page; default: 127.0.0.1, which only this computer can reach",
    )
    page.add_argument("--port", type=int, default=7860, help="port of the page; 0: any free port; default: 7860")
    page.add_argument(
        "--max_images", type=int, default=Limits.images, help="images in one drop, or frames of a clip; default: 20"
    )
    page.add_argument("--max_megapixels", type=float, default=Limits.megapixels, help="limit of an image; default: 40")
    page.add_argument("--max_mb", type=float, default=Limits.megabytes, help="limit of a file; default: 50")
    return p


def run(args: argparse.Namespace) -> None:
    from ..demo import serve

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
    """Writes example images with masks into a folder."""
    import numpy as np

    from ..data import sample_images

    objects, scenes = (sample_images.read_photographs(names) for names in (sample_images.OBJECTS, sample_images.SCENES))
    examples = []
    for number in EXAMPLES:
        camouflaged = number % 4 == 3
        picture, truth = sample_images.paste(objects, scenes, np.random.default_rng([0, 1, number]), camouflaged)
        name = f"{'camouflaged' if camouflaged else 'salient'}_{number:03d}"
        image, mask = folder / f"{name}.jpg", folder / f"{name}.png"
        sample_images.save(picture, image)
        sample_images.save(truth, mask)
        examples.append(Example(image, mask, name))
    return examples
