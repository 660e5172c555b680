"""What an open volume is. Keeps the values of the last volumes whose planes do not lie together in the file."""

import threading
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from numpy import ndarray

KEPT = 2  # volumes of each process, because one can have hundreds of megabytes
reading = threading.Lock()  # threads that need the same volume wait until one of them has read it


class VolumeFile(Protocol):
    """An open volume. It reads values when they are needed. Scaled integers become the numbers they stand for."""

    path: Path
    shape: tuple[int, int, int]
    affine: ndarray | None  # (4, 4), from indices to positions in mm; None if the file has none
    is_colour: bool  # planes and volumes have a further axis: red, green, blue, uint8
    modality: str  # of DICOM, for example CT; empty if it is not known

    def read_plane(self, axis: int, index: int) -> ndarray:
        """Returns the plane at `index` of `axis`. Its axes are the two other ones, in ascending order."""

    def read(self) -> ndarray:
        """Returns all values."""


def read_whole(volume: VolumeFile) -> ndarray:
    """Returns `volume.read()`. The values of the last volumes are kept, so that they are not read again."""
    with reading:
        return read_whole_once(volume)  # type: ignore[arg-type]  # every object has a hash


@lru_cache(maxsize=KEPT)
def read_whole_once(volume: VolumeFile) -> ndarray:
    return volume.read()
