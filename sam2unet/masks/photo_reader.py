"""Reads the photographs of a prediction in threads, and notes what the user should know about them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from ..data.check import warn_rotated
from ..data.reading import open_image, read_image
from ..errors import UserError, print_line, shortlist, warn
from .inputs import Input
from .predictor import Photo, Predictor

SHOWN_DOUBTS = 5  # images that --uncertainty names
LARGE = 50_000_000  # pixels or probabilities; of images with more, only one is read and one is written at a time


@dataclass(frozen=True)
class MapJob:
    item: Input
    size: tuple[int, int] | None  # (height, width) of the map; None: the size of the image


class ImageNotes(NamedTuple):
    """An input, whether its EXIF orientation rotated it, and whether it has several frames or pages."""

    item: Input
    rotated: bool
    several: bool


@dataclass
class PredictNotes:
    """What the run reports at the end."""

    bad: list[str] = field(default_factory=list)  # for each image that was left out, the reason
    # rotated and several: names of images that were rotated, and of images with several frames or pages
    rotated: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    stopped_by: UserError | None = None  # the error of the image that stops the run
    doubts: list[tuple[float, str]] = field(default_factory=list)  # with --uncertainty: its number, name of the image
    # names of images without a probability above 0.5; not of slices, most of which show no object
    objectless: list[str] = field(default_factory=list)

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
            worst = sorted(self.doubts, reverse=True)[:SHOWN_DOUBTS]
            print_line(f"{share}{what} {', '.join(f'{name} ({doubt:.3f})' for doubt, name in worst)}")
        if names := self.objectless:
            print_line(f"{share}no object above 0.5 in {len(names)} of {count} images: {shortlist(names)}")


def make_reader(predictor: Predictor) -> Callable[[MapJob], Photo | UserError]:
    """Returns a function that reads and prepares the image of a job. It returns the error of an unreadable image."""
    one_large_at_a_time = threading.Lock()

    def read(job: MapJob) -> Photo | UserError:
        path = job.item.path
        try:
            with open_image(path) as image:
                width, height = image.size
                # An MPO file of a camera has previews beside the photograph.
                several = image.format != "MPO" and getattr(image, "is_animated", False)
            with one_large_at_a_time if width * height > LARGE else nullcontext():
                picture = read_image(path)
                size = picture.height, picture.width
                if predictor.tile is not None and job.size is not None and job.size != size:
                    raise UserError(
                        f"{path} is {size[1]}x{size[0]}, its mask {job.size[1]}x{job.size[0]}; --tile needs equal sizes"
                    )
                notes = ImageNotes(job.item, rotated=size != (height, width), several=several)
                return predictor.prepare(picture, job.size, path, notes)
        except UserError as e:
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
