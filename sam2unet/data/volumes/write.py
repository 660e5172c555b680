"""Writes volumes in the format, the orientation and the place of the volume that they were predicted from."""

import gzip
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from ...runtime.versions import import_extra
from .open import ArrayVolume, NiftiVolume, PageVolume, VolumeFile, name_case, open_volume
from .slices import Slice, Source


def choose_ending(source: Path, dicom_seg: bool = False) -> str:
    """Returns the ending of a volume that is written for `source`: that of the file, and for DICOM that of NIfTI.

    With `dicom_seg` it is that of DICOM for DICOM.
    """
    volume = open_volume(source)
    if isinstance(volume, NiftiVolume | ArrayVolume | PageVolume):
        return source.name[len(name_case(source)) :]
    if dicom_seg:
        return ".dcm"
    return ".npy" if volume.affine is None else ".nii.gz"


def name_map_file(source: Source) -> str:
    """Returns the name of the file that test.py writes for an image, or for the volume of a slice."""
    if not isinstance(source, Slice) or source.index is None:
        return f"{source.stem}.png"
    return f"{source.case}{choose_ending(source.volume)}"


def encode_volume(path: Path, values: ndarray, source: Path, names: Mapping[int, str] | None = None) -> bytes:
    """Encodes values (X, Y, Z) or (X, Y, Z, C), with axes as `open_volume(source)` has them, in the format of `path`.

    A NIfTI file gets the shape, the affine and the header of `source`. A DICOM file is a segmentation that refers to
    `source`; `names` has the names of its labels.
    """
    volume = open_volume(source)
    if path.name.lower().endswith(".dcm"):
        from ..dicom import encode_segmentation

        return encode_segmentation(path, source, values, names or {})
    if isinstance(volume, PageVolume):
        return encode_pages(values)
    if path.name.lower().endswith(".npy"):
        buffer = BytesIO()
        np.save(buffer, values)
        return buffer.getvalue()
    content = encode_nifti(values, volume)
    return gzip.compress(content, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else content


def encode_nifti(values: ndarray, volume: VolumeFile) -> bytes:
    nibabel = import_extra(
        "nibabel", 'a NIfTI file needs nibabel, which is not installed: pip install "sam2unet[medical]"'
    )
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
