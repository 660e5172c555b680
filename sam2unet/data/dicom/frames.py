"""Lists the frames of DICOM files with their geometry.

A frame is one plane of pixels in a file. Positions and steps are in mm in the axes of DICOM: left, posterior, superior.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray

from .files import DicomFile, check_dicom_image, explain_damage

if TYPE_CHECKING:
    from pydicom import Dataset

LARGEST = 1e9  # of a number in a header; also refuses numbers that are not finite
SMALLEST = 1e-6  # mm, of a length


class DicomFrame(NamedTuple):
    """A frame of a file, without its pixels."""

    file: DicomFile
    index: int  # type: ignore[assignment]  # in the file; hides `tuple.index`
    rescale: "Dataset | None"  # slope and intercept, or a table; None if they change nothing
    segment: int  # the number of the segment in a SEG object; 0 in all other files
    position: ndarray | None  # (3,), the centre of the first pixel; None if the file has no geometry
    steps: ndarray | None  # (2, 3), from a row to the next row, and from a column to the next column
    thickness: float | None  # of a slice
    gap: float | None  # the distance of two slices, as the header states it

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def header(self) -> "Dataset":
        return self.file.header

    def __str__(self) -> str:
        return self.path.name if self.index == 0 else f"frame {self.index + 1} of {self.path.name}"


def list_frames(file: DicomFile) -> list[DicomFrame]:
    """Returns the frames of a file in the order of the file. Raises UserError if they cannot be read."""
    with explain_damage(file.path):
        check_dicom_image(file)
        header = file.header
        count = int(header.get("NumberOfFrames") or 1)
        shared: Any = next(iter(header.get("SharedFunctionalGroupsSequence") or []), {})
        items = header.get("PerFrameFunctionalGroupsSequence") or [{}] * count
        if len(items) != count:
            raise ValueError(f"{count} frames, but functional groups for {len(items)} frames")
        return [make_frame(file, index, (item, shared)) for index, item in enumerate(items)]


def make_frame(file: DicomFile, index: int, groups: tuple) -> DicomFrame:
    """Collects the attributes of a frame. `groups` are the functional groups of the frame and of all frames."""
    header = file.header

    def find_group(name: str) -> "Dataset":
        """Returns a functional group. An old file has no groups; its header has the same attributes."""
        return next((group.get(name)[0] for group in groups if group.get(name)), header)

    measures = find_group("PixelMeasuresSequence")
    spacing = read_numbers(measures, "PixelSpacing", 2)  # of rows, then of columns
    position = read_numbers(find_group("PlanePositionSequence"), "ImagePositionPatient", 3)
    axes = read_numbers(find_group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    steps = None
    if spacing is None or position is None or axes is None or spacing.min() < SMALLEST:
        position = None
    else:
        along_row, along_column = axes.reshape(2, 3)
        if np.abs(axes.reshape(2, 3) @ axes.reshape(2, 3).T - np.eye(2)).max() > 1e-3:
            raise ValueError(f"ImageOrientationPatient is {axes.tolist()}, not two perpendicular unit vectors")
        steps = np.stack([along_column * spacing[0], along_row * spacing[1]])
    if not any(groups) and int(header.get("NumberOfFrames") or 1) > 1:
        position = None  # the header has the position of the first frame only
    segment = find_group("SegmentIdentificationSequence").get("ReferencedSegmentNumber") or 0
    if header.get("SegmentationType") in ("BINARY", "FRACTIONAL") and not segment:
        raise ValueError("a frame has no segment number")
    thickness, gap = (read_numbers(measures, name, 1) for name in ("SliceThickness", "SpacingBetweenSlices"))
    rescale = find_rescale(find_group("PixelValueTransformationSequence"))
    return DicomFrame(file, index, rescale, int(segment), position, steps, pick_length(thickness), pick_length(gap))


def pick_length(value: ndarray | None) -> float | None:
    """Returns the length in mm, or None if it is absent or 0, as many headers have it."""
    return value.item() if value is not None and value > SMALLEST else None


def read_numbers(values: "Dataset", name: str, count: int) -> ndarray | None:
    """Returns the `count` numbers of an attribute, or None if it is absent. Raises ValueError for other content."""
    if (value := values.get(name)) in (None, ""):
        return None
    numbers = np.atleast_1d(np.array(value, float))
    if numbers.shape != (count,) or not (np.abs(numbers) <= LARGEST).all():
        raise ValueError(f"{name} is {value}")
    return numbers


def find_rescale(values: "Dataset") -> "Dataset | None":
    if values.get("ModalityLUTSequence"):
        return values
    slope, intercept = (read_numbers(values, name, 1) for name in ("RescaleSlope", "RescaleIntercept"))
    return None if slope is None or intercept is None or (slope == 1 and intercept == 0) else values
