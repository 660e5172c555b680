"""Writes volumes in the format, the orientation and the place of the volume that they were predicted from."""

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from ..atomic import make_folder, write_atomic
from ..runtime.versions import import_extra
from .volumes import ArrayVolume, NiftiVolume, PageVolume, VolumeFile, name_case, open_volume


def choose_ending(source: Path) -> str:
    """Returns the ending of a volume that is written for `source`: that of the file, and for DICOM that of NIfTI."""
    volume = open_volume(source)
    if isinstance(volume, NiftiVolume | ArrayVolume | PageVolume):
        return source.name[len(name_case(source)) :]
    return ".npy" if volume.affine is None else ".nii.gz"


def write_volume(path: Path, values: ndarray, source: Path) -> None:
    """Writes values (X, Y, Z) or (X, Y, Z, C), with axes as `open_volume(source)` has them.

    A NIfTI file gets the shape, the affine and the header of `source`. The file is complete or absent.
    """
    volume = open_volume(source)
    if isinstance(volume, PageVolume):
        content = encode_pages(values)
    elif path.name.lower().endswith(".npy"):
        content = BytesIO()
        np.save(content, values)
        content = content.getvalue()
    else:
        content = encode_nifti(values, volume)
        content = gzip.compress(content, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else content
    make_folder(path.parent)
    with write_atomic(path) as file:
        file.write(content)


def encode_nifti(values: ndarray, volume: VolumeFile) -> bytes:
    nibabel = import_extra("nibabel", 'a NIfTI file needs nibabel, which is not installed: pip install -e ".[medical]"')
    if not isinstance(volume, NiftiVolume):  # DICOM
        image = nibabel.Nifti1Image(values, volume.affine)
        image.header.set_xyzt_units("mm")
        return image.to_bytes()
    header = volume.image.header.copy()
    header.set_data_dtype(values.dtype)
    header["cal_min"] = header["cal_max"] = 0  # the range of grey values in which viewers show the scan
    array = volume.to_file_order(values)
    shape = (*volume.image.shape, *array.shape[3:]) if array.ndim == 3 else array.shape
    return volume.image.__class__(array.reshape(shape), volume.image.affine, header).to_bytes()


def encode_pages(values: ndarray) -> bytes:
    """Encodes (pages, H, W), or (pages, H, W, C) with the pages of each channel in turn, as a TIFF file."""
    pages = values if values.ndim == 3 else np.moveaxis(values, -1, 1).reshape(-1, *values.shape[1:3])
    first, *others = (Image.fromarray(page) for page in pages)
    content = BytesIO()
    first.save(content, "TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    return content.getvalue()
