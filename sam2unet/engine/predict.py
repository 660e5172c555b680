"""Prediction maps, as released: logits to the wanted size, sigmoid, stretched per image to the full grey range."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from ..config import Recipe
from ..data.check import warn_of_turned
from ..data.pairs import list_images, match
from ..data.reading import opened, read_image, upright, upright_size
from ..data.transforms import grey_levels, image_tensor
from ..errors import UserError
from ..families import check_size, family_of, load_model
from ..files import make_folder, written_whole
from .processes import Processes
from .runtime import pick_device


def predict(
    model: nn.Module, image: str | Path | Image.Image, size: int = Recipe.size, minmax: bool = True
) -> np.ndarray:
    """A float32 map (height, width) in [0, 1] of the image's own size; 1 is foreground.

    Args:
        image: a file or a Pillow image, turned upright as its EXIF orientation says.
        size: side that the model was trained at.
        minmax: stretch to the full range, as released; without it, probabilities.

    Raises:
        UserError: an unreadable file, or a size that the model cannot take.
    """
    photo = upright(image).convert("RGB") if isinstance(image, Image.Image) else read_image(Path(image))
    check_size(family_of(model), size)
    return probability_map(model, photo, size, (photo.height, photo.width), minmax)


@torch.inference_mode()
def probability_map(
    model: nn.Module, photo: Image.Image, size: int, map_size: tuple[int, int], minmax: bool
) -> np.ndarray:
    """`predict` for an upright RGB photograph and any `map_size` (height, width)."""
    device = next(model.parameters()).device
    batch = image_tensor(photo, size)[None].to(device)
    with evaluating(model):
        out = family_of(model).predict(model, batch, map_size)[0, 0].cpu().numpy()
    return stretch(out) if minmax else out


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, all of the model is in evaluation mode; after it, each module is in the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def stretch(probability: np.ndarray) -> np.ndarray:
    low, high = probability.min(), probability.max()
    return (probability - low) / (high - low + 1e-8)


def run(
    checkpoint: Path,
    image_folder: Path,
    save_path: Path,
    gt_folder: Path | None = None,
    size: int | None = None,
    minmax: bool = True,
    threshold: float | None = None,
    device: str | None = None,
    hiera_path: Path | None = None,
) -> None:
    """A PNG per image, named after its stem, of its mask's size where `gt_folder` is given and else of its own.

    Under torchrun each process takes its share of the images.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}; it must be from 0 to 1")
    size = trained_size(checkpoint) if size is None else size
    processes = Processes.of_environment()
    target = pick_device(device, processes.local_rank)
    refuse_overwriting(save_path, image_folder, gt_folder)
    if gt_folder is None:
        jobs = {path: None for path in list_images(image_folder).values()}
    else:
        jobs = {pair.image: pair.mask for pair in match(image_folder, gt_folder)}
    model = load_model(checkpoint, target, hiera_path)
    check_size(family_of(model), size)
    jobs = dict(list(jobs.items())[processes.rank :: processes.world])
    sizes = {image: map_size(image if mask is None else mask) for image, mask in jobs.items()}
    make_folder(save_path)

    share = f"process {processes.rank + 1} of {processes.world}: " if processes.world > 1 else ""
    print(f"{share}{len(jobs)} images at {size}x{size} on {target}")
    start, turned = time.perf_counter(), []
    for path, wanted in tqdm(sizes.items(), unit="img", disable=None if processes.first else True):
        photo = read_image(path)
        if not same_way_up(path, photo):
            turned.append(path.name)
        out = probability_map(model, photo, size, wanted, minmax)
        write_map(out if threshold is None else (out > threshold).astype(np.float32), save_path / f"{path.stem}.png")
    if turned:
        warn_of_turned(turned)
    seconds = time.perf_counter() - start
    print(f"{share}{len(jobs)} maps in {save_path}, {seconds:.1f} s, {len(jobs) / seconds:.2f} images/s")


def trained_size(checkpoint: Path) -> int:
    """What `recipe.yaml` beside a checkpoint of ours says; else the released default."""
    recipe = checkpoint.parent / "recipe.yaml"
    return Recipe.read(recipe).size if recipe.is_file() else Recipe.size


def refuse_overwriting(save_path: Path, *inputs: Path | None) -> None:
    if any(folder is not None and save_path.resolve() == folder.resolve() for folder in inputs):
        raise UserError(f"--save_path {save_path} is a folder of inputs, which maps would overwrite; give another")


def map_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright file, without decoding it."""
    with opened(path) as image:
        return upright_size(image)[::-1]


def same_way_up(path: Path, photo: Image.Image) -> bool:
    with opened(path) as image:
        return image.size == photo.size


def write_map(probability: np.ndarray, path: Path) -> None:
    with written_whole(path) as file:
        file.write(iio.imwrite("<bytes>", grey_levels(probability), extension=".png"))
