"""Scores one volume against one mask, in 3D and with the spacing of the files."""

from dataclasses import replace

import numpy as np
from numpy import ndarray

from ..classes import Classes
from ..data.images.masks import MaskCoding
from ..data.volumes.open import Volume, open_volume, read_volume
from ..data.volumes.slices import Source, choose_white, find_file, refuse_other_place
from ..errors import UserError
from ..recipe import ForegroundRule
from .pixels.medical_scores import SurfaceOptions


def read_volume_pair(prediction: Source | None, mask: Source) -> tuple[Volume | None, Volume]:
    """Returns the prediction, None if it is missing, and the mask.

    Raises UserError if the files cannot be read, or do not show the same place.
    """
    mask = find_file(mask)
    if prediction is None:
        return None, read_volume(mask)
    prediction = find_file(prediction)
    refuse_other_place(prediction, open_volume(prediction), mask, open_volume(mask, prediction))
    return read_volume(prediction), read_volume(mask, prediction)


def use_spacing(how: SurfaceOptions | None, spacing: tuple[float, ...] | None, path: Source) -> SurfaceOptions | None:
    """Returns the options with the spacing of the file. Raises UserError if the user gave another one."""
    if spacing is None or how is None:
        return how
    if how.spacing is not None:
        raise UserError(f"{path} has a spacing of its own; leave out --spacing")
    return replace(how, spacing=spacing)


def find_foreground(volume: Volume, rule: ForegroundRule, path: Source) -> ndarray:
    """Returns bool (depth, H, W). Without a rule, the values are 0 and 1, probabilities, or 0 and 255.

    A rule holds for whole numbers. Raises MaskCoding for other values.
    """
    values = volume.values
    whole = values.dtype.kind != "f" or (values == np.rint(values)).all()
    if rule is not None and whole:
        return values > rule if np.ndim(rule) == 0 else np.isin(values, rule)
    if white := choose_white(values):
        return values > white / 2
    distinct = np.unique(values)
    more = " and more" if len(distinct) > 6 else ""
    raise MaskCoding.of(path, f"values found: {', '.join(f'{value:g}' for value in distinct[:6])}{more}")


def find_indices(volume: Volume, classes: Classes, path: Source) -> ndarray:
    """Returns the index of the class of each voxel, uint8 (depth, H, W). Raises UnknownValues for other values."""
    if not classes.has_values:
        raise UserError(f"{path} has values, but the classes have only colours; give each class a value")
    codes = volume.values
    if codes.dtype.kind == "f":
        if (codes != np.rint(codes)).any():
            raise UserError(f"{path} has values that are not whole numbers, so they are no classes")
        codes = codes.astype(np.int64)
    return classes.to_indices(np.ascontiguousarray(codes), path)
