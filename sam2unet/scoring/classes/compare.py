"""Compares methods on several classes by a paired bootstrap and a paired permutation test over images."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..compare import Difference, add_corrections, compute_p_values, compute_percentiles, draw_swaps, draw_weights
from .confusion import score_classes
from .score_folders import ClassResult


def compare_classes(results: list[ClassResult], columns: Sequence[str], others: Iterable[str] = ()) -> list[Difference]:
    """Compares each method with the first method of its data set, on the images that both have.

    Each resample of the images gives its own pixels of the data set, and so its own value of each column. `columns`
    and `others` are those of `compare`.
    """
    keys = list(dict.fromkeys([*columns, *others]))
    differences = []
    baselines: dict[str, ClassResult] = {}
    for r in results:
        baseline = baselines.setdefault(r.dataset, r)
        places = [{image: i for i, image in enumerate(method.images)} for method in (r, baseline)]
        images = [image for image in baseline.images if image in places[0]]
        if r is baseline or not images:
            continue
        pair = []
        for m, place in zip((r, baseline), places, strict=True):
            chosen = [place[image] for image in images]
            pair.append((m.counts[chosen], None if m.surfaces is None else m.surfaces[chosen]))
        left_out = len(set(r.images) | set(baseline.images)) - len(images)
        numbers = zip(
            keys,
            *bootstrap_classes(pair, keys, r.classes.names),
            permute_classes(pair, keys, r.classes.names),
            strict=True,
        )
        metrics = r.define_columns()
        for key, mean, low, high, p in numbers:
            names = (r.dataset, r.method, baseline.method, key, metrics[key])
            counts = (len(images), left_out)
            differences.append(Difference(*names, float(mean), float(low), float(high), *counts, float(p)))
    return add_corrections(differences, columns)


def bootstrap_classes(
    pair: Sequence[tuple[np.ndarray, np.ndarray | None]], columns: Sequence[str], names: Sequence[str]
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


def permute_classes(
    pair: Sequence[tuple[np.ndarray, np.ndarray | None]], columns: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """Returns the p-values of `columns`, (K,), of a paired permutation test. `pair` is that of `bootstrap_classes`.

    If the methods are equal, each image could as well swap its two maps. Each pattern of swaps is a data set of its
    own for both methods.
    """
    count = len(pair[0][0])
    counts = np.concatenate([counts for counts, _ in pair])
    both = [surfaces for _, surfaces in pair if surfaces is not None]
    surfaces = np.concatenate(both) if both else None

    def subtract(kept: np.ndarray) -> np.ndarray:
        weights = np.concatenate([kept, 1 - kept], axis=1)  # of the images of the method, then of its baseline
        method, baseline = (score_classes(counts, names, w, surfaces) for w in (weights, 1 - weights))
        return np.stack([method[key] - baseline[key] for key in columns], axis=1)

    values = np.concatenate([subtract(kept) for kept in draw_swaps(count, max(2 * count, 3 * len(names)))])
    return compute_p_values(values, np.isnan(values[0]) | (count < 2))
