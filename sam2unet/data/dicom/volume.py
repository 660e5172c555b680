"""Reads DICOM as a volume: a file, a multi-frame file, a folder with one series, or a SEG object (labels)."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from ...atomic import read_start
from ...errors import UserError, shortlist
from ...runtime.versions import import_extra
from ..whole_volumes import VolumeFile, read_whole
from .files import DicomFile, explain_damage, read_file
from .frames import DicomFrame, list_frames
from .pixels import convert_pixels, decode_dicom, has_color
from .stack import stack_frames

# Files of one volume must agree in these attributes.
TYPE = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation")


def is_dicom(path: Path) -> bool:
    """Returns whether a file is DICOM by its content or its ending. Of a folder, looks at the first file by name."""
    if path.is_dir():
        with os.scandir(path) as entries:  # there may be millions
            names = (e.name for e in entries if not e.name.startswith(".") and e.is_file())
            first = min(names, default=None)
        return first is not None and is_dicom(path / first)
    return path.suffix.lower() == ".dcm" or (path.is_file() and read_start(path, 132)[128:] == b"DICM")


def open_dicom(path: Path) -> "DicomVolume":
    """Opens a file, or a folder with the files of one series. Reads the headers only.

    In a folder, skips hidden files, the index DICOMDIR, and files with another ending (`.txt`) that are not DICOM.
    Raises UserError for files that are not one volume with three axes and even slice distances.
    """
    paths = list_visible_files(path) if path.is_dir() else [path]
    if path.is_dir():
        paths = [file for file in paths if is_dicom(file) or not file.suffix[1:].isalpha()]
        paths = [file for file in paths if not file.name.upper().startswith("DICOMDIR")]
    if not paths:
        raise UserError(f"{path} holds no DICOM files")
    with explain_damage(path):
        files = [read_file(file) for file in paths]
        check_series(path, files)
        return DicomVolume(path, *stack_frames(path, [frame for file in files for frame in list_frames(file)]))


def list_visible_files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as e:
        raise UserError(f"cannot read {folder}: {e.strerror}") from e


def check_series(path: Path, files: Sequence[DicomFile]) -> None:
    """Raises UserError unless all files belong to one series and have pixels of the same size and type."""
    series: dict[str, list[DicomFile]] = {}
    for file in files:
        series.setdefault(file.header.get("SeriesInstanceUID") or "", []).append(file)
    if len(series) > 1:
        names = [members[0].header.get("SeriesDescription") or uid or "no name" for uid, members in series.items()]
        counts = [f"{name} ({len(group)} files)" for name, group in zip(names, series.values(), strict=True)]
        raise UserError(f"{path} holds {len(series)} series: {shortlist(counts)}; put each series into its own folder")
    first = files[0]
    for file in files:
        if other := [name for name in TYPE if file.header.get(name) != first.header.get(name)]:
            values = [f"{each.header.get(other[0])} in {each.path.name}" for each in (first, file)]
            raise UserError(
                f"{path}: {other[0]} is {', '.join(values)}; a volume needs equal slices; put them into two folders"
            )


class DicomVolume(VolumeFile):
    """A volume in RAS order: the axes run to the right, anterior and superior, as in nibabel's closest canonical order.

    Without position, the axes are frames, rows and columns, and `affine` is None. The affine of a CT with a tilted
    gantry has a shear. A SEG object (`modality` is SEG) holds the numbers of its segments, 0 is the background.

    Args:
        planes: the frames of each plane.
        affine: from (plane, row, column) to mm, or None.
    """

    def __init__(self, path: Path, planes: list[list[DicomFrame]], affine: ndarray | None):
        frames = [frame for frames in planes for frame in frames]
        header = frames[0].header
        self.path, self.planes = path, planes
        self.modality = header.get("Modality") or ""
        self.is_colour = has_color(header)
        self.dtype = choose_type(frames)
        shape = len(planes), header.Rows, header.Columns
        self.shape, self.affine, self.turns = shape, None, np.array([[0, 1], [1, 1], [2, 1]])  # (axis, flip)
        if affine is not None:
            nibabel = import_extra("nibabel", f'{path} needs nibabel: pip install "sam2unet[medical]"')
            self.turns = nibabel.io_orientation(affine).astype(int)
            x, y, z = (shape[raw] for raw in np.argsort(self.turns[:, 0]))
            self.shape = x, y, z
            self.affine = affine @ nibabel.orientations.inv_ornt_aff(self.turns, shape)
        self.stacked_axis, self.flip = self.turns[0].tolist()

    def read_plane(self, axis: int, index: int) -> ndarray:
        """Returns a plane, (a, b): the other two axes in ascending order; colour: (a, b, 3) in 8 bits.

        Along the axis in which the frames are stacked, reads one frame. Along another axis, reads and keeps the volume.
        """
        if axis == self.stacked_axis:
            number = index if self.flip > 0 else len(self.planes) - 1 - index
            return np.moveaxis(self.read_planes([number]), axis, 0)[0]
        return np.moveaxis(read_whole(self), axis, 0)[index]

    def read(self) -> ndarray:
        """Returns the volume, (x, y, z), or in colour (x, y, z, 3) in 8 bits. Uses the rescale slope and intercept."""
        return self.read_planes(range(len(self.planes)))

    def read_planes(self, numbers: Sequence[int]) -> ndarray:
        """Reads planes by their position along the normal, and turns their axes to RAS order."""
        header = next(frame for frames in self.planes for frame in frames).header
        values = np.zeros((len(numbers), header.Rows, header.Columns) + (3,) * self.is_colour, self.dtype)
        places = [(place, frame) for place, number in enumerate(numbers) for frame in self.planes[number]]
        pixels = decode_dicom([frame for _, frame in places])
        for (place, _), (frame, stored) in zip(places, pixels, strict=True):
            with explain_damage(frame.path):
                if frame.segment:
                    paint_segment(values[place], frame, stored)
                else:
                    values[place] = convert_pixels(frame, stored)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"{self.path} holds values that are not finite (NaN or infinity); replace them")
        return self.reorder(values, self.turns)

    def reorder(self, values: ndarray, turns: ndarray) -> ndarray:
        import nibabel

        return nibabel.apply_orientation(values, turns)

    def restore_frames(self, values: ndarray) -> ndarray:
        """Turns an array in RAS order, (x, y, z), to the order (plane, row, column) of the planes."""
        inverse = np.argsort(self.turns[:, 0])
        return self.reorder(values, np.column_stack([inverse, self.turns[inverse, 1]]))


def choose_type(frames: Sequence[DicomFrame]) -> np.dtype:
    """Returns the type of the voxels: the stored type, or float32 if one frame is rescaled."""
    header = frames[0].header
    if header.get("Modality") == "SEG":
        return np.dtype(np.uint16)
    if has_color(header):
        return np.dtype(np.uint8)
    if any(frame.rescale is not None for frame in frames):
        return np.dtype(np.float32)
    kind = "f" if "Float" in frames[0].file.pixel_type["pixel_keyword"] else "i" if header.PixelRepresentation else "u"
    return np.dtype(f"{kind}{max(header.BitsAllocated // 8, 1)}")


def paint_segment(labels: ndarray, frame: DicomFrame, pixels: ndarray) -> None:
    """Writes the number of a segment where it covers at least half of a pixel. Raises UserError for an overlap."""
    largest = frame.header.MaximumFractionalValue if frame.header.SegmentationType == "FRACTIONAL" else 1
    inside = pixels.astype(np.int64) * 2 >= largest
    if other := set(np.unique(labels[inside]).tolist()) - {0, frame.segment}:
        names = {int(item.SegmentNumber): item.get("SegmentLabel", "") for item in frame.header.SegmentSequence}
        texts = [f"{number} ({names.get(number)})" for number in sorted([*other, frame.segment])]
        raise UserError(
            f"{frame.path}: the segments {' and '.join(texts)} overlap; a mask has one label for each voxel: "
            "write one SEG object for each of them"
        )
    labels[inside] = frame.segment
