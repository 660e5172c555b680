"""Prediction from Python: one image, or as many as there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..data.reading import Picture, to_photo
from ..errors import UserError
from ..families.table import find_family_of
from ..runtime.device import evaluation_copy
from ..runtime.parallel import batched, prefetch
from .inputs import find_inputs
from .predictor import Predictor, stretch_range


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
    find_family_of(model)  # UserError for what has no modules to copy
    predictor = Predictor.of(evaluation_copy(model), size, amp="bf16" if amp else "off")
    if isinstance(images, (str, Path)):
        named = [(item.name, item.path) for item in find_inputs(Path(images))]
    elif not isinstance(images, Iterable):
        raise UserError(f"images are a path or an iterable of images, not {type(images).__name__}; give [image]")
    else:
        named = ((name_image(image, place), image) for place, image in enumerate(images))

    def read(item: tuple[str, Picture]) -> tuple[str, list[Tensor], tuple[int, int]]:
        photo = to_photo(item[1])
        return item[0], predictor.small(photo), (photo.height, photo.width)

    with ThreadPoolExecutor(2) as pool:
        for batch in batched(prefetch(pool, read, named, 2 * batch_size), batch_size):
            names, smalls, sizes = zip(*batch, strict=True)
            maps = predictor.maps(smalls, sizes, names=[f"image {name}" for name in names])
            for name, found in zip(names, maps, strict=True):
                yield name, (stretch_range(found) if minmax else found).cpu().numpy()


def name_image(image: Picture, place: int) -> str:
    return Path(image).stem if isinstance(image, (str, Path)) else str(place)
