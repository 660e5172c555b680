"""The Python interface for models that predict one map per image: `predict` and `predict_many`."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..data.images.photos import Picture, to_photo
from ..data.volumes.slices import Source
from ..errors import UserError
from ..families.settings import get_settings
from ..families.table import find_family_of
from ..runtime.device import evaluation_copy
from ..runtime.parallel import prefetch
from .files.find_inputs import find_inputs
from .prediction.predictor import Photo, Predictor
from .prediction.probability import pick_classes, stretch_range


def predict(
    model: nn.Module, image: Picture, size: int | None = None, minmax: bool = True, probabilities: bool = False
) -> np.ndarray:
    """Predicts the map of one image: float32 (height, width) in [0, 1], in the size of the image. 1 is foreground.

    With classes, the map is uint8 (height, width), the index of the most probable class in `model.recipe.classes`.

    Raises UserError if the file cannot be read, the array is not an image, the model cannot take this size, the model's
    output contains NaN or Inf, or `minmax` is False for a model with classes.

    Args:
        model: in training or evaluation mode. The function changes neither the mode nor the weights, so that several
            threads can share a model.
        image: a file; a Pillow image, which is rotated as its EXIF orientation says; an array (H, W) or (H, W, 3), or a
            tensor (1, H, W) or (3, H, W), RGB, with 8 bits or floats in [0, 1].
        size: side of the model's square input. None: the side that the model was trained at, `model.recipe.size`.
        minmax: stretch the map to the full range, as the released test script does. False: return probabilities.
        probabilities: return probabilities, float32. With classes their shape is (C, height, width).
    """
    ((_, map_),) = predict_many(model, [image], size, batch_size=1, minmax=minmax, probabilities=probabilities)
    return map_


def predict_many(
    model: nn.Module,
    images: str | Path | Iterable[Picture],
    size: int | None = None,
    batch_size: int = 8,
    amp: bool = False,
    minmax: bool = True,
    probabilities: bool = False,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, map) for each image, in order. The maps are those of `predict`. A few images are read ahead.

    Raises UserError as `predict` does, and if there is no image.

    Args:
        images: a folder, a file, a text file with a path per line, or a pattern, as `test.py --test_image_path` takes
            them; or an iterable of images that `predict` takes. The name is the stem of the file, or the index.
        batch_size: images that the model takes at a time.
        amp: compute in bf16.
    """
    find_family_of(model)  # UserError for an object that is no model
    predictor = Predictor.from_model(evaluation_copy(model), size, amp="bf16" if amp else "off")
    if predictor.classes and not (minmax or probabilities):
        raise UserError(
            "minmax=False is for foreground and background; for a model with classes, give probabilities=True"
        )
    view = get_settings(model).slice_view
    named: Iterable[tuple[str, Picture | Source]]
    if isinstance(images, (str, Path)):
        named = ((item.name, item.path) for item in find_inputs(Path(images), view=view))
    elif not isinstance(images, Iterable):
        raise UserError(f"images are a path or an iterable of images, not {type(images).__name__}; give [image]")
    else:
        named = (
            (Path(image).stem if isinstance(image, (str, Path)) else str(i), image) for i, image in enumerate(images)
        )

    def read(item: tuple[str, Picture | Source]) -> Photo:
        name, image = item
        return predictor.prepare(to_photo(image, view), name=f"image {name}", source=name)

    with ThreadPoolExecutor(2) as pool:
        photos = prefetch(pool, read, named, 2 * batch_size)
        for photo, probability in predictor.predict(photos, batch_size):
            yield photo.source, to_array(probability, minmax and not probabilities)


def to_array(probability: Tensor, as_map: bool) -> np.ndarray:
    """Returns probabilities on the CPU; with `as_map` a stretched map, or the indices of the classes."""
    if as_map and probability.ndim == 3:
        return pick_classes(probability)
    return (stretch_range(probability) if as_map else probability).cpu().numpy()
