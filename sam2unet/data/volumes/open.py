"""Opens volumes: NIfTI files and DICOM (the extra `medical`), pages of TIFF files, and arrays of NumPy.

Axes: if the file has positions, the axes of all arrays here run to the right, anterior and superior (RAS); otherwise
they are those of the file, and the slices are along the first one. A plane is a volume at one index of an axis, so it
has the two other axes.
"""

import math
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ...atomic import read_start
from ...errors import UserError, warn_once
from ...limits import MAX_VOXELS
from ...runtime.versions import import_extra
from ..whole_volumes import VolumeFile, read_whole

VOLUMES = (".nii", ".nii.gz", ".npy", ".dcm")  # also in upper case; also TIFF files with pages, and DICOM folders
STACKS = (".tif", ".tiff")
NUMBERS = "biuf"  # kinds of NumPy types: bool, integers, floats
OPEN_FILES = 32  # of each process; only the headers are in memory


class Volume(NamedTuple):
    """The values of a volume with their place."""

    values: ndarray
    affine: ndarray | None = None

    @property
    def spacing(self) -> tuple[float, ...] | None:
        return measure_spacing(self.affine)


def measure_spacing(affine: ndarray | None) -> tuple[float, ...] | None:
    """Returns the distance of neighbouring voxels in mm, for each axis."""
    return None if affine is None else tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())


def is_volume(path: object) -> bool:
    """Returns whether a path is a volume. For a TIFF file the pages decide, for a folder its first file.

    For other files the name decides. A slice is not a volume.
    """
    if not isinstance(path, Path):
        return False
    name = path.name.lower()
    if name.endswith(STACKS):
        return os.path.isfile(path) and is_stack(path)
    if name.endswith(VOLUMES):
        return True
    if not os.path.isdir(path):
        return False
    from ..dicom import is_dicom

    try:
        return is_dicom(path)
    except (OSError, UserError):  # no permission; the function that lists or opens the folder reports it
        return False


def is_stack(path: Path) -> bool:
    """Returns whether a TIFF file has grey pages of one size. Files for zooming have pages of several sizes.

    If the pages have colours, only the first one is read, as a photograph. A warning says so, once for each folder.
    """
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            first = image.size
            image.seek(1)
            has_equal_pages, has_colours = image.size == first, image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "P")
    except Exception:  # the file has one page, or it is damaged, which its reader reports
        return False
    if has_equal_pages and has_colours:
        warn_once(f"{path.parent} has TIFF files with several colour pages; only the first page of each is read")
    return has_equal_pages and not has_colours


def name_case(path: Path) -> str:
    """Returns the name of a file without its ending, `a` of a.nii.gz, and the whole name of a folder."""
    if path.name.lower().endswith(".nii.gz"):
        return path.name[:-7]
    return path.name if os.path.isdir(path) else path.stem


def open_volume(path: Path, grid: Path | None = None) -> VolumeFile:
    """Opens a volume. The last few stay open.

    A DICOM segmentation is put into the voxels of the volume `grid`. Raises UserError if the file cannot be read, or
    does not have three axes.
    """
    # A process that was forked must not share the position in an open file with its parent.
    return open_once(path, grid, read_change(path), os.getpid())


def read_change(path: Path) -> tuple[int, int]:
    """Returns what changes if a file changes: its size and its time."""
    if not path.is_dir():
        read_start(path, 0)  # explains a missing file
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=OPEN_FILES)
def open_once(path: Path, grid: Path | None, change: tuple[int, int], process: int) -> VolumeFile:
    name = path.name.lower()
    try:
        if name.endswith(".npy"):
            return ArrayVolume(path)
        if name.endswith((".nii", ".nii.gz")):
            return NiftiVolume(path)
        if name.endswith(STACKS):
            return PageVolume(path)
        from ..dicom import align_segmentation, open_dicom

        volume = open_dicom(path)
        return align_segmentation(volume, open_volume(grid)) if grid and volume.modality == "SEG" else volume
    except UserError:
        raise
    except MemoryError as e:
        raise UserError(f"cannot read {path}: not enough memory") from e
    except Exception as e:  # the readers raise errors of many classes for damaged files
        raise UserError(f"cannot read {path}: not a volume or damaged; replace or remove it") from e


def read_volume(path: Path, grid: Path | None = None) -> Volume:
    """Reads a whole volume. Raises UserError as `open_volume` does, and if its values are no finite numbers."""
    volume = open_volume(path, grid)
    if volume.is_colour:
        raise UserError(f"{path} has colours; wanted one number for each voxel")
    return Volume(read_values(volume, path), volume.affine)


