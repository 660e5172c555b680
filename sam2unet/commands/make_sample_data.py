"""Makes a small data set with exact masks from the photographs in scikit-image and scikit-learn.

A smooth random shape cuts a region out of a photograph. The region is pasted into another photograph (salient), or
moved within the same photograph (camouflaged, every fourth pair). In salient pairs, objects come from one half of the
photographs and scenes from the other half. Training and test pairs are different cuts of the same photographs. So the
set shows in minutes that training works, but not how well a model generalises.
"""

import argparse
from pathlib import Path

from ..atomic import claim_folder, make_folder
from ..cli import Parser
from ..errors import UserError, print_line


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--save_path",
        type=Path,
        required=True,
        help="a new folder for train/ and test/, each with images/ and masks/",
    )
    p.add_argument("--seed", type=int, default=0, help="other seeds give other cuts of the photographs; default: 0")
    return p


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from ..data.sample_images import COUNTS, OBJECTS, SCENES, paste, read_photographs, save

    if args.seed < 0:
        raise UserError(f"seed is {args.seed}; it must be 0 or more")
    claim_folder(args.save_path, f"sample data, seed {args.seed}")
    objects, scenes = read_photographs(OBJECTS), read_photographs(SCENES)
    for number, (split, count) in enumerate(COUNTS.items()):
        for kind in ("images", "masks"):
            make_folder(args.save_path / split / kind)
        for index in range(count):
            rng = np.random.default_rng([args.seed, number, index])
            camouflaged = index % 4 == 3
            image, mask = paste(objects, scenes, rng, camouflaged)
            name = f"{'camouflaged' if camouflaged else 'salient'}_{index:03d}"
            save(image, args.save_path / split / "images" / f"{name}.jpg")
            save(mask, args.save_path / split / "masks" / f"{name}.png")
        print_line(f"{count} pairs in {args.save_path / split}")
