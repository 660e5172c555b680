"""Scores during training: those that test.py and eval.py would give the model as it is."""

from __future__ import annotations

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
from ..scoring.results import MethodResult
from ..scoring.score_folders import fill, warn_of_undefined
from ..scoring.score_pair import ImageScore, ScoreOptions, score_arrays
from .predictor import Predictor, predict_grey

THREADS = 4  # that decode and score; a GPU would wait for a single one
ROUND = 16  # images of each process between two exchanges of scores


def validate(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_threshold: ForegroundRule = None,
    rank: int = 0,
    world: int = 1,
) -> MethodResult:
    """Scores of the maps that the model predicts for `pairs`, in their order.

    With several processes all must call this; each predicts its part, and all return the same, to the last bit
    what one process alone would.

    Args:
        size: side that the model is trained at.
        mask_threshold: which mask values are foreground; None for 0/255 masks.
        rank, world: which of how many processes this is.

    Raises:
        UserError: a file cannot be read any more; in every process.
    """
    result = MethodResult(
        dataset="validation",
        method="",
        images=[pair.mask.stem for pair in pairs],
        predictions=[None] * len(pairs),
        masks=[pair.mask for pair in pairs],
        photographs=[pair.image for pair in pairs],
        per_image={},
        curves={},
    )
    with ThreadPoolExecutor(THREADS) as pool:
        own = score_maps(evaluation_copy(model), pairs[rank::world], size, mask_threshold, pool)
        fill(result, exchange_scores(own, len(pairs), Processes(rank, world)))
    if rank == 0:
        warn_of_undefined(result)
    return result


def score_maps(
    model: nn.Module, pairs: Sequence[Pair], size: int, mask_threshold: ForegroundRule, pool: ThreadPoolExecutor
) -> Iterator[ImageScore]:
    """Of each pair, in order. The pool reads the next pairs and scores the last maps while the model predicts."""

    def read(pair: Pair) -> tuple[Image.Image, Image.Image] | UserError:
        try:
            return read_image(pair.image), read_mask(pair.mask, mask_threshold)
        except UserError as e:
            return e  # the other processes, which wait for this one's scores, shall hear of it

    def score(found: tuple[np.ndarray, np.ndarray] | UserError) -> ImageScore:
        if isinstance(found, UserError):
            return ImageScore({}, {}, problem="unreadable", detail=str(found))
        return score_arrays(*found, ScoreOptions(mask_threshold), ())

    predictor = Predictor.of(model, size)

    def predicted() -> Iterator[tuple[np.ndarray, np.ndarray] | UserError]:
        for pair, found in zip(pairs, prefetch(pool, read, pairs, THREADS), strict=True):
            if isinstance(found, UserError):
                yield found
                continue
            photo, mask = found
            try:
                yield predict_grey(predictor, photo, mask.size[::-1], pair.image), np.asarray(mask)
            except UserError as e:
                yield e

    return prefetch(pool, score, predicted(), THREADS)


def exchange_scores(own: Iterator[ImageScore], count: int, processes: Processes) -> Iterator[ImageScore]:
    """All processes' scores, in the order of all `count` pairs, a few at a time, so that memory holds few curves."""
    for start in range(0, count, ROUND * processes.world):
        mine = len(range(start + processes.rank, min(start + ROUND * processes.world, count), processes.world))
        parts = processes.gather([next(own) for _ in range(mine)])
        for place in range(min(ROUND * processes.world, count - start)):
            yield parts[place % processes.world][place // processes.world]


def draw_validation(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_threshold: ForegroundRule,
    path: Path,
    rows: int = 8,
    side: int = 160,
) -> None:
    """A PNG with rows of image | mask | map, the same pairs every time; UserError where it cannot be written."""

    predictor = Predictor.of(evaluation_copy(model), size)

    def row(pair: Pair) -> tuple[Image.Image, Image.Image, Image.Image]:
        photo, mask = read_image(pair.image), read_mask(pair.mask, mask_threshold)
        return photo, mask, Image.fromarray(predict_grey(predictor, photo, mask.size[::-1]))

    draw_overview(map(row, pick_evenly(pairs, rows)), path, side)
