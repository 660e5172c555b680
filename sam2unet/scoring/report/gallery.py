"""Chooses the images of the gallery, so that the size of the page does not depend on the number of images."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..aggregate import MethodResult
from ..columns import Metric
from .pictures import BUDGET, PHOTOGRAPH, Row

PICTURE = 1000  # with fewer bytes of base64, a picture would show too little
NUMBERS = 4_000_000  # bytes of the values of images
FIRST = 1000  # images of which one has a photograph if there are photographs
VALUE, NAME = 10, 150  # bytes of a value; of the name of an image and of the elements around its pictures


class Gallery(NamedTuple):
    """The images of a data set that the page shows."""

    rows: list[Row]
    places: list[np.ndarray]  # for each method, (rows,): the position in `MethodResult.images`; -1 if it is not there
    total: int  # the number of all images of the data set


def choose_galleries(
    datasets: Sequence[Sequence[MethodResult]],
    keys: Sequence[str],
    ranking: Sequence[str],
    metrics: Mapping[str, Metric],
    limit: int | None,
) -> list[Gallery]:
    """Returns the gallery of each data set: all images, or the worst ones if there are more than fit, or than `limit`.

    With several methods, each of them adds its worst images.

    Args:
        keys: the metrics whose values are in the page.
        ranking: the metric that says which images are the worst; empty if there is none.
        limit: the largest number of images. None: as many as fit.
    """
    names = [list(dict.fromkeys(name for method in methods for name in method.images)) for methods in datasets]
    room = min(count_room(methods, len(keys)) for methods in datasets)
    room = room if limit is None else min(room, limit)
    total = sum(map(len, names))
    galleries = []
    for methods, images in zip(datasets, names, strict=True):
        share = len(images) if total <= room else max(1, room * len(images) // total)
        places = np.stack([locate_images(method, images) for method in methods])
        chosen = np.arange(share)
        if ranking and share < len(images):
            chosen = choose_worst(methods, places, ranking[0], metrics[ranking[0]].higher, share)
        galleries.append(make_gallery(methods, images, places[:, chosen], chosen))
    return galleries


def count_room(methods: Sequence[MethodResult], keys: int) -> int:
    """Returns how many images fit into the page."""
    photographs = any(file is not None for method in methods for file in islice(method.photographs, FIRST))
    pictures = 1 + PHOTOGRAPH * photographs + 2 * len(methods)
    return min(BUDGET // (PICTURE * pictures), NUMBERS // (NAME + VALUE * keys * len(methods)))


def locate_images(method: MethodResult, images: Sequence[str]) -> np.ndarray:
    """Returns the position of each image in `method.images`, int64. -1 if it is not there."""
    places = {name: i for i, name in enumerate(method.images)}
    return np.array([places.get(name, -1) for name in images], np.int64)


def choose_worst(methods: Sequence[MethodResult], places: np.ndarray, key: str, higher: bool, count: int) -> np.ndarray:
    """Returns the `count` images of the first ranks among the worst images of any method, in the order of the images.

    `places` is (methods, images). An image without a value comes last.
    """
    ranks = np.full(places.shape, places.shape[1])
    for rank, place, method in zip(ranks, places, methods, strict=True):
        if key in method.per_image:
            values = np.where(place >= 0, method.per_image[key][place], np.nan)
            rank[np.argsort(values if higher else -values, kind="stable")] = np.arange(len(place))
    return np.sort(np.argsort(ranks.min(0), kind="stable")[:count])


def make_gallery(
    methods: Sequence[MethodResult], images: Sequence[str], places: np.ndarray, chosen: np.ndarray
) -> Gallery:
    """Returns the rows of the `chosen` images. Predictions are in the order of `methods`."""
    rows = []
    for name, where in zip((images[int(i)] for i in chosen), places.T.tolist(), strict=True):
        m = next(m for m, i in enumerate(where) if i >= 0)  # the first method that has the image
        maps = [None if i < 0 else method.predictions[i] for method, i in zip(methods, where, strict=True)]
        rows.append(Row(name, methods[m].masks[where[m]], methods[m].photographs[where[m]], maps))
    return Gallery(rows, list(places), len(images))
