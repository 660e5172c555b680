"""Reads the photographs of a prediction in threads, and notes what the user should know about them."""

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from ...data.checks.check import warn_rotated
from ...data.images.reading import LARGEST_TILED, open_image, read_image, upright_size
from ...data.volumes.slices import Source
from ...errors import UserError, print_line, shortlist, warn
from ..prediction.predictor import Photo, Predictor
from .inputs import Input, is_slice
from .volume_maps import VolumeMaps

SHOWN_DOUBTS = 5  # images that --uncertainty names
# Pixels or probabilities. An image with more is large: one large image is read at a time, and one is written at a time.
LARGE = 50_000_000


class MapJob(NamedTuple):
    item: Input
    mask: Source | None = None  # the map gets the size of this mask; None: the size of the image


class ImageNotes(NamedTuple):
    """An input, whether its EXIF orientation rotated it, and whether it has several frames or pages."""

    item: Input
    rotated: bool
    several: bool


class FirstNames(Sequence[str]):
    """Names for a message. It counts all names and keeps the first ones, because there may be millions."""

    KEPT = 20

    def __init__(self) -> None:
        self.total, self.kept = 0, list[str]()

    def append(self, name: str) -> None:
        self.total += 1
        if self.total <= self.KEPT:
            self.kept.append(name)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        return self.kept[index]


@dataclass
class PredictNotes:
    """What the run reports at the end."""

    bad: FirstNames = field(default_factory=FirstNames)  # for each image that was left out, the reason
    # rotated and several: names of images that were rotated, and of images with several frames or pages
    rotated: FirstNames = field(default_factory=FirstNames)
    several: FirstNames = field(default_factory=FirstNames)
    stopped_by: UserError | None = None  # the error of the image that stops the run
    # with --uncertainty: the largest uncertainties or disagreements, and the names of their images
    doubts: list[tuple[float, str]] = field(default_factory=list)
    # names of images without a probability above 0.5. Slices of volumes are left out: most of them show no object.
    objectless: FirstNames = field(default_factory=FirstNames)

    def add_doubt(self, doubt: float, name: str) -> None:
        self.doubts = heapq.nlargest(SHOWN_DOUBTS, [*self.doubts, (doubt, name)])

    def report(self, share: str, several_models: bool, count: int) -> None:
        """Prints the warnings about images, and what the user should know about their maps.

        Args:
            share: the beginning of the lines of this process.
            count: the number of maps.
        """
        if self.rotated:
            warn_rotated(self.rotated)
        if names := self.several:
            warn(f"{len(names)} images have several frames or pages, of which the first is used: {shortlist(names)}")
        if self.doubts:
            what = "the models disagree most on" if several_models else "the model is most uncertain on"
            print_line(f"{share}{what} {', '.join(f'{name} ({doubt:.3f})' for doubt, name in self.doubts)}")
        if names := self.objectless:
            print_line(f"{share}no object above 0.5 in {len(names)} of {count} images: {shortlist(names)}")


def read_size(path: Source) -> tuple[int, int]:
    """Returns (height, width) of an image file, after its EXIF rotation."""
    with open_image(path) as image:
        return upright_size(image)[::-1]


@contextmanager
def allow_large_images(is_on: bool) -> Iterator[None]:
    """Inside, images may have up to `LARGEST_TILED` pixels. Tiles need little memory for each pixel."""
    before = Image.MAX_IMAGE_PIXELS
    if is_on:
        Image.MAX_IMAGE_PIXELS = LARGEST_TILED // 2  # Pillow refuses images with more than twice this number
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def make_reader(predictor: Predictor, volumes: VolumeMaps) -> Callable[[MapJob], Photo | UserError]:
    """Returns a function that reads and prepares the image of a job. It returns the error of an unreadable image.

    `volumes` learns which slices cannot be read.
    """
    one_large_at_a_time = threading.Lock()

    def read(job: MapJob) -> Photo | UserError:
        path = job.item.path
        try:
            map_size = None if job.mask is None else read_size(job.mask)
            with open_image(path) as image:
                width, height = image.size
                # An MPO file of a camera has previews beside the photograph.
                several = image.format != "MPO" and getattr(image, "is_animated", False)
            with one_large_at_a_time if width * height > LARGE else nullcontext():
                picture = read_image(path)
                size = picture.height, picture.width
                if predictor.tile is not None and map_size is not None and map_size != size:
                    raise UserError(
                        f"{path} is {size[1]}x{size[0]}, its mask {map_size[1]}x{map_size[0]}; --tile needs equal sizes"
                    )
                notes = ImageNotes(job.item, rotated=size != (height, width), several=several)
                return predictor.prepare(picture, map_size, path, notes)
        except UserError as e:
            if is_slice(path):
                volumes.leave_out(path)
            return e

    return read


def drop_unreadable(photos: Iterator[Photo | UserError], on_bad_image: str, notes: PredictNotes) -> Iterator[Photo]:
    """Yields the readable photographs and collects notes. With `stop`, it ends at the first unreadable image."""
    for photo in photos:
        if isinstance(photo, UserError):
            if on_bad_image == "stop":
                # `write_maps` raises it after the maps of the images before it are written.
                notes.stopped_by = UserError(f"{photo} (--on_bad_image skip goes on without it)")
                return
            warn(f"left out: {photo}")
            notes.bad.append(str(photo))
            continue
        if photo.source.rotated:
            notes.rotated.append(photo.source.item.path.name)
        if photo.source.several:
            notes.several.append(photo.source.item.path.name)
        yield photo
