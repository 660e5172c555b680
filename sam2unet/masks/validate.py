"""Scores during training. They equal the scores of test.py and eval.py for the same weights."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor, nn

from ..classes import Classes
from ..data.images.masks import read_mask
from ..data.images.pictures import draw_overview, pick_evenly
from ..data.images.reading import read_image
from ..data.pairs import Pair
from ..errors import UserError
from ..recipe import ForegroundRule, MaskRule
from ..runtime.device import evaluation_copy
from ..runtime.parallel import batched, prefetch
from ..runtime.processes import ALONE, Processes
from ..scoring.aggregate import MethodResult
from ..scoring.chunks import choose_block, join_scores
from ..scoring.classes.confusion import count_confusion, count_pixels
from ..scoring.score_folders import fill_, warn_undefined
from ..scoring.score_pair import ImageScore, ScoreOptions, score_arrays
from .prediction.predictor import Photo, Predictor
from .prediction.probability import pick_classes, stretch_range, to_uint8

Score = TypeVar("Score")
THREADS = 4  # threads that read and score; with one thread, a GPU would wait
# images per process between two exchanges of scores; the curves of all images would fill the memory
ROUND = 16


def validate(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_threshold: ForegroundRule = None,
    processes: Processes = ALONE,
) -> MethodResult:
    """Predicts maps for `pairs` at `size` and returns their scores, in the order of the pairs.

    With several processes, every process must call this function. Each process predicts its part. All processes return
    the same numbers, bit for bit those of a single process. If a file cannot be read, all raise UserError.
    """
    masks = [pair.mask for pair in pairs]
    result = MethodResult("validation", "", [mask.stem for mask in masks], masks=masks)

    def score(prediction: np.ndarray, mask: np.ndarray) -> ImageScore:
        return score_arrays(prediction, mask, ScoreOptions(mask_threshold), ())

    with ThreadPoolExecutor(THREADS) as pool:
        share = pairs[processes.rank :: processes.world]
        scores = score_maps(evaluation_copy(model), share, size, mask_threshold, pool, score)
        block = choose_block(len(pairs))
        exchanged = processes.exchange(scores, len(pairs), ROUND)
        blocks = batched(map(to_problem, exchanged), block)
        fill_(result, (join_scores(part, block) for part in blocks))
    if processes.first:
        warn_undefined(result)
    return result


def to_problem(score: ImageScore | UserError) -> ImageScore:
    """Returns a score with a problem for an error."""
    return ImageScore({}, {}, problem="unreadable", detail=str(score)) if isinstance(score, UserError) else score


def count_validation_classes(
    model: nn.Module, pairs: Sequence[Pair], size: int, classes: Classes, processes: Processes
) -> np.ndarray:
    """Predicts maps for `pairs` at `size`. Returns their pixels, int64 (N, 3, C); see `scoring.classes.confusion`.

    Several processes share the work, as in `validate`.
    """
    share = pairs[processes.rank :: processes.world]

    def score(prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return count_pixels(count_confusion(prediction, mask, len(classes.items)))

    with ThreadPoolExecutor(THREADS) as pool:
        scores = score_maps(evaluation_copy(model), share, size, classes, pool, score)
        counts = list(processes.exchange(scores, len(pairs), ROUND))
    if errors := [item for item in counts if isinstance(item, UserError)]:
        raise errors[0]
    return np.stack([item for item in counts if not isinstance(item, UserError)])


def score_maps(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_rule: MaskRule,
    pool: ThreadPoolExecutor,
    score: Callable[[np.ndarray, np.ndarray], Score],
) -> Iterator[Score | UserError]:
    """Yields `score(map, mask)` of each pair, in order, or its error, which `exchange` gives to all processes.

    The pool reads the next pairs and scores the last maps while the model predicts.
    """
    predictor = Predictor.from_model(model, size)

    def read(pair: Pair) -> Photo | UserError:
        try:
            picture, mask = read_image(pair.image), read_mask(pair.mask, mask_rule)
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
                    yield to_map(probability), photo.source
            except UserError as e:
                yield e

    def score_next(arrays: tuple[np.ndarray, np.ndarray] | UserError) -> Score | UserError:
        return arrays if isinstance(arrays, UserError) else score(*arrays)

    return prefetch(pool, score_next, predict_next(), THREADS)


def to_map(probability: Tensor) -> np.ndarray:
    """Probabilities -> the 8-bit map (height, width): grey levels of (height, width), classes of (C, height, width)."""
    return pick_classes(probability) if probability.ndim == 3 else to_uint8(stretch_range(probability))


def draw_validation(
    model: nn.Module,
    pairs: Sequence[Pair],
    size: int,
    mask_rule: MaskRule,
    path: Path,
    rows: int = 8,
    side: int = 160,
) -> None:
    """Writes a PNG with rows of image, mask and map. It shows the same pairs every time. Classes have their colours."""
    predictor = Predictor.from_model(evaluation_copy(model), size)

    def make_row(pair: Pair) -> tuple[Image.Image, Image.Image, Image.Image]:
        photo, mask = read_image(pair.image), read_mask(pair.mask, mask_rule)
        drawn = [np.asarray(mask), to_map(predictor.predict_photo(photo, mask.size[::-1]))]
        if isinstance(mask_rule, Classes):
            drawn = [mask_rule.palette[indices] for indices in drawn]
        return photo, Image.fromarray(drawn[0]), Image.fromarray(drawn[1])

    draw_overview(map(make_row, pick_evenly(pairs, rows)), path, side)
