"""Opens DICOM files with pydicom (the extra `medical`): reads their headers, and finds their pixels."""

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...atomic import read_start
from ...errors import UserError
from ...limits import MAX_VOXELS, shorten
from ...runtime.versions import import_extra

if TYPE_CHECKING:
    from pydicom import Dataset

PALETTES = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
# Only these attributes of a header are read, because other attributes can be large.
ATTRIBUTES = (
    *("SOPClassUID", "ImageType", "Modality", "SeriesInstanceUID", "SeriesDescription", "InstanceNumber"),
    *("Rows", "Columns", "NumberOfFrames", "TotalPixelMatrixColumns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "PlanarConfiguration", "PixelPaddingValue"),
    *("PixelPresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("SegmentationType", "SegmentSequence", "MaximumFractionalValue"),
    *(f"{name}{part}" for name in PALETTES for part in ("Descriptor", "Data")),
    *(f"Segmented{name}Data" for name in PALETTES),
)
PIXELS = {(0x7FE0, 0x0010): "PixelData", (0x7FE0, 0x0008): "FloatPixelData", (0x7FE0, 0x0009): "DoubleFloatPixelData"}
GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom converts them to RGB
MAX_FRAMES = 10**6
DEFLATED = "1.2.840.10008.1.2.1.99"


class DicomFile(NamedTuple):
    """A file without its pixels."""

    path: Path
    header: "Dataset"  # with the `ATTRIBUTES`
    pixel_start: int  # the first byte of the pixels
    pixel_type: dict[str, str]  # options of the decoder of pydicom; empty if the file has no pixels


def import_pydicom(path: Path) -> ModuleType:
    """Imports pydicom. Its warnings about small errors in files are not printed."""
    warnings.filterwarnings("ignore", module="pydicom")
    return import_extra("pydicom", f'{path} needs pydicom, which is not installed: pip install "sam2unet[medical]"')


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raises UserError with one line for every error that a file causes. NumPy does not warn about overflows."""
    try:
        with np.errstate(all="ignore"):
            yield
    except UserError:
        raise
    except MemoryError as e:
        raise UserError(f"cannot read {path}: not enough memory") from e
    except Exception as e:  # pydicom raises errors of many classes for damaged files
        detail = shorten(" ".join(str(e).split()), 200)
        raise UserError(f"cannot read {path}: damaged, or not a DICOM image ({detail}); replace or remove it") from e


def read_file(path: Path) -> DicomFile:
    """Reads the header of a file. The pixels are not read."""
    pydicom = import_pydicom(path)
    if read_start(path, 132)[128:] != b"DICM":
        raise UserError(f"{path} is not a DICOM file: it has no DICM after the first 128 bytes; remove it")
    with explain_damage(path), open(path, "rb") as file:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == DEFLATED:  # a small file could become very large
            raise UserError(f"{path} has the transfer syntax {syntax.name}; write it uncompressed, e.g. with dcmconv")
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(ATTRIBUTES))
        implicit, little_endian = header.original_encoding
        start = file.tell()
        element = file.read(12)
        tag = struct.unpack("<HH" if little_endian else ">HH", element[:4]) if len(element) == 12 else None
        if tag not in PIXELS:
            return DicomFile(path, header, start, {})
        if implicit:  # the tag, and 4 bytes of length
            return DicomFile(path, header, start + 8, {"pixel_keyword": PIXELS[tag]})
        return DicomFile(path, header, start + 12, {"pixel_keyword": PIXELS[tag], "pixel_vr": element[4:6].decode()})


def check_dicom_image(file: DicomFile) -> None:
    """Raises UserError unless a file holds an image, of a kind, size and syntax that can be read."""
    path, header = file.path, file.header
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    kind = uid.name if uid else header.get("Modality") or "a file without a type"
    if not header.get("Rows") or not header.get("Columns") or header.get("Modality") == "RTDOSE":
        raise UserError(f"{path} is not an image but {kind}; give the images, or a SEG object as a mask")
    if not file.pixel_type:
        raise UserError(f"{path} holds no pixels; export it again")
    if header.get("TotalPixelMatrixColumns"):
        raise UserError(f"{path} holds the tiles of a slide ({kind}), which are not slices of a volume; convert it")
    if "MOSAIC" in (header.get("ImageType") or ()):
        raise UserError(f"{path} is a mosaic: one image that holds many slices; convert it, for example with dcm2niix")
    samples, photometric = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation")
    if photometric not in {1: GREY, 3: COLOR}.get(samples, ()):
        raise UserError(f"{path} has {samples} samples of {photometric} in a pixel; convert it to grey or RGB")
    shape = int(header.get("NumberOfFrames") or 1), header.Rows, header.Columns
    if not 0 < math.prod(shape) <= MAX_VOXELS or shape[0] > min(path.stat().st_size, MAX_FRAMES):
        raise UserError(f"{path} has {'x'.join(map(str, shape))} voxels; wanted 1 to {MAX_VOXELS:,}, and all frames")
    check_syntax(path, header)


def check_syntax(path: Path, header: "Dataset") -> None:
    """Raises UserError if no installed decoder reads the transfer syntax. Names the packages to install."""
    from pydicom.pixels import get_decoder

    if (syntax := header.file_meta.get("TransferSyntaxUID")) is None:
        raise UserError(f"{path} does not name its transfer syntax; write it again, for example with dcmconv")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as e:
        raise UserError(f"{path} is compressed as {syntax.name}, which pydicom cannot decode; decompress it") from e
    if not decoder.is_available:
        raise UserError(f"{path} is compressed as {syntax.name}; to read it: pip install {list_decoders(syntax)}")


def list_decoders(syntax: str) -> str:
    """Returns the packages that decode a compressed transfer syntax, for the command `pip install`."""
    from pydicom.pixels.decoders.pylibjpeg import DECODER_DEPENDENCIES  # {UID: ("pylibjpeg>=2.0", ...)}
    from pydicom.uid import UID

    return " ".join(package.split(">")[0] for package in DECODER_DEPENDENCIES[UID(syntax)])
