"""Converts every kind of image that the Python API accepts to an RGB photograph."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ...errors import UserError
from ...slice_view import DEFAULT_VIEW, SliceView
from ..archives.member import Member
from ..volumes.slices import Slice, Source, list_slices
from .reading import read_image, rotate_upright, to_8_bit

Picture = str | Path | Image.Image | np.ndarray | Tensor


def to_photo(image: Picture | Source, view: SliceView = DEFAULT_VIEW) -> Image.Image:
    """Returns an upright RGB photograph. Raises UserError if the file cannot be read, or the value is not an image.

    `view` is for volumes, and for pictures with more than 8 bits.
    """
    if isinstance(image, Slice | Member):
        return read_image(image)
    if isinstance(image, (str, Path)):
        sources = list_slices(Path(image), view)
        if len(sources) > 1:
            raise UserError(f"{image} is a volume with {len(sources)} slices; predict_many takes it, or test.py")
        return read_image(sources[0])
    if isinstance(image, Image.Image):
        return to_8_bit(rotate_upright(image)).convert("RGB")
    if not isinstance(image, np.ndarray | Tensor):
        kinds = "a path, a Pillow image, an array or a tensor"
        raise UserError(f"an image is {kinds}, not {type(image).__name__}; give one of these")
    return Image.fromarray(to_pixels(image)).convert("RGB")


def to_pixels(image: np.ndarray | Tensor) -> np.ndarray:
    """Converts an array (H, W) or (H, W, C), or a tensor (C, H, W), to uint8 (H, W) or (H, W, 3).

    Values are 8-bit, or floats in [0, 1]. Raises UserError if the array has another shape or other values.
    """
    check_array_shape(image)
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


def check_array_shape(image: np.ndarray | Tensor) -> None:
    """UserError if the shape is not that of an image. The message says how to convert common shapes."""
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
