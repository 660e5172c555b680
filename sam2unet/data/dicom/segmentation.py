"""SEG objects: puts the labels of a SEG object into the grid of its image, and writes labels as a SEG object."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from ...errors import UserError
from ...limits import shorten
from ...runtime.versions import import_extra, version
from ..whole_volumes import VolumeFile
from .stack import format_numbers
from .volume import DicomVolume, open_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

ALIGNED = 0.05  # voxels; the accuracy with which the grids of a SEG object and of its image must agree
# Attributes that a SEG object copies from its image. Anonymised images may lack them; they may be empty.
PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
STUDY = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")


class AlignedSegmentation(VolumeFile):
    """The labels of a SEG object in the grid of its image. A SEG object may omit empty slices: they are 0.

    `ranges` are the indices in the image, along each axis, of the planes of the SEG object.
    """

    is_colour, modality = False, "SEG"

    def __init__(self, segmentation: DicomVolume, image: VolumeFile, ranges: Sequence[range]):
        self.path, self.segmentation, self.ranges = segmentation.path, segmentation, ranges
        self.shape, self.affine = image.shape, image.affine

    def read_plane(self, axis: int, index: int) -> ndarray:
        rest = [a for a in range(3) if a != axis]
        plane = np.zeros([self.shape[a] for a in rest], self.segmentation.dtype)
        if index in self.ranges[axis]:
            values = self.segmentation.read_plane(axis, self.ranges[axis].index(index))
            plane[np.ix_(*(self.ranges[a] for a in rest))] = values
        return plane

    def read(self) -> ndarray:
        values = np.zeros(self.shape, self.segmentation.dtype)
        values[np.ix_(*self.ranges)] = self.segmentation.read()
        return values


def align_segmentation(segmentation: DicomVolume, image: VolumeFile) -> AlignedSegmentation:
    """Puts a SEG object into the grid of its image, a volume with `path`, `shape` and `affine` in RAS order.

    The grids must have the same axes and spacing. The positions must agree within `ALIGNED`, because each file may
    deviate by 1 % from even slice distances. If the SEG object does not state the distance of its slices, it may be a
    multiple of that of the image. Raises UserError if not, or if the SEG object is larger than the image.
    """
    if image.affine is None:
        raise UserError(f"{image.path} has no position in mm, so {segmentation.path} cannot be placed in it")
    to_image = np.linalg.inv(image.affine) @ segmentation.affine  # from indices to indices
    start, strides = np.rint(to_image[:3, 3]).astype(int), np.ones(3, int)
    stacked = segmentation.stacked_axis
    if segmentation.planes[0][0].gap is None:
        strides[stacked] = max(1, np.rint(to_image[stacked, stacked]))
    last = np.array(segmentation.shape) - 1
    for corner in np.ndindex(2, 2, 2):
        index = corner * last
        if np.abs((to_image @ [*index, 1])[:3] - start - index * strides).max() > ALIGNED:
            raise UserError(
                f"{segmentation.path} has another grid than {image.path}: {describe_grid(segmentation)} instead of "
                f"{describe_grid(image)}; resample one of them, or give the image that was segmented"
            )
    stop = start + last * strides + 1
    if (start < 0).any() or (stop > image.shape).any():
        raise UserError(f"{segmentation.path} reaches beyond {image.path}; give the image that was segmented")
    return AlignedSegmentation(segmentation, image, [*map(range, start.tolist(), stop.tolist(), strides.tolist())])


def describe_grid(volume: VolumeFile) -> str:
    assert volume.affine is not None
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    corner = volume.affine[:3, 3]
    return f"{'x'.join(map(str, volume.shape))} voxels of {format_numbers(spacing)} mm from ({format_numbers(corner)})"


def encode_segmentation(path: Path, source: Path, labels: ndarray, names: Mapping[int, str]) -> bytes:
    """Encodes labels as a DICOM SEG object (BINARY, one segment for each label) that refers to the images in `source`.

    Args:
        path: for messages.
        labels: (x, y, z), whole numbers from 0 (background), in the order of `open_dicom(source)`.
        names: the name of each label. The segments are 1, 2, ... up to the largest label, also if one is absent.

    Needs highdicom (the extra `dicom_seg`). Raises UserError if `source` has no positions, or is not one series of
    images.
    """
    advice = f'{path} needs highdicom, which is not installed: pip install "sam2unet[dicom_seg]"'
    highdicom = import_extra("highdicom", advice)
    warnings.filterwarnings("ignore", module="highdicom")  # some print the name of the patient
    volume = open_dicom(source)
    if volume.affine is None or volume.modality == "SEG":
        raise UserError(f"{source} holds no images with positions, so no SEG object can refer to it; write NIfTI")
    assert labels.shape == volume.shape, (labels.shape, volume.shape)
    count = max(1, int(labels.max()), *names)
    pixels = volume.restore_frames(labels).astype(np.uint8 if count < 256 else np.uint16)
    release = version("sam2unet") or "unknown"
    segments = describe_segments([names.get(number) or f"label {number}" for number in range(1, count + 1)], release)
    try:
        images, order = read_sources(volume)
        segmentation = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=pixels[order],
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="sam2unet",
            manufacturer_model_name="sam2unet",
            software_versions=release,
            device_serial_number="0",
            specific_character_set="ISO_IR 192",  # UTF-8
            omit_empty_frames=bool(labels.any()),
        )
    except UserError:
        raise
    except Exception as e:  # highdicom raises errors of many classes for attributes that are missing or not valid
        raise UserError(f"cannot write a SEG object for {source}: {shorten(' '.join(str(e).split()), 200)}") from e
    segmentation.save_as(buffer := BytesIO())
    return buffer.getvalue()


def read_sources(volume: DicomVolume) -> "tuple[Sequence[Dataset], ndarray]":
    """Returns the headers of the images, and for each frame in their order the number of its plane.

    The distance of the slices in the headers comes from their positions, because headers often lack it.
    """
    import pydicom

    frames = [plane[0] for plane in volume.planes]
    paths = list(dict.fromkeys(frame.path for frame in frames))
    if 1 < len(paths) < len(frames):
        raise UserError(f"{volume.path} holds several multi-frame files; a SEG object refers to one; write NIfTI")
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert volume.affine is not None
    steps = volume.affine[:3, :3]
    area = np.delete(np.linalg.norm(steps, axis=0), volume.stacked_axis).prod()
    gap = abs(np.linalg.det(steps)) / area  # along the normal, also if the gantry of a CT is tilted
    for image in images:
        for name in (*PATIENT, *STUDY):
            if name not in image:
                setattr(image, name, None)
        measures = share_geometry(image) if "SharedFunctionalGroupsSequence" in image else image
        measures.SpacingBetweenSlices = pydicom.valuerep.DS(gap, auto_format=True)
        if not measures.get("SliceThickness"):
            measures.SliceThickness = measures.SpacingBetweenSlices
    return images, np.argsort([frame.index for frame in frames], kind="stable")


def share_geometry(image: "Dataset") -> "Dataset":
    """Moves the geometry of a multi-frame file to the groups of all frames, where highdicom needs it."""
    shared, first = image.SharedFunctionalGroupsSequence[0], image.PerFrameFunctionalGroupsSequence[0]
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if name not in shared:
            setattr(shared, name, first[name].value)
    return shared.PixelMeasuresSequence[0]


def describe_segments(names: list[str], release: str) -> list:
    """Describes the segments 1, 2, ... as tissue, because the codes of the anatomy are not known."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence("sam2unet", codes.DCM.ArtificialIntelligence, release)
    tissue = codes.SCT.Tissue
    return [
        highdicom.seg.SegmentDescription(number, name.replace("\\", "/")[:64], tissue, tissue, "AUTOMATIC", algorithm)
        for number, name in enumerate(names, 1)
    ]
