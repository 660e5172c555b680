"""Compares methods by a paired bootstrap over the images, which shows what may be chance."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import printable
from .aggregate import MethodResult
from .columns import METRICS, Metric
from .csv_files import PER_IMAGE, json_number
from .tables import align_columns

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

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the baseline; empty if the interval contains 0."""
        if not (self.low > 0 or self.high < 0):
            return ""
        return "better" if (self.mean > 0) == self.column.higher else "worse"


def compare(results: list[MethodResult], columns: Sequence[str]) -> list[Difference]:
    """Compares each method with the first method of its data set, in all `columns` that are means over images."""
    differences, baselines = [], {}
    for r in results:
        baseline = baselines.setdefault(r.dataset, r)
        keys = [key for key in columns if key in PER_IMAGE and key in r.per_image and key in baseline.per_image]
        if r is baseline or not keys:
            continue
        images = list(dict.fromkeys([*baseline.images, *r.images]))
        deltas = stack_values(r, keys, images) - stack_values(baseline, keys, images)
        lows, highs = bootstrap_intervals(deltas)
        for key, values, low, high in zip(keys, deltas.T, lows, highs, strict=True):
            used = int(np.isfinite(values).sum())
            mean = float(np.nanmean(values)) if used else math.nan
            names = (r.dataset, r.method, baseline.method, key, METRICS[key])
            differences.append(Difference(*names, mean, float(low), float(high), used, len(images) - used))
    return differences


def stack_values(result: MethodResult, keys: list[str], images: list[str]) -> np.ndarray:
    """Returns (images, keys); NaN if the result does not have the image."""
    rows = {image: i for i, image in enumerate(result.images)}
    order = np.array([rows.get(image, -1) for image in images])
    values = np.stack([result.per_image[key] for key in keys], axis=1)
    return np.where(order[:, None] >= 0, values[order], np.nan)


def bootstrap_intervals(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) -> 2.5 and 97.5 percentiles, (K,) each, of the mean of N images drawn with replacement.

    Means leave out NaN. All columns use the same draws. A column with fewer than two numbers has no interval: NaN.
    """
    count = len(deltas)
    defined = ~np.isnan(deltas)
    both = np.concatenate([np.where(defined, deltas, 0), defined], axis=1)  # sums and counts in one product
    means = []
    for times in draw_weights(count, count):
        sums, counts = np.split(times @ both, 2, axis=1)
        means.append(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))
    return compute_percentiles(np.concatenate(means), defined.sum(0) < 2)


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


def format_comparison(differences: list[Difference]) -> str:
    """Returns an aligned table with a note that explains it."""

    def signed(d: Difference, value: float) -> str:
        return "--" if math.isnan(value) else f"{value:+.{d.column.digits + 1}f}"

    left = [
        ("dataset", [printable(d.dataset) for d in differences]),
        ("difference", [printable(f"{d.method} - {d.baseline}") for d in differences]),
        ("metric", [printable(d.column.title) for d in differences]),
    ]
    right = [
        ("images", [str(d.images) for d in differences]),
        ("left out", [str(d.left_out) for d in differences]),
        ("mean", [signed(d, d.mean) for d in differences]),
        ("95 % interval", [f"[{signed(d, d.low)}, {signed(d, d.high)}]" for d in differences]),
        ("", [d.verdict.ljust(len("better")) for d in differences]),
    ]
    if not any(d.left_out for d in differences):
        del right[1]
    note = (
        f"Paired bootstrap over images, {RESAMPLES} resamples. If no word ends a line, its interval contains 0:\n"
        "the difference may be chance in the choice of images. The interval ignores what another training run would\n"
        "change."
    )
    if any(d.images < 20 for d in differences):
        note += "\nWith fewer than 20 images, the interval is too narrow."
    return f"{align_columns(left, right)}\n\n{note}"


def to_json_dict(differences: list[Difference]) -> dict:
    """Returns the differences by data set, method and metric for JSON; None if a number is not defined."""
    datasets: dict[str, dict] = {}
    for d in differences:
        dataset = datasets.setdefault(d.dataset, {"baseline": d.baseline, "methods": {}})
        numbers = {"difference": json_number(d.mean), "low": json_number(d.low), "high": json_number(d.high)}
        counts = {"images": d.images, "left_out": d.left_out}
        dataset["methods"].setdefault(d.method, {})[d.metric] = numbers | counts
    return {"level": 0.95, "resamples": RESAMPLES, "seed": SEED, "datasets": datasets}
