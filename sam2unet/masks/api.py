"""Prediction from Python: one image, or as many as there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data.inputs import find_inputs
from ..data.reading import read_image, to_8_bit, upright
from ..errors import UserError
from ..families import family_of
from .maps import Predictor, stretched
from .runtime import ahead

Picture = str | Path | Image.Image | np.ndarray | Tensor


def predict(model: nn.Module, image: Picture, size: int | None = None, minmax: bool = True) -> np.ndarray:
    """A float32 map (height, width) in [0, 1] of the image's own size; 1 is foreground.

    Args:
        model: in any mode; neither its modes nor its weights change, so several threads can use it.
        image: a file; a Pillow image, turned upright as its EXIF orientation says; an array (H, W), (H, W, 3) or a
            tensor (1, H, W), (3, H, W), RGB, of 8 bits or floats in [0, 1].
        size: side that the model was trained at; none: the released one, 352 for SAM2-UNet, 1024 for SAM2-UNeXT.
        minmax: stretch to the full range, as released; without it, probabilities.

    Raises:
        UserError: an unreadable file, an array of another kind, a size that the model cannot take, or a model that
            gives NaN or Inf.
    """
    ((_, found),) = predict_many(model, [image], size, batch_size=1, minmax=minmax)
    return found


def predict_many(
    model: nn.Module,
    images: str | Path | Iterable[Picture],
    size: int | None = None,
    batch_size: int = 8,
    amp: bool = False,
    minmax: bool = True,
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, map as of `predict`) for each image, in order; of an iterable, a few are read ahead.

    Args:
        images: a folder, a file, a list file or a pattern as `test.py --test_image_path` takes them; or any iterable of
            what `predict` takes. A name is the file's without ending, or the place in the iterable.
        amp: compute in bf16.
    """
    family_of(model)  # UserError for what has no modules to copy
    predictor = Predictor.of(evaluation_copy(model), size, amp="bf16" if amp else "off")
    if isinstance(images, (str, Path)):
        named = [(item.name, item.path) for item in find_inputs(Path(images))]
    elif not isinstance(images, Iterable):
        raise UserError(f"images are a path or an iterable of images, not {type(images).__name__}; give [image]")
    else:
        named = ((name_of(image, place), image) for place, image in enumerate(images))

    def read(item: tuple[str, Picture]) -> tuple[str, list[Tensor], tuple[int, int]]:
        photo = photo_of(item[1])
        return item[0], predictor.small(photo), (photo.height, photo.width)

    with ThreadPoolExecutor(2) as pool:
        for batch in batched(ahead(pool, read, named, 2 * batch_size), batch_size):
            names, smalls, sizes = zip(*batch, strict=True)
            maps = predictor.maps(smalls, sizes, names=[f"image {name}" for name in names])
            for name, found in zip(names, maps, strict=True):
                yield name, (stretched(found) if minmax else found).cpu().numpy()


def name_of(image: Picture, place: int) -> str:
    return Path(image).stem if isinstance(image, (str, Path)) else str(place)


def photo_of(image: Picture) -> Image.Image:
    """An upright RGB photograph."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return to_8_bit(upright(image)).convert("RGB")
    if not isinstance(image, np.ndarray | Tensor):
        kinds = "a path, a Pillow image, an array or a tensor"
        raise UserError(f"an image is {kinds}, not {type(image).__name__}; give one of these")
    return Image.fromarray(to_pixels(image)).convert("RGB")


def to_pixels(image: np.ndarray | Tensor) -> np.ndarray:
    """Returns uint8 (H, W) or (H, W, 3) of what `predict` takes; UserError for an array of another kind."""
    check_shape(image)
    if isinstance(image, Tensor):
        try:
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        except (TypeError, RuntimeError) as e:  # for example a sparse or a meta tensor
            raise UserError(f"a tensor of {image.dtype} cannot be read as an image; give 8 bits or floats") from e
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    if image.dtype != np.uint8:
        if not (np.issubdtype(image.dtype, np.floating) and 0 <= image.min() and image.max() <= 1):
            raise UserError(f"an array of {image.dtype} is an image only with floats in [0, 1]; else give 8 bits")
        image = np.rint(image * 255).astype(np.uint8)
    return np.ascontiguousarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)


def check_shape(image: np.ndarray | Tensor) -> None:
    """UserError if the shape is not that of an image; it says how to convert common ones."""
    shape = tuple(image.shape)
    is_tensor = isinstance(image, Tensor)
    channels, other = (shape[:1], shape[-1:]) if is_tensor else (shape[-1:], shape[:1])
    fits = len(shape) == 2 or len(shape) == 3 and channels in ((1,), (3,))
    if fits and 0 not in shape:
        return
    advice = "wanted (H, W), (H, W, 3) or a tensor (3, H, W)"
    if 0 in shape:
        advice = "it has no pixels; " + advice
    elif len(shape) == 4:
        advice = "give one image at a time, image[0], or all of them to predict_many"
    elif len(shape) == 3 and channels == (4,):
        advice = f"leave out the alpha channel: {'image[:3]' if is_tensor else 'image[..., :3]'}"
    elif len(shape) == 3 and other in ((1,), (3,), (4,)):
        move = "image.movedim(-1, 0)[:3]" if is_tensor else "np.moveaxis(image, 0, -1)[..., :3]"
        advice = f"the channels are on the wrong side: {move}"
    raise UserError(f"{'a tensor' if is_tensor else 'an array'} of shape {shape} is no image; {advice}")


def batched(items: Iterable, count: int) -> Iterator[tuple]:
    items = iter(items)
    while batch := tuple(itertools.islice(items, count)):
        yield batch


def evaluation_copy(model: nn.Module) -> nn.Module:
    """Returns a copy of `model` in evaluation mode. The copy has its own modules and shares the weights.

    The modes of `model` stay as they are, so that other threads can use or train it at the same time.
    """
    twin = model.__class__.__new__(model.__class__)
    modules = {name: None if child is None else evaluation_copy(child) for name, child in model._modules.items()}
    twin.__dict__.update(model.__dict__, _modules=modules, training=False)
    twin.__dict__.pop("_compiled_call_impl", None)  # compiled code calls the modules of `model`
    return twin


@torch.inference_mode()
def grey_map(predictor: Predictor, photo: Image.Image, size: tuple[int, int], name: object = None) -> np.ndarray:
    """uint8 (height, width): the pixels of the PNG that test.py writes. `name` is for an error about the photograph."""
    (found,) = predictor.maps([predictor.small(photo)], [size], names=[name])
    return grey_levels(stretched(found))


def grey_levels(probability: Tensor) -> np.ndarray:
    """Float map in [0, 1] -> 8 bits, truncated, as released."""
    return (probability * 255).to(torch.uint8).cpu().numpy()
