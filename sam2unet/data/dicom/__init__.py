"""Reads DICOM (the extra `medical`)."""

from .volume import DicomVolume, is_dicom, open_dicom

__all__ = ["DicomVolume", "is_dicom", "open_dicom"]
