"""Scores during training. They equal the scores of test.py and eval.py for the same weights."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from ..data.pairs import Pair
from ..data.pictures import draw_overview, pick_evenly
from ..data.reading import read_image, read_mask
from ..errors import UserError
from ..recipe import ForegroundRule
from ..runtime.device import evaluation_copy
from ..runtime.parallel import prefetch
from ..runtime.processes import Processes
from ..scoring.aggregate import MethodResult
from ..scoring.score_folders import fill_, warn_undefined
from ..scoring.score_pair import ImageScore, ScoreOptions, score_arrays
from .predictor import Photo, Predictor, predict_grey, stretch_range, to_uint8

THREADS = 4  # threads that read and score; with one thread, a GPU would wait
ROUND = 16  # images per process between two exchanges of scores


def validate(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_threshold: ForegroundRule = None,
    rank: int = 0,
    world: int = 1,
) -> MethodResult:
    """Predicts maps for `pairs` at `size` and returns their scores, in the order of the pairs.

    With several processes, every process must call this function. Each process predicts its part. All processes return
    the same numbers, bit for bit those of a single process. If a file cannot be read, all raise UserError.
    """
    masks = [pair.mask for pair in pairs]
    result = MethodResult("validation", "", [mask.stem for mask in masks], masks=masks)
    with ThreadPoolExecutor(THREADS) as pool:
        scores = score_maps(evaluation_copy(model), pairs[rank::world], size, mask_threshold, pool)
        fill_(result, exchange_scores(scores, len(pairs), Processes(rank, world)))
    if rank == 0:
        warn_undefined(result)
    return result


def score_maps(
    model: nn.Module, pairs: Sequence[Pair], size: int, mask_threshold: ForegroundRule, pool: ThreadPoolExecutor
) -> Iterator[ImageScore]:
    """Yields the scores of each pair, in order. An error becomes a score with a problem, for `exchange_scores`.

    The pool reads the next pairs and scores the last maps while the model predicts.
    """
    predictor = Predictor.from_model(model, size)

    def read(pair: Pair) -> Photo | UserError:
        try:
            picture, mask = read_image(pair.image), read_mask(pair.mask, mask_threshold)
            return predictor.prepare(picture, mask.size[::-1], pair.image, source=np.asarray(mask))
        except UserError as e:
            return e

    def predict_next() -> Iterator[tuple[np.ndarray, np.ndarray] | UserError]:
        for photo in prefetch(pool, read, pairs, THREADS):
            if isinstance(photo, UserError):
                yield photo
                continue
            try:
                for _, probability in predictor.predict([photo]):
                    yield to_uint8(stretch_range(probability)), photo.source
            except UserError as e:
                yield e

    def score(arrays: tuple[np.ndarray, np.ndarray] | UserError) -> ImageScore:
        if isinstance(arrays, UserError):
            return ImageScore({}, {}, problem="unreadable", detail=str(arrays))
        return score_arrays(*arrays, ScoreOptions(mask_threshold), ())

    return prefetch(pool, score, predict_next(), THREADS)


def exchange_scores(scores: Iterator[ImageScore], count: int, processes: Processes) -> Iterator[ImageScore]:
    """Yields the scores of all processes, in the order of all `count` pairs.

    The processes exchange a few scores at a time, because the curves of all images would fill the memory.
    """
    for start in range(0, count, ROUND * processes.world):
        share = len(range(start + processes.rank, min(start + ROUND * processes.world, count), processes.world))
        parts = processes.gather([next(scores) for _ in range(share)])
        for index in range(min(ROUND * processes.world, count - start)):
            yield parts[index % processes.world][index // processes.world]


def draw_validation(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_threshold: ForegroundRule,
    path: Path,
    rows: int = 8,
    side: int = 160,
) -> None:
    """Writes a PNG with rows of image, mask and map. It shows the same pairs every time."""
    predictor = Predictor.from_model(evaluation_copy(model), size)

    def make_row(pair: Pair) -> tuple[Image.Image, Image.Image, Image.Image]:
        photo, mask = read_image(pair.image), read_mask(pair.mask, mask_threshold)
        return photo, mask, Image.fromarray(predict_grey(predictor, photo, mask.size[::-1]))

    draw_overview(map(make_row, pick_evenly(pairs, rows)), path, side)
