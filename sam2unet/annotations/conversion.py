"""What the readers and writers of all formats share: options, class names, problems."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..classes import IGNORED, Classes, MaskClass, pick_color
from ..data.images.reading import open_image, upright_size
from ..data.pairs import explain_no_folder
from ..errors import UserError, shortlist, warn
from ..recipe import ForegroundRule
from .outlines import LARGEST
from .record import AnnotatedImage, Region, region_from_rings
from .tracing import Parts, trace_regions

IGNORE_NAME = "ignore"  # the class of pixels that count nowhere, in formats that have no ignore value
BACKGROUNDS = ("background", "_background_", "__background__")
MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
MOST_PIXELS = 2 * 89_478_485  # of an image; Pillow has the same limit
OUTSIDE = 0.5  # pixels that a polygon may reach outside the image without a message


@dataclass(frozen=True)
class ConvertOptions:
    """The choices of the user."""

    shapes: str = "polygons"  # or `masks`, or `uncompressed` for COCO
    tolerance: float = 1.0  # pixels; see `simplify_rings`
    split_regions: bool = True  # each connected region of a binary or index mask is an object
    keep_empty: bool = True  # write images without objects
    class_name: str = "object"  # of objects whose source has no class
    rule: ForegroundRule = None  # which values of binary masks are foreground
    threshold: float = 0.5  # a predicted pixel above it belongs to the object
    part: str = "train"  # which list of SAM-Med2D to write
    image_root: str = "/data/local-files/?d="  # what Label Studio puts before the names of images


class Problems:
    """Counts the problems in the data. There is one line for each kind of problem."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, text: str, name: object) -> None:
        """Adds the object, file or class `name` to the problem `text`, for example `images do not exist`."""
        self.names.setdefault(text, []).append(str(name))

    def print(self) -> None:
        for text, names in self.names.items():
            warn(f"{len(names)} {text}: {shortlist(list(dict.fromkeys(names)))}")


class ClassNames:
    """The names of the classes, without the background. Without `Classes` of the user, each new name is added."""

    def __init__(self, classes: Classes | None = None):
        self.classes = classes
        self.names = classes.names[1:] if classes else []
        self.places = {name: index for index, name in enumerate(self.names, 1)}
        self.has_ignored = bool(classes and classes.ignore)

    @property
    def labels(self) -> list[str]:
        """The names, and `IGNORE_NAME` if there are pixels to ignore."""
        return [*self.names, *[IGNORE_NAME] * self.has_ignored]

    def declare(self, names: Iterable[str]) -> None:
        """Adds the names that a file lists, so that their order is kept."""
        for name in names:
            self.find(str(name))

    def find(self, name: str) -> int | None:
        """Returns the index of a class: 0 for the background, `IGNORED`, or None if the user's classes lack it."""
        if name in self.places:
            return self.places[name]
        if name == (self.classes.names[0] if self.classes else None) or name in BACKGROUNDS:
            return 0
        if name == IGNORE_NAME and (self.has_ignored or not self.classes):
            self.has_ignored = True
            return IGNORED
        if self.classes:
            return None
        if len(self.names) == IGNORED - 1:
            raise UserError(f"there are more than {IGNORED - 1} classes; give the ones that you need with --classes")
        self.names.append(name)
        self.places[name] = len(self.names)
        return len(self.names)

    def index(self, name: str) -> int:
        """Returns the index of a class that `formats.check_images` has passed."""
        index = self.find(name)
        assert index is not None
        return index

    def to_classes(self) -> Classes:
        """Returns the user's classes; otherwise new ones, with the values 0 for the background and then 1, 2, ..."""
        names = [BACKGROUNDS[0], *(self.names or ["object"])]
        items = tuple(MaskClass(name, index, pick_color(index)) for index, name in enumerate(names))
        return self.classes or Classes(items, (IGNORED,) if self.has_ignored else ())


@dataclass
class Conversion:
    """A running conversion."""

    options: ConvertOptions = field(default_factory=ConvertOptions)
    images: dict[str, Path] = field(default_factory=dict)  # the image files by stem; empty if the user gave none
    names: ClassNames = field(default_factory=ClassNames)
    problems: Problems = field(default_factory=Problems)
    is_prediction: bool = False  # the source is a result of a model

    def fill(self, name: str, polygons: list, size: tuple[int, int], where: object, **values: Any) -> Region:
        """Makes a region from polygons, lists of x and y, flat or in pairs. Counts those that reach outside."""
        rings = [to_ring(polygon) for polygon in polygons]
        height, width = size
        points = np.concatenate([*rings, np.empty((0, 2))])
        if len(points) and ((points < -OUTSIDE) | (points > np.array([width, height]) + OUTSIDE)).any():
            self.problems.add("objects have polygons that reach outside the image and are cut at its edge", where)
        return region_from_rings(name, rings, size, **values)

    def find_size(self, file_name: str, height: object, width: object) -> tuple[int, int]:
        """Returns (height, width) from an annotation or from the image. Raises UserError if neither is there."""
        if size := parse_size(height, width):
            return size
        if path := self.images.get(Path(file_name).stem):
            return read_image_size(path)
        raise UserError(f"the annotation of {file_name} has no size; give the folder that holds the image, --images")

    def trace(self, item: AnnotatedImage) -> list[Parts]:
        """Returns the parts of each region of an image; nothing if regions are written as masks."""
        if self.options.shapes != "polygons":
            return [[] for _ in item.regions]
        return trace_regions(item.regions, item.known_size, self.options.tolerance)


def to_ring(polygon: list) -> np.ndarray:
    """Returns float (N, 2). Raises ValueError for anything but finite numbers of a normal size."""
    ring = np.array(polygon, dtype=float).reshape(-1, 2)
    if not (np.abs(ring) < LARGEST).all():
        raise ValueError("a coordinate is not a finite number, or too large")
    return ring


def parse_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Returns (height, width), or None if both are absent. Raises ValueError for sizes that no image has."""
    if height is None or width is None:
        return None
    size = int(height), int(width)
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"the size {size[1]}x{size[0]} is impossible")
    return size


def read_image_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) of the upright image."""
    with open_image(path) as image:
        return upright_size(image)[::-1]


def base_name(path: str) -> str:
    """Returns the file name of a path of any system. Raises ValueError if there is none."""
    name = PureWindowsPath(path).name
    if not Path(name).stem or "\0" in name:
        raise ValueError(f"{path!r} is not the path of an image")
    return name


def parse_score(value: Any) -> float | None:
    """Returns a number, or None. Raises ValueError for other values."""
    if value is None:
        return None
    score = float(value)
    if not math.isfinite(score):
        raise ValueError("a score is not a finite number")
    return score


@contextmanager
def explain_malformed(path: Path, kind: str) -> Iterator[None]:
    """Turns errors of unexpected content into a UserError."""
    try:
        yield
    except MALFORMED as e:
        what = f"no {e}" if isinstance(e, KeyError) else str(e)
        raise UserError(f"{path} is not {kind}: {what}; export it again") from e


def list_sources(folder: Path, ending: str) -> list[Path]:
    """Returns the files of a folder with an ending, sorted. Raises UserError if there is none."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder that holds the {ending} files")
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(ending) and name[0] != ".")
    except OSError as e:
        raise UserError(explain_no_folder(folder, e)) from e
    if not names:
        raise UserError(f"no {ending} files in {folder}; give the folder that holds them")
    return [folder / name for name in names]
