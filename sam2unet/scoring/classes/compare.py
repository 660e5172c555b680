"""Compares methods on several classes by a paired bootstrap over images."""

from collections.abc import Sequence

import numpy as np

from ..compare import Difference, compute_percentiles, draw_weights
from .confusion import score_classes
from .score_folders import ClassResult


def compare_classes(results: list[ClassResult], columns: Sequence[str]) -> list[Difference]:
    """Compares each method with the first method of its data set, on the images that both have.

    Each resample of the images gives its own pixels of the data set, and so its own value of each column.
    """
    differences, baselines = [], {}
    for r in results:
        baseline = baselines.setdefault(r.dataset, r)
        places = [{image: i for i, image in enumerate(method.images)} for method in (r, baseline)]
        images = [image for image in baseline.images if image in places[0]]
        if r is baseline or not images:
            continue
        pair = [
            [None if array is None else array[[place[image] for image in images]] for array in (m.counts, m.surfaces)]
            for m, place in zip((r, baseline), places, strict=True)
        ]
        left_out = len(set(r.images) | set(baseline.images)) - len(images)
        means, lows, highs = bootstrap_classes(pair, columns, r.classes.names)
        metrics = r.define_columns()
        for key, mean, low, high in zip(columns, means, lows, highs, strict=True):
            names = (r.dataset, r.method, baseline.method, key, metrics[key])
            differences.append(Difference(*names, float(mean), float(low), float(high), len(images), left_out))
    return differences


def bootstrap_classes(
    pair: Sequence[Sequence[np.ndarray | None]], columns: Sequence[str], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the differences of `columns` and their bounds, (K,) each.

    `pair` has the counts (N, 3, C) and the surfaces (N, 7, C) of a method and of its baseline. Surfaces may be None.
    """
    count = len(pair[0][0])

    def subtract(weights: np.ndarray) -> np.ndarray:
        method, baseline = (score_classes(counts, names, weights, surfaces) for counts, surfaces in pair)
        return np.stack([method[key] - baseline[key] for key in columns], axis=1)

    values = np.concatenate([subtract(weights) for weights in draw_weights(count, max(count, 3 * len(names)))])
    (means,) = subtract(np.ones((1, count)))
    return means, *compute_percentiles(values, np.isnan(means) | (count < 2))
