"""Reads and writes DICOM (the extras `medical` and `dicom_seg`)."""

from .segmentation import align_segmentation, encode_segmentation, write_segmentation
from .volume import DicomVolume, is_dicom, open_dicom

__all__ = [
    "DicomVolume",
    "align_segmentation",
    "encode_segmentation",
    "is_dicom",
    "open_dicom",
    "write_segmentation",
]
