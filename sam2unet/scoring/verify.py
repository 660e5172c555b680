"""Scores random pairs again with py-sod-metrics and compares the numbers."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .results import MethodResult
from .score_pair import ScoreJob, ScoreOptions, score_job

BOUNDS = {"Fw": 1e-5}  # if several foreground pixels are equally near, the library may use any of them
BOUND = 1e-6


def verify(results: Sequence[MethodResult], how: ScoreOptions, count: int, seed: int = 0) -> str:
    """Compares `count` random pairs. Returns a line with the largest difference.

    Raises UserError if a difference is larger than its bound.
    """
    pairs = [(result, i) for result in results for i in range(len(result.images))]
    sample = np.random.default_rng(seed).permutation(len(pairs))[:count]
    library = dataclasses.replace(how, library=True)
    largest, where = 0.0, ""
    for result, i in (pairs[j] for j in sample):
        theirs = score_job(ScoreJob(result.predictions[i], result.masks[i], library)).numbers
        for key, value in theirs.items():
            ours = result.per_image[key][i]
            gap = 0.0 if np.isnan(value) and np.isnan(ours) else abs(ours - value)
            if not gap <= BOUNDS.get(key, BOUND):
                raise UserError(
                    f"{key} of {result.masks[i].name} is {ours!r}, but py-sod-metrics computes {value!r}; "
                    "report this pair, and score with --backend pysodmetrics"
                )
            if gap > largest:
                largest, where = gap, f" ({key} of {result.masks[i].name})"
    return f"verified {len(sample)} pairs with py-sod-metrics: largest difference {largest:.1e}{where}"
