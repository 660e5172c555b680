"""Compares methods by a paired bootstrap and a paired permutation test over images, which show what may be chance."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from .aggregate import MethodResult
from .columns import METRICS, Metric
from .tables.csv_files import PER_IMAGE

RESAMPLES, SEED = 10_000, 0
BLOCK = 2_000_000  # random images in one step, which need 16 MB per array


@dataclass(frozen=True)
class Difference:
    """The mean of (method - baseline), with its 95 % interval. A number that is not defined is NaN."""

    dataset: str
    method: str
    baseline: str
    metric: str  # the key of the column
    column: Metric
    mean: float
    low: float
    high: float
    images: int  # the number of images in the mean
    left_out: int  # the number of images where the metric is not defined for one of the two
    p: float = math.nan  # of the permutation test
    p_holm: float = math.nan  # `p` with Holm's correction over the metrics of the printed table

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the baseline; empty if the interval contains 0."""
        if not (self.low > 0 or self.high < 0):
            return ""
        return "better" if (self.mean > 0) == self.column.higher else "worse"


def compare(results: Sequence[MethodResult], columns: Sequence[str], others: Iterable[str] = ()) -> list[Difference]:
    """Compares each method with the first method of its data set, in all metrics that are means over images.

    `columns` are the metrics of the printed table. Holm's correction counts them, and not the `others`.
    """
    differences = []
    baselines: dict[str, MethodResult] = {}
    for r in results:
        baseline = baselines.setdefault(r.dataset, r)
        metrics = dict.fromkeys([*columns, *others])
        keys = [key for key in metrics if key in PER_IMAGE and key in r.per_image and key in baseline.per_image]
        if r is baseline or not keys:
            continue
        images = list(dict.fromkeys([*baseline.images, *r.images]))
        deltas = stack_values(r, keys, images) - stack_values(baseline, keys, images)
        numbers = zip(keys, deltas.T, *bootstrap_intervals(deltas), permute_methods(deltas), strict=True)
        for key, values, low, high, p in numbers:
            used = int(np.isfinite(values).sum())
            mean = float(np.nanmean(values)) if used else math.nan
            names = (r.dataset, r.method, baseline.method, key, METRICS[key])
            counts = (used, len(images) - used)
            differences.append(Difference(*names, mean, float(low), float(high), *counts, float(p)))
    return add_corrections(differences, columns)


def stack_values(result: MethodResult, keys: list[str], images: list[str]) -> np.ndarray:
    """Returns (images, keys); NaN if the result does not have the image."""
    rows = {image: i for i, image in enumerate(result.images)}
    order = np.array([rows.get(image, -1) for image in images])
    values = np.stack([result.per_image[key] for key in keys], axis=1)
    return np.where(order[:, None] >= 0, values[order], np.nan)


def bootstrap_intervals(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) -> 2.5 and 97.5 percentiles, (K,) each, of `bootstrap_means`.

    A column with fewer than two numbers has no interval: NaN.
    """
    return compute_percentiles(bootstrap_means(deltas), np.isfinite(deltas).sum(0) < 2)


def bootstrap_means(values: np.ndarray) -> np.ndarray:
    """(N, K) -> (`RESAMPLES`, K), the means of N images that are drawn with replacement.

    Means leave out NaN. All columns use the same draws.
    """
    defined = ~np.isnan(values)
    both = np.concatenate([np.where(defined, values, 0), defined], axis=1)  # sums and counts in one product
    means = []
    for times in draw_weights(len(values), len(values)):
        sums, counts = np.split(times @ both, 2, axis=1)
        means.append(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))
    return np.concatenate(means)


def draw_weights(count: int, width: int) -> Iterator[np.ndarray]:
    """Yields the resamples in blocks (R, count): how often each image is drawn. A block has `BLOCK` / `width` rows."""
    rng = np.random.default_rng(SEED)
    step = max(1, BLOCK // width)
    for start in range(0, RESAMPLES, step):
        block = min(step, RESAMPLES - start)
        draws = rng.integers(0, count, (block, count)) + count * np.arange(block)[:, None]
        yield np.bincount(draws.ravel(), minlength=block * count).reshape(block, count).astype(float)


def compute_percentiles(values: np.ndarray, few: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, K) -> 2.5 and 97.5 percentiles, (K,) each. Columns with too `few` images have NaN."""
    low, high = np.nanpercentile(np.where(few, 0, values), [2.5, 97.5], axis=0)
    return np.where(few, np.nan, low), np.where(few, np.nan, high)


def permute_methods(deltas: np.ndarray) -> np.ndarray:
    """(N, K) differences of images -> (K,) p-values of a paired permutation test of the mean, two-sided.

    If the methods are equal, each difference could as well have the other sign. Returns the share of the patterns of
    signs whose mean is at least as far from 0 as the measured mean. NaN is left out.
    """
    values = np.nan_to_num(deltas)  # 0 changes no sum
    sums = [2 * (kept @ values) - values.sum(0) for kept in draw_swaps(len(deltas), len(deltas))]
    return compute_p_values(np.concatenate(sums), np.isfinite(deltas).sum(0) < 2)


def draw_swaps(count: int, width: int) -> Iterator[np.ndarray]:
    """Yields patterns in blocks (R, count): 1 if an image keeps its methods, 0 if it swaps them.

    The first pattern swaps nothing. Up to 13 images have at most `RESAMPLES` patterns: each comes once. With more
    images, `RESAMPLES` - 1 random patterns follow the first. A block has `BLOCK` / `width` rows.
    """
    rng = np.random.default_rng(SEED)
    total, step = min(2**count, RESAMPLES), max(1, BLOCK // width)
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        if 2**count <= RESAMPLES:
            yield (~rows[:, None] >> np.arange(count) & 1).astype(float)
        else:
            kept = rng.integers(0, 2, (len(rows), count), np.uint8).astype(float)
            kept[rows == 0] = 1
            yield kept


def compute_p_values(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """(R, K) of which the first row is measured -> (K,), the share of rows that are as far from 0 as the first.

    Leaves out NaN. Columns with too `few` images have NaN.
    """
    sizes = np.abs(np.where(few, 0, values))
    tolerance = 1e-12 * np.nanmax(sizes, axis=0)  # equal sums may differ by rounding
    return np.where(few, np.nan, (sizes >= sizes[0] - tolerance).sum(0) / np.isfinite(sizes).sum(0))


def add_corrections(differences: list[Difference], columns: Sequence[str]) -> list[Difference]:
    """Adds Holm's p-values to the differences of `columns`. Each pair of methods has a correction of its own."""
    corrected = []
    for _, group in groupby(differences, lambda d: (d.dataset, d.method)):
        pair = list(group)
        keys = [d.metric for d in pair if d.metric in columns]
        values = correct_holm(np.array([d.p for d in pair if d.metric in columns]))
        by_key = dict(zip(keys, values.tolist(), strict=True))
        corrected += [replace(d, p_holm=by_key.get(d.metric, math.nan)) for d in pair]
    return corrected


def correct_holm(values: np.ndarray) -> np.ndarray:
    """(K,) p-values -> (K,) with the step-down correction of Holm (1979). NaN stays and does not count."""
    order = np.argsort(values)  # NaN is last
    factors = np.isfinite(values).sum() - np.arange(len(values))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return corrected
