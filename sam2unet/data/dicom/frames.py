"""Reads the headers and the pixels of DICOM files with pydicom (the extra `medical`).

A frame is one plane of pixels in a file. Positions and steps are in mm in the axes of DICOM: left, posterior, superior.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from ...atomic import read_start
from ...errors import UserError
from ...limits import MAX_VOXELS, shorten
from ...runtime.versions import import_extra

if TYPE_CHECKING:
    from pydicom import Dataset

PALETTES = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
# Only these attributes of a header are read, because other attributes can be large.
ATTRIBUTES = (
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber"),
    *("Rows", "Columns", "NumberOfFrames", "TotalPixelMatrixColumns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "PixelPaddingValue", "PixelPresentation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("SegmentationType", "SegmentSequence", "MaximumFractionalValue"),
    *(f"{name}{part}" for name in PALETTES for part in ("Descriptor", "Data")),
    *(f"Segmented{name}Data" for name in PALETTES),
)
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom converts them to RGB
MEASURED = ("CT", "PT")  # the numbers are measured quantities, for example Hounsfield units
DEFLATED = "1.2.840.10008.1.2.1.99"


class DicomFrame(NamedTuple):
    """A frame of a file, without its pixels."""

    path: Path
    index: int  # in the file
    header: "Dataset"
    rescale: "Dataset | None"  # slope and intercept, or a table; None if they change nothing
    segment: int  # the number of the segment in a SEG object; 0 in all other files
    position: ndarray | None  # (3,), the centre of the first pixel; None if the file has no geometry
    steps: ndarray | None  # (2, 3), from a row to the next row, and from a column to the next column
    thickness: float | None  # of a slice
    gap: float | None  # the distance of two slices, as the header states it

    def __str__(self) -> str:
        return self.path.name if self.index == 0 else f"frame {self.index + 1} of {self.path.name}"


def import_pydicom(path: Path) -> ModuleType:
    """Imports pydicom. Its warnings about small errors in files are not printed."""
    warnings.filterwarnings("ignore", module="pydicom")
    return import_extra("pydicom", f'{path} needs pydicom, which is not installed: pip install -e ".[medical]"')


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raises UserError with one line for every error that a file causes."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as e:
        raise UserError(f"cannot read {path}: not enough memory") from e
    except Exception as e:  # pydicom raises errors of many classes for damaged files
        detail = shorten(" ".join(str(e).split()), 200)
        raise UserError(f"cannot read {path}: damaged, or not a DICOM image ({detail}); replace or remove it") from e


def read_header(path: Path) -> "Dataset":
    """Reads the `ATTRIBUTES` of a file. The pixels are not read."""
    pydicom = import_pydicom(path)
    with explain_damage(path):
        if read_start(path, 132)[128:] != b"DICM":
            raise UserError(f"{path} is not a DICOM file: it has no DICM after the first 128 bytes; remove it")
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == DEFLATED:  # a small file could become very large
            raise UserError(f"{path} has the transfer syntax {syntax.name}; write it uncompressed, e.g. with dcmconv")
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(ATTRIBUTES))


def list_frames(path: Path, header: "Dataset") -> list[DicomFrame]:
    """Returns the frames of a file in the order of the file. Raises UserError if they cannot be read."""
    with explain_damage(path):
        check_dicom_image(path, header)
        count = int(header.get("NumberOfFrames") or 1)
        shared = next(iter(header.get("SharedFunctionalGroupsSequence") or []), {})
        items = header.get("PerFrameFunctionalGroupsSequence") or [{}] * count
        if len(items) != count:
            raise ValueError(f"{count} frames, but functional groups for {len(items)} frames")
        return [make_frame(path, index, header, (item, shared)) for index, item in enumerate(items)]


def make_frame(path: Path, index: int, header: "Dataset", groups: tuple) -> DicomFrame:
    """Collects the attributes of a frame. `groups` are the functional groups of the frame and of all frames."""

    def find_group(name: str) -> "Dataset":
        """Returns a functional group. An old file has no groups; its header has the same attributes."""
        return next((group.get(name)[0] for group in groups if group.get(name)), header)

    measures = find_group("PixelMeasuresSequence")
    spacing = read_numbers(measures, "PixelSpacing", 2)  # of rows, then of columns
    position = read_numbers(find_group("PlanePositionSequence"), "ImagePositionPatient", 3)
    axes = read_numbers(find_group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    steps = None
    if spacing is None or position is None or axes is None:
        position = None
    else:
        along_row, along_column = axes.reshape(2, 3)
        if np.abs(axes.reshape(2, 3) @ axes.reshape(2, 3).T - np.eye(2)).max() > 1e-3 or spacing.min() <= 0:
            raise ValueError(f"ImageOrientationPatient is {axes.tolist()}, PixelSpacing is {spacing.tolist()}")
        steps = np.stack([along_column * spacing[0], along_row * spacing[1]])
    if not any(groups) and int(header.get("NumberOfFrames") or 1) > 1:
        position = None  # the header has the position of the first frame only
    segment = find_group("SegmentIdentificationSequence").get("ReferencedSegmentNumber") or 0
    if header.get("SegmentationType") in ("BINARY", "FRACTIONAL") and not segment:
        raise ValueError("a frame has no segment number")
    thickness, gap = (read_numbers(measures, name, 1) for name in ("SliceThickness", "SpacingBetweenSlices"))
    return DicomFrame(
        path,
        index,
        header,
        find_rescale(find_group("PixelValueTransformationSequence")),
        int(segment),
        position,
        steps,
        thickness.item() if thickness is not None and thickness > 0 else None,
        gap.item() if gap is not None and gap > 0 else None,
    )


def read_numbers(values: "Dataset", name: str, count: int) -> ndarray | None:
    """Returns the `count` numbers of an attribute, or None if it is absent. Raises ValueError for other content."""
    if (value := values.get(name)) in (None, ""):
        return None
    numbers = np.atleast_1d(np.array(value, float))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {value}")
    return numbers


def find_rescale(values: "Dataset") -> "Dataset | None":
    if values.get("ModalityLUTSequence"):
        return values
    slope, intercept = (read_numbers(values, name, 1) for name in ("RescaleSlope", "RescaleIntercept"))
    return None if slope is None or intercept is None or (slope == 1 and intercept == 0) else values


def check_dicom_image(path: Path, header: "Dataset") -> None:
    """Raises UserError unless the header belongs to an image, of a kind, size and syntax that can be read."""
    import pydicom

    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    kind = pydicom.uid.UID(uid).name or header.get("Modality") or "a file without a type"
    if not header.get("Rows") or not header.get("Columns") or header.get("Modality") == "RTDOSE":
        raise UserError(f"{path} is not an image but {kind}; give the images, or a SEG object as a mask")
    if header.get("TotalPixelMatrixColumns"):
        raise UserError(f"{path} holds the tiles of a slide ({kind}), which are not slices of a volume; convert it")
    samples, photometric = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation")
    if not (photometric in (*GREY, "PALETTE COLOR") if samples == 1 else samples == 3 and photometric in COLOR):
        raise UserError(f"{path} has {samples} samples of {photometric} in a pixel; convert it to grey or RGB")
    shape = int(header.get("NumberOfFrames") or 1), header.Rows, header.Columns
    if not 0 < math.prod(shape) <= MAX_VOXELS or shape[0] > path.stat().st_size:
        raise UserError(f"{path} has {'x'.join(map(str, shape))} voxels; wanted 1 to {MAX_VOXELS:,}, and all frames")
    if (syntax := header.file_meta.get("TransferSyntaxUID")) is None:
        raise UserError(f"{path} does not name its transfer syntax; write it again, for example with dcmconv")
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError as e:
        raise UserError(f"{path} is compressed as {syntax.name}, which pydicom cannot decode; decompress it") from e
    if not decoder.is_available:
        raise UserError(f"{path} is compressed as {syntax.name}; to read it: pip install {list_decoders(syntax)}")


def list_decoders(syntax: str) -> str:
    """Returns the packages that decode a compressed transfer syntax, for the command `pip install`."""
    from pydicom.pixels.decoders.pylibjpeg import DECODER_DEPENDENCIES  # {UID: ("pylibjpeg>=2.0", ...)}

    return " ".join(package.split(">")[0] for package in DECODER_DEPENDENCIES[syntax])


def decode_dicom(frames: Sequence[DicomFrame]) -> Iterator[tuple[DicomFrame, ndarray]]:
    """Yields each frame with its stored pixels, (rows, columns) or (rows, columns, 3) in RGB. Reads no other frames."""
    from pydicom.pixels import iter_pixels

    for path, group in groupby(frames, key=lambda frame: frame.path):
        with explain_damage(path):
            group = list(group)
            header = group[0].header
            syntax = header.file_meta.TransferSyntaxUID
            packed = header.BitsAllocated == 1 and header.Rows * header.Columns % 8 and syntax.is_little_endian
            indices = [frame.index for frame in group]
            pixels = unpack_frames(path, header, indices) if packed else iter_pixels(path, indices=indices)
            try:
                yield from zip(group, pixels, strict=True)
            except RuntimeError as e:  # no installed decoder can read it, for example 12 bits in JPEG
                if not syntax.is_encapsulated:
                    raise
                raise UserError(
                    f"cannot decode {path} ({syntax.name}): it is damaged, or needs another decoder: "
                    f"pip install {list_decoders(syntax)}"
                ) from e


def unpack_frames(path: Path, header: "Dataset", indices: Sequence[int]) -> Iterator[ndarray]:
    """Yields frames with one bit for each pixel that start inside a byte. pydicom 3.0 cannot read them one by one."""
    import pydicom

    content = np.frombuffer(pydicom.dcmread(path, specific_tags=["PixelData"]).PixelData, np.uint8)
    size = header.Rows * header.Columns
    for start in (index * size for index in indices):
        bits = np.unpackbits(content[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 :][:size].reshape(header.Rows, header.Columns)


def has_color(header: "Dataset") -> bool:
    """Returns whether the pixels become RGB. A SEG object holds labels, also if it has a palette to show them."""
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR" and header.get("Modality") != "SEG"
    return header.get("SamplesPerPixel") == 3 or palette


def convert_pixels(frame: DicomFrame, pixels: ndarray) -> ndarray:
    """Converts stored pixels to grey values in the unit of the file, or to RGB in 8 bits.

    In MONOCHROME1, small stored numbers are bright. They are inverted, so that large numbers are bright. CT and PET are
    not inverted: their numbers are measured quantities, and MONOCHROME1 only tells a viewer how to show them.
    """
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    header = frame.header
    if has_color(header):
        bits = header.BitsStored
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels, bits = apply_color_lut(pixels, header)[..., :3], header.RedPaletteColorLookupTableDescriptor[2]
        return (pixels >> max(bits - 8, 0)).astype(np.uint8)
    if header.get("SegmentationType") == "LABELMAP":
        return np.where(pixels == header.get("PixelPaddingValue", 0), 0, pixels)
    if header.PhotometricInterpretation == "MONOCHROME1" and header.get("Modality") not in MEASURED:
        pixels = ~pixels if pixels.dtype.kind == "i" else pixels ^ (2**header.BitsStored - 1)
    return pixels if frame.rescale is None else apply_modality_lut(pixels, frame.rescale)
