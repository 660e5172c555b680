"""Reads the pixels of DICOM frames, and converts them to grey values or RGB."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy import ndarray

from ...errors import UserError
from .files import DicomFile, explain_damage, list_decoders
from .frames import DicomFrame

if TYPE_CHECKING:
    from pydicom import Dataset

MEASURED = ("CT", "PT")  # the numbers are measured quantities, for example Hounsfield units


def decode_dicom(frames: Sequence[DicomFrame]) -> Iterator[tuple[DicomFrame, ndarray]]:
    """Yields each frame with its stored pixels, (rows, columns) or (rows, columns, 3) in RGB. Reads no other frames."""
    for _, same_path in groupby(frames, key=lambda frame: frame.path):
        group = list(same_path)
        file = group[0].file
        syntax = file.header.file_meta.TransferSyntaxUID
        with explain_damage(file.path), open(file.path, "rb") as stream:
            try:
                yield from zip(group, decode_file(file, stream, [frame.index for frame in group]), strict=True)
            except RuntimeError as e:  # no installed decoder can read it, for example 12 bits in JPEG
                if not syntax.is_encapsulated:
                    raise
                raise UserError(
                    f"cannot decode {file.path} ({syntax.name}): it is damaged, or needs another decoder: "
                    f"pip install {list_decoders(syntax)}"
                ) from e


def decode_file(file: DicomFile, stream: BinaryIO, indices: Sequence[int]) -> Iterator[ndarray]:
    """Yields frames of a file. `pydicom.pixels.iter_pixels` would read the header again, which may take 0.3 s."""
    from pydicom.pixels import as_pixel_options, get_decoder

    header, syntax = file.header, file.header.file_meta.TransferSyntaxUID
    size = header.Rows * header.Columns
    if header.BitsAllocated == 1 and size % 8 and syntax.is_little_endian:
        # pydicom 3.0 cannot read a frame that starts inside a byte
        for start in (index * size for index in indices):
            stream.seek(file.pixel_start + start // 8)
            content = np.frombuffer(stream.read(size // 8 + 2), np.uint8)
            yield np.unpackbits(content, bitorder="little")[start % 8 :][:size].reshape(header.Rows, header.Columns)
        return
    stream.seek(file.pixel_start)
    options = as_pixel_options(header, **file.pixel_type)
    for pixels, _ in get_decoder(syntax).iter_array(stream, indices=indices, **options):
        yield pixels


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
