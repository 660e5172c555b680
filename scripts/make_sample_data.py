"""Make a small data set with exact masks from the photographs that ship inside scikit-image and scikit-learn.

A region of one photograph, cut by a smooth random silhouette, is pasted into another (salient), or moved within the
same one (camouflaged, every fourth pair). In salient pairs objects come from one half of the photographs and scenes
from the other, and train and test pairs are different cuts of the same ones: the set shows that everything works and
learns within minutes, not how well a model generalises.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
from PIL import Image

from sam2unet.cli import Parser, main
from sam2unet.errors import UserError, print_line
from sam2unet.files import claim_folder, make_folder, written_whole

OBJECTS = ("astronaut.png", "chelsea.png", "coffee.png", "flower.jpg", "ihc.png", "motorcycle_left.png")
SCENES = ("brick.png", "china.jpg", "grass.png", "gravel.png", "hubble_deep_field.jpg", "rocket.jpg")
COUNTS = {"train": 200, "test": 40}


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--save_path",
        type=Path,
        required=True,
        help="a new folder, gets train/ and test/, each with images/ and masks/",
    )
    p.add_argument("--seed", type=int, default=0)
    return p


def run(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise UserError(f"seed is {args.seed}; it must be 0 or above")
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


def read_photographs(names: tuple[str, ...]) -> list[Image.Image]:
    folders = Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"
    files = {name: folder / name for name in names for folder in folders if (folder / name).is_file()}
    if missing := [name for name in names if name not in files]:
        raise UserError(f"scikit-image or scikit-learn came without {', '.join(missing)}; install scikit-image 0.25")
    return [Image.open(files[name]).convert("RGB") for name in names]


def paste(
    objects: list[Image.Image], scenes: list[Image.Image], rng: np.random.Generator, camouflaged: bool
) -> tuple[Image.Image, Image.Image]:
    """An RGB picture with sides from 200 to 500 pixels, and its mask of 0 and 255."""
    width, height = (int(side) for side in rng.integers(200, 501, size=2))
    scale = rng.uniform(0.5, 0.8)  # share of a photograph's extent that is seen
    left, top = rng.uniform(0, 1, size=2)
    if camouflaged:  # what is moved comes from elsewhere in the photograph
        ground = source = pick(objects + scenes, rng)
        shifted = (left + 0.5) % 1, (top + rng.uniform(0.3, 0.7)) % 1
    else:
        ground, source = pick(scenes, rng), pick(objects, rng)
        shifted = tuple(rng.uniform(0, 1, size=2))
    mask = silhouette(rng, width, height)
    picture = view(ground, left, top, scale, width, height)
    picture.paste(view(source, *shifted, scale, width, height), mask=mask)
    return picture, mask


def pick(photographs: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    return photographs[rng.integers(len(photographs))]


def view(photograph: Image.Image, left: float, top: float, scale: float, width: int, height: int) -> Image.Image:
    """The largest window of the wanted shape times `scale`, placed by `left` and `top` in [0, 1]."""
    zoom = scale * min(photograph.width / width, photograph.height / height)
    x, y = left * (photograph.width - zoom * width), top * (photograph.height - zoom * height)
    box = (x, y, x + zoom * width, y + zoom * height)
    return photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)


def silhouette(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A closed smooth curve around a random centre, filled: a radius that varies with the angle by five harmonics."""
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.35, 0.65, size=2) * (width, height)
    radius = rng.uniform(0.25, 0.4) * min(width, height)
    stretch = rng.uniform(0.75, 1.35)
    dx, dy = (x - centre[0]) / stretch, (y - centre[1]) * stretch
    angle = np.arctan2(dy, dx)
    outline = np.ones_like(angle)
    for harmonic in range(2, 7):
        outline += rng.uniform(0, 0.5 / harmonic) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return Image.fromarray(np.where(np.hypot(dx, dy) < radius * outline, 255, 0).astype(np.uint8))


def save(image: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    image.save(content, "PNG" if path.suffix == ".png" else "JPEG", quality=95)
    with written_whole(path) as file:
        file.write(content.getvalue())


if __name__ == "__main__":
    main(parser, run)
