"""Sorts the frames of DICOM files into the planes of a volume, and computes its affine."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from ...errors import UserError
from ...limits import MAX_VOXELS
from .frames import DicomFrame

SAME = 1e-3  # mm; frames that are nearer are at the same position
EVEN = 0.01  # slice distances may differ by this share, or by this number of mm


def stack_frames(path: Path, frames: list[DicomFrame]) -> tuple[list[list[DicomFrame]], ndarray | None]:
    """Sorts frames by their position along the normal of the planes.

    Returns a list of frames for each plane, and the affine (4, 4) from (plane, row, column) to mm in the axes right,
    anterior, superior. The list has one frame, or in a SEG object one for each segment. It is empty where a SEG object
    has no frames. The affine is None if the frames have no position.
    """
    segments = frames[0].header.get("Modality") == "SEG"
    missing = [frame for frame in frames if frame.position is None]
    if missing and (segments or len(missing) < len(frames)):
        raise UserError(f"{path}: {missing[0]} has no position, orientation or pixel spacing; export the images again")
    if missing:
        return [[frame] for frame in sorted(frames, key=get_number)], None
    all_steps = np.stack([frame.steps for frame in frames if frame.steps is not None])
    steps = all_steps[0]
    far = np.abs(all_steps - steps).max((1, 2)) > 1e-4 * np.abs(steps).max()
    if far.any():
        raise UserError(
            f"{path}: {frames[0]} and {frames[far.argmax()]} have different orientations or pixel spacings; "
            "put them into two folders"
        )
    normal = np.cross(steps[1], steps[0]) / np.linalg.norm(np.cross(steps[1], steps[0]))
    frames = sorted(frames, key=lambda frame: frame.position @ normal)
    positions = stack_positions(frames)
    new = np.diff(positions @ normal, prepend=-np.inf) > SAME  # is the frame in another plane than the frame before?
    if not (frames[0].segment or new.all()):
        first, second = frames[new.argmin() - 1], frames[new.argmin()]
        raise UserError(
            f"{path}: {first} and {second} have the same position; a volume has three axes: "
            "split a 4D series into one folder for each time, echo or direction"
        )
    numbers, step = number_planes(path, [frame for frame, is_new in zip(frames, new, strict=True) if is_new], normal)
    planes: list[list[DicomFrame]] = [[] for _ in range(numbers[-1] + 1)]
    for frame, number in zip(frames, numbers[np.cumsum(new) - 1], strict=True):
        planes[number].append(frame)
    affine = np.eye(4)
    affine[:3] = np.column_stack([step, *steps, positions[0]])
    return planes, np.diag([-1, -1, 1, 1]) @ affine


def stack_positions(frames: Sequence[DicomFrame]) -> ndarray:
    """Returns the positions of frames that have one, (N, 3)."""
    return np.stack([frame.position for frame in frames if frame.position is not None])


def get_number(frame: DicomFrame) -> tuple[int, str, int]:
    """Returns the order of a frame that has no position."""
    return int(frame.header.get("InstanceNumber") or 0), frame.path.name, frame.index


def number_planes(path: Path, frames: Sequence[DicomFrame], normal: ndarray) -> tuple[ndarray, ndarray]:
    """Returns the number of the plane of each frame, from 0, and the step (3,) from a plane to the next plane.

    Only the numbers of a SEG object have gaps, because its empty planes may be absent.
    """
    if len(frames) == 1:
        return np.zeros(1, int), normal * (frames[0].thickness or frames[0].gap or 1.0)
    positions = stack_positions(frames)
    distances = positions @ normal
    gaps = np.diff(distances)
    segments = frames[0].header.get("Modality") == "SEG"
    units = (frames[0].gap, frames[0].thickness, gaps.min()) if segments else (np.median(gaps),)
    for unit in filter(None, units):
        numbers = np.rint((distances - distances[0]) / unit)
        step = (positions[-1] - positions[0]) / max(numbers[-1], 1)
        tolerance = max(EVEN * unit, EVEN)
        far = np.abs(positions - positions[0] - numbers[:, None] * step).max() > tolerance
        uneven = np.abs(gaps - unit * np.diff(numbers)).max() > tolerance
        if not far and not uneven and (np.diff(numbers).min() > 0 if segments else numbers[-1] == len(gaps)):
            break
    else:
        moves = np.diff(positions, axis=0)
        usual = np.median(moves, axis=0)
        worst = np.abs(moves - usual).max(axis=1).argmax()
        raise UserError(
            f"{path}: the slices are not evenly spaced: from {frames[worst]} to {frames[worst + 1]} are "
            f"({format_numbers(moves[worst])}) mm, mostly ({format_numbers(usual)}) mm; "
            "add the missing slices, or resample the series"
        )
    if (numbers[-1] + 1) * frames[0].header.Rows * frames[0].header.Columns > MAX_VOXELS:
        raise UserError(f"{path} has {numbers[-1] + 1:.0f} planes; a volume can have {MAX_VOXELS:,} voxels")
    return numbers.astype(int), step


def format_numbers(numbers: ndarray) -> str:
    return ", ".join(f"{number:.5g}" for number in numbers + 0.0)
