"""Puts the maps of slices together, and makes one file for each volume."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...classes import Classes
from ...data.volumes.open import open_volume
from ...data.volumes.slices import Slice, restore_plane
from ...data.volumes.write import encode_volume

HALF = 127  # a map above it is foreground: a probability of at least 128 / 255


class VolumeMaps:
    """Collects the maps of slices. Several threads may add maps at the same time.

    The written labels are 0 and 1, or the values of the classes. `classes` is None for grey maps.

    Attributes:
        broken: volumes that are not written, because slices of them cannot be read.
    """

    def __init__(self, classes: Classes | None):
        self.values = to_label_values(classes)
        self.classes = classes
        names = classes.names if classes else ("background", "foreground")
        self.names = {int(value): name for value, name in zip(self.values, names, strict=True) if value > 0}
        self.lock = threading.Lock()
        self.volumes: dict[Path, dict[str, np.ndarray]] = {}  # kind of file -> values, of each unfinished volume
        self.missing: dict[Path, int] = {}  # number of slices that are not there yet
        self.broken = set[Path]()

    def add(
        self, source: Slice, paths: Mapping[str, Path], pixels: np.ndarray, probability: np.ndarray | None
    ) -> dict[Path, bytes]:
        """Adds a map, uint8 (H, W), and its probabilities, (H, W) or (C, H, W). Returns the files of a complete volume.

        `paths` has the files `map` and, for probabilities, `prob`; see `PredictOutputs.paths`.
        """
        labels = self.values[pixels if self.classes else (pixels > HALF).astype(np.uint8)]
        pictures = {"map": labels}
        assert source.view.axis is not None and source.index is not None
        if "prob" in paths:
            assert probability is not None
            probability = probability.astype(np.float32)  # the formats of volumes have no float16
            pictures["prob"] = np.moveaxis(probability, 0, -1) if probability.ndim == 3 else probability
        volume, axis = open_volume(source.volume), source.view.axis
        with self.lock:
            if source.volume in self.broken:
                return {}
            if source.volume not in self.volumes:
                self.volumes[source.volume] = {
                    kind: np.zeros((*volume.shape, *picture.shape[2:]), picture.dtype)
                    for kind, picture in pictures.items()
                }
                self.missing[source.volume] = volume.shape[axis]
            for kind, picture in pictures.items():
                place = (slice(None),) * axis + (source.index,)
                self.volumes[source.volume][kind][place] = restore_plane(picture, volume)
            self.missing[source.volume] -= 1
            if self.missing[source.volume]:
                return {}
            complete = self.volumes.pop(source.volume)
            del self.missing[source.volume]
        return {
            paths[kind]: encode_volume(paths[kind], values, source.volume, self.names)
            for kind, values in complete.items()
        }

    def leave_out(self, source: Slice) -> None:
        """Drops the maps of the volume of a slice that cannot be read. They would fill the memory until the end."""
        with self.lock:
            self.broken.add(source.volume)
            self.volumes.pop(source.volume, None)
            self.missing.pop(source.volume, None)


def to_label_values(classes: Classes | None) -> np.ndarray:
    """Returns the value in the file for each index of a class. Classes with colours alone keep their index."""
    if classes is None:
        return np.array([0, 1], np.uint8)
    values = [index if item.value is None else item.value for index, item in enumerate(classes.items)]
    return np.array(values, np.uint8 if max(values) < 256 else np.uint16)