def read_values(volume: VolumeFile, path: Path) -> ndarray:
    try:
        return check_values(volume.read(), path)
    except UserError:
        raise
    except MemoryError as e:
        raise UserError(f"cannot read {path}: not enough memory") from e
    except Exception as e:
        raise UserError(f"cannot read {path}: damaged; replace or remove it") from e


def check_values(values: ndarray, path: Path) -> ndarray:
    """Returns the values. Raises UserError if they are not finite numbers."""
    if values.dtype.kind not in NUMBERS:
        raise UserError(f"{path} holds {values.dtype}, wanted whole numbers or floats")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{path} holds values that are not finite (NaN or infinity); replace them")
    return values


def check_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Returns the first three sides. Raises UserError unless the other ones are 1."""
    text = "x".join(map(str, shape))
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        advice = "split it" if len(shape) > 2 else "save it as an image, or give it a third axis"
        raise UserError(f"{path} has {len(shape)} axes ({text}); wanted a volume with three; {advice}")
    if not 0 < math.prod(shape) <= MAX_VOXELS:
        raise UserError(f"{path} has {text} voxels; wanted 1 to {MAX_VOXELS:,}")
    return shape[0], shape[1], shape[2]


class NiftiVolume(VolumeFile):
    is_colour, modality = False, ""

    def __init__(self, path: Path):
        advice = f'{path} needs nibabel, which is not installed: pip install "sam2unet[medical]"'
        nibabel = import_extra("nibabel", advice)
        self.path, self.image = path, nibabel.load(path)
        stored = check_shape(self.image.shape, path)
        # For each axis of the file: the axis here that it runs along, and -1 if it runs backwards.
        self.turns = nibabel.io_orientation(self.image.affine)
        if not np.isfinite(self.turns).all():
            raise UserError(f"{path} has no usable affine, so its axes have no directions; write it again")
        self.turns = self.turns.astype(int)
        self.axes = np.argsort(self.turns[:, 0])  # for each axis here: the axis of the file
        x, y, z = (stored[axis] for axis in self.axes)
        self.shape = x, y, z
        self.affine = self.image.affine @ nibabel.orientations.inv_ornt_aff(self.turns, stored)
        self.is_packed = path.name.lower().endswith(".gz")

    def read_plane(self, axis: int, index: int) -> ndarray:
        stored = self.axes[axis]
        if self.is_packed and stored != 2:  # in a packed file, only planes of the last axis lie together
            return np.moveaxis(read_whole(self), axis, 0)[index]
        key: list = [slice(None)] * 3 + [0] * (self.image.ndim - 3)
        key[stored] = index if self.turns[stored, 1] > 0 else self.shape[axis] - 1 - index
        plane = np.asanyarray(self.image.dataobj[tuple(key)])
        others = self.turns[np.arange(3) != stored]
        plane = plane[tuple(slice(None, None, direction) for direction in others[:, 1])]
        return plane if others[0, 0] < others[1, 0] else plane.T

    def read(self) -> ndarray:
        values = np.asanyarray(self.image.dataobj)
        values = values.reshape(values.shape[:3])
        return values.transpose(self.axes)[tuple(slice(None, None, self.turns[axis, 1]) for axis in self.axes)]

    def to_file_order(self, values: ndarray) -> ndarray:
        """Turns values (X, Y, Z) or (X, Y, Z, C) back, so that they lie as in the file."""
        turned = values[tuple(slice(None, None, self.turns[axis, 1]) for axis in self.axes)]
        return turned.transpose(*self.turns[:, 0], *range(3, values.ndim))


class ArrayVolume(VolumeFile):
    affine, is_colour, modality = None, False, ""

    def __init__(self, path: Path):
        self.path, self.array = path, np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape = check_shape(self.array.shape, path)
        self.array = self.array.reshape(self.shape)

    def read_plane(self, axis: int, index: int) -> ndarray:
        return np.array(np.moveaxis(self.array, axis, 0)[index])

    def read(self) -> ndarray:
        return np.array(self.array)


class PageVolume(VolumeFile):
    """The pages of a TIFF file."""

    affine, is_colour, modality = None, False, ""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        image = Image.open(path, formats=("TIFF",))
        assert isinstance(image, TiffImageFile)
        self.image = image
        self.shape = check_shape((self.image.n_frames, *self.read_page(0).shape), path)

    def read_page(self, index: int) -> ndarray:
        with self.lock:
            self.image.seek(index)
            page = np.asarray(self.image)
        if index and page.shape != self.shape[1:]:
            raise UserError(f"{self.path} has pages of different sizes; wanted one size, or a single page")
        return page

    def read_plane(self, axis: int, index: int) -> ndarray:
        return self.read_page(index) if axis == 0 else np.moveaxis(read_whole(self), axis, 0)[index]

    def read(self) -> ndarray:
        return np.stack([self.read_page(index) for index in range(self.shape[0])])
