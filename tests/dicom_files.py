"""Writes series of DICOM files from the real CT slice that pydicom ships."""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from sam2unet.data.dicom import encode_segmentation

SHIPPED = Path(pydicom.__file__).parent / "data/test_files"
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.93629336, 0.31699459, -0.15111814, -0.28962948, 0.93629336, 0.19866933)
AXES = {
    "axial": AXIAL,
    "turned": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": tuple(np.linalg.qr(np.reshape(OBLIQUE, (2, 3)).T)[0].T.ravel()),
}
TO_RAS = np.diag([-1, -1, 1, 1])  # DICOM and highdicom count to the left and posterior


def read_slice() -> pydicom.Dataset:
    """A CT of a head, 128x128, with the intercept -1024."""
    return pydicom.dcmread(SHIPPED / "CT_small.dcm")


@cache
def read_stored() -> np.ndarray:
    return read_slice().pixel_array


def write_series(
    folder: Path,
    axes: tuple[float, ...] = AXIAL,
    count: int = 5,
    spacing: tuple[float, float] = (0.5, 0.8),
    gap: float = 2.5,
    shape: tuple[int, int] = (24, 20),
    change: Callable[[pydicom.Dataset, int], None] = lambda slice_, index: None,
) -> Path:
    """Writes slices that are cut out of the CT, under names in random order. `change` edits each slice."""
    folder.mkdir(parents=True)
    directions = np.array(axes, float).reshape(2, 3)
    normal = np.cross(*directions)
    names, series = random.Random(0).sample(range(1000), count), generate_uid()
    for index in range(count):
        slice_ = read_slice()
        slice_.SeriesInstanceUID, slice_.SOPInstanceUID = series, generate_uid()
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.ImageOrientationPatient = [round(value, 8) for value in directions.ravel().tolist()]
        slice_.ImagePositionPatient = [round(value, 6) for value in ((-10, 20, 30) + index * gap * normal).tolist()]
        slice_.PixelSpacing, slice_.InstanceNumber = list(spacing), index + 1
        slice_.Rows, slice_.Columns = shape
        pixels = read_stored()[10 + 5 * index :, 7 * index :][: shape[0], : shape[1]]
        slice_.PixelData = np.ascontiguousarray(pixels).tobytes()
        change(slice_, index)
        slice_.save_as(folder / f"IM{names[index]:04d}.dcm")
    return folder


def write_enhanced(path: Path, folder: Path) -> None:
    """Writes a series as one multi-frame file. Its frames are in the order of the file names."""
    import highdicom

    sources = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    for number, source in enumerate(sources, 1):
        source.InstanceNumber = number
    made = (highdicom.UID(), 1, highdicom.UID(), 1)
    highdicom.legacy.LegacyConvertedEnhancedCTImage(sources, *made).save_as(path)


def write_segmentation(path: Path, *content: object) -> None:
    """Writes what `encode_segmentation` returns for the series, the labels and their names."""
    path.write_bytes(encode_segmentation(path, *content))


def save_big_endian(path: Path) -> None:
    """Writes a file again in the transfer syntax Explicit VR Big Endian."""
    image = pydicom.dcmread(path)
    image.PixelData = image.pixel_array.byteswap().tobytes()
    image["PixelData"].VR, image.file_meta.TransferSyntaxUID = "OW", pydicom.uid.ExplicitVRBigEndian
    list(image.iterall())  # decodes the values
    pydicom.dcmwrite(path, image)


def move(image, distance, sideways=0):
    image.ImagePositionPatient = [-10 + sideways, 20, 30 + 2.5 * distance]


def check_planes(volume, values):
    first = getattr(volume, "stacked_axis", 2)  # before another axis makes it keep the volume
    for axis in (first, *{0, 1, 2} - {first}):
        for index in (0, values.shape[axis] - 1):
            np.testing.assert_array_equal(volume.read_plane(axis, index), values.take(index, axis))
