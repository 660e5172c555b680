"""Keeps the values of the last volumes whose planes do not lie together in the file."""

from functools import lru_cache
from typing import Protocol

from numpy import ndarray

KEPT = 2  # volumes of each process, because one can have hundreds of megabytes


class Readable(Protocol):
    def read(self) -> ndarray:
        """Returns all values of a volume."""


@lru_cache(maxsize=KEPT)
def read_whole(volume: Readable) -> ndarray:
    """Returns `volume.read()`. Of the last volumes the values are not read again."""
    return volume.read()
