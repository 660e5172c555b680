"""Scores one volume against one mask, in 3D and with the spacing of the files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..classes import Classes
from ..data.reading import FOREGROUND, MaskCoding
from ..data.volumes import Volume, read_volume
from ..errors import UserError
from ..recipe import ForegroundRule
from .pixels.medical_scores import SurfaceOptions

SAME_PLACE = 1e-3  # largest difference of two affines, in mm
WHITE = 255


def read_volume_pair(prediction: Path | None, mask: Path) -> tuple[Volume, Volume]:
    """Returns the prediction and the mask. Without prediction, it is 0 everywhere.

    Raises UserError if the files cannot be read, or do not show the same place.
    """
    truth = read_volume(mask)
    if prediction is None:
        return Volume(np.zeros_like(truth.values), truth.affine), truth
    volume = read_volume(prediction)
    shapes = ["x".join(map(str, part.values.shape)) for part in (volume, truth)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{prediction} has {shapes[0]} voxels, its mask {shapes[1]}; resample the prediction")
    if (volume.affine is None) != (truth.affine is None):
        raise UserError(f"{prediction} and {mask} have different formats; only a NIfTI file knows its orientation")
    if truth.affine is not None and not np.allclose(volume.affine, truth.affine, rtol=0, atol=SAME_PLACE):
        raise UserError(f"{prediction} has another affine than {mask}; write it with the affine of the mask")
    return volume, truth


def use_spacing(how: SurfaceOptions, volume: Volume, path: Path) -> SurfaceOptions:
    """Returns the options with the spacing of the file. Raises UserError if the user gave another one."""
    if volume.spacing is None:
        return how
    if how.spacing is not None:
        raise UserError(f"{path} has a spacing of its own; leave out --spacing")
    return replace(how, spacing=volume.spacing)


def find_foreground(volume: Volume, rule: ForegroundRule, path: Path) -> ndarray:
    """Returns bool (depth, H, W). Without a rule, the values are 0 and 1, probabilities, or 0 and 255.

    A rule holds for whole numbers. Raises MaskCoding for other values.
    """
    values = volume.values
    whole = values.dtype.kind != "f" or (values == np.rint(values)).all()
    if rule is not None and whole:
        return values > rule if np.ndim(rule) == 0 else np.isin(values, rule)
    if 0 <= values.min() and values.max() <= 1:
        return values > 0.5
    if ((values == 0) | (values == WHITE)).all():
        return values > FOREGROUND
    distinct = np.unique(values)
    more = " and more" if len(distinct) > 6 else ""
    raise MaskCoding.of(path, f"values found: {', '.join(f'{value:g}' for value in distinct[:6])}{more}")


def find_indices(volume: Volume, classes: Classes, path: Path) -> ndarray:
    """Returns the index of the class of each voxel, uint8 (depth, H, W). Raises UnknownValues for other values."""
    if not classes.has_values:
        raise UserError(f"{path} has values, but the classes have only colours; give each class a value")
    codes = volume.values
    if codes.dtype.kind == "f":
        if (codes != np.rint(codes)).any():
            raise UserError(f"{path} has values that are not whole numbers, so they are no classes")
        codes = codes.astype(np.int64)
    return classes.to_indices(np.ascontiguousarray(codes), path)
