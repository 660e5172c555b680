"""Reads volumes: NIfTI files with nibabel (the extra `medical`), and arrays of NumPy."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from ..atomic import read_start
from ..errors import UserError
from ..runtime.versions import import_extra

VOLUMES = (".nii", ".nii.gz", ".npy")  # also in upper case
NUMBERS = "biuf"  # kinds of NumPy types: bool, integers, floats
LIMIT = 2**31  # voxels


class Volume(NamedTuple):
    """A volume, (depth, H, W). A NIfTI file is turned so that its axes run to the right, anterior and superior."""

    values: ndarray
    affine: ndarray | None = None  # (4, 4), from indices to positions in mm; None if the file has none

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """The distance of neighbouring voxels in mm, for each axis."""
        return None if self.affine is None else tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUMES)


def read_volume(path: Path) -> Volume:
    """Reads a volume. Scaled integers of a NIfTI file become the numbers that they stand for.

    Raises UserError if the file cannot be read, or does not have three axes or finite numbers.
    """
    read_start(path, 0)  # explains a missing file
    try:
        volume = read_array(path) if path.suffix.lower() == ".npy" else read_nifti(path)
    except UserError:
        raise
    except MemoryError as e:
        raise UserError(f"cannot read {path}: not enough memory") from e
    except Exception as e:  # the readers raise errors of many classes for damaged files
        raise UserError(f"cannot read {path}: not a volume or damaged; replace or remove it") from e
    if volume.values.dtype.kind not in NUMBERS:
        raise UserError(f"{path} holds {volume.values.dtype}, wanted whole numbers or floats")
    if volume.values.dtype.kind == "f" and not np.isfinite(volume.values).all():
        raise UserError(f"{path} holds values that are not finite (NaN or infinity); replace them")
    return volume


def read_nifti(path: Path) -> Volume:
    nibabel = import_extra("nibabel", f'{path} needs nibabel, which is not installed: pip install -e ".[medical]"')
    image = nibabel.load(path)
    check_shape(image.shape, path)
    image = nibabel.as_closest_canonical(image.slicer[(slice(None),) * 3 + (0,) * (len(image.shape) - 3)])
    return Volume(np.asanyarray(image.dataobj), np.asarray(image.affine, float))


def read_array(path: Path) -> Volume:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    check_shape(array.shape, path)
    return Volume(np.array(array.reshape(array.shape[:3])))


def check_shape(shape: tuple[int, ...], path: Path) -> None:
    """Raises UserError unless the shape has three axes; further axes may have the length 1."""
    text = "x".join(map(str, shape))
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        raise UserError(f"{path} has {len(shape)} axes ({text}); wanted a volume with three; split it")
    if not 0 < math.prod(shape) <= LIMIT:
        raise UserError(f"{path} has {text} voxels; wanted 1 to {LIMIT:,}")
