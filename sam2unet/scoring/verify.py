"""Re-scores some pairs with py-sod-metrics alone and holds the evaluator's numbers against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .results import MethodResult
from .score_pair import ScoreJob, ScoreOptions, score_job

BOUNDS = {"Fw": 1e-5}  # where several foreground pixels are equally near, the library's choice among them is open
BOUND = 1e-6


def verify(results: Sequence[MethodResult], how: ScoreOptions, count: int, seed: int = 0) -> str:
    """A line with the largest difference over `count` random pairs; UserError if one is over its bound."""
    pairs = [(result, i) for result in results for i in range(len(result.images))]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    library = dataclasses.replace(how, library=True)
    worst, where = 0.0, ""
    for result, i in (pairs[j] for j in chosen):
        theirs = score_job(ScoreJob(result.predictions[i], result.masks[i], library)).numbers
        for key, value in theirs.items():
            ours = result.per_image[key][i]
            off = 0.0 if np.isnan(value) and np.isnan(ours) else abs(ours - value)
            if not off <= BOUNDS.get(key, BOUND):
                raise UserError(
                    f"{key} of {result.masks[i].name} is {ours!r}, by py-sod-metrics {value!r}; "
                    "report this pair, and score with --backend pysodmetrics"
                )
            if off > worst:
                worst, where = off, f" ({key} of {result.masks[i].name})"
    return f"verified {len(chosen)} pairs with py-sod-metrics: largest difference {worst:.1e}{where}"
