"""Reads and writes DICOM (the extras `medical` and `dicom_seg`)."""

from .segmentation import align_segmentation, encode_segmentation
from .volume import is_dicom, open_dicom

__all__ = ["align_segmentation", "encode_segmentation", "is_dicom", "open_dicom"]
