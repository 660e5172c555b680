"""Makes sample images with exact masks from the photographs in scikit-image and scikit-learn."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import write_atomic
from ..errors import UserError

OBJECTS = ("astronaut.png", "chelsea.png", "coffee.png", "flower.jpg", "ihc.png", "motorcycle_left.png")
SCENES = ("brick.png", "china.jpg", "grass.png", "gravel.png", "hubble_deep_field.jpg", "rocket.jpg")
COUNTS = {"train": 200, "test": 40}


def read_photographs(names: tuple[str, ...]) -> list[Image.Image]:
    packages = {"skimage": "data", "sklearn": "datasets/images"}  # are not imported, because that takes seconds
    specs = {name: find_spec(name) for name in packages}
    folders = [Path(spec.origin).parent / packages[name] for name, spec in specs.items() if spec and spec.origin]
    files = {name: folder / name for name in names for folder in folders if (folder / name).is_file()}
    if missing := [name for name in names if name not in files]:
        raise UserError(f"scikit-image and scikit-learn do not have {', '.join(missing)}; install scikit-image 0.25")
    return [Image.open(files[name]).convert("RGB") for name in names]


def paste(
    objects: list[Image.Image], scenes: list[Image.Image], rng: np.random.Generator, camouflaged: bool
) -> tuple[Image.Image, Image.Image]:
    """Pastes a random region of one photograph into another place. Returns an RGB picture and its 0/255 mask."""
    width, height = (int(side) for side in rng.integers(200, 501, size=2))
    scale = rng.uniform(0.5, 0.8)  # visible share of a photograph
    left, top = rng.uniform(0, 1, size=2)
    if camouflaged:  # the region comes from another place in the same photograph
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
    """Returns a window of `width` x `height`: `scale` times the largest one, at `left` and `top` in [0, 1]."""
    zoom = scale * min(photograph.width / width, photograph.height / height)
    x, y = left * (photograph.width - zoom * width), top * (photograph.height - zoom * height)
    box = (x, y, x + zoom * width, y + zoom * height)
    return photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)


def silhouette(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draws a filled smooth curve around a random centre. Its radius varies with the angle by five harmonics."""
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
    with write_atomic(path) as file:
        file.write(content.getvalue())
