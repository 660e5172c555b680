"""Which differences between methods are more than noise: a bootstrap over the images, paired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import printable
from .columns import METRICS
from .csv_files import PER_IMAGE, json_number
from .results import MethodResult
from .tables import aligned, decimals

RESAMPLES, SEED = 10_000, 0
BLOCK = 2_000_000  # images drawn at a time, 16 MB per array


@dataclass(frozen=True)
class Difference:
    """Mean of method - baseline over `images` images, with its 95 % interval; NaN where there is none.

    `left_out` images have no number in one of the two.
    """

    dataset: str
    method: str
    baseline: str
    metric: str
    mean: float
    low: float
    high: float
    images: int
    left_out: int

    @property
    def verdict(self) -> str:
        """`better` or `worse` than the baseline where the interval excludes 0, else empty."""
        if not (self.low > 0 or self.high < 0):
            return ""
        return "better" if (self.mean > 0) == METRICS[self.metric].higher else "worse"


def compare(results: list[MethodResult], columns: Sequence[str]) -> list[Difference]:
    """Each data set's further methods against its first, in those of `columns` that are means over images."""
    differences, baselines = [], {}
    for r in results:
        baseline = baselines.setdefault(r.dataset, r)
        keys = [key for key in columns if key in PER_IMAGE and key in r.per_image and key in baseline.per_image]
        if r is baseline or not keys:
            continue
        images = list(dict.fromkeys([*baseline.images, *r.images]))
        deltas = by_image(r, keys, images) - by_image(baseline, keys, images)
        lows, highs = intervals(deltas)
        for key, values, low, high in zip(keys, deltas.T, lows, highs, strict=True):
            used = int(np.isfinite(values).sum())
            middle = float(np.nanmean(values)) if used else math.nan
            names = (r.dataset, r.method, baseline.method, key)
            differences.append(Difference(*names, middle, float(low), float(high), used, len(images) - used))
    return differences


def by_image(result: MethodResult, keys: list[str], images: list[str]) -> np.ndarray:
    """(images, keys), NaN where the result lacks the image."""
    rows = {image: i for i, image in enumerate(result.images)}
    order = np.array([rows.get(image, -1) for image in images])
    values = np.stack([result.per_image[key] for key in keys], axis=1)
    return np.where(order[:, None] >= 0, values[order], np.nan)


def intervals(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) -> 2.5 and 97.5 percentiles, (K,) each, of the mean of N images drawn with replacement, NaN left out.

    Every column sees the same draws. NaN for a column with fewer than two numbers, of which no spread can be known.
    """
    count = len(deltas)
    defined = ~np.isnan(deltas)
    both = np.concatenate([np.where(defined, deltas, 0), defined], axis=1)  # sums and counts in one product
    rng = np.random.default_rng(SEED)
    means = []
    step = max(1, BLOCK // count)
    for start in range(0, RESAMPLES, step):
        block = min(step, RESAMPLES - start)
        drawn = rng.integers(0, count, (block, count)) + count * np.arange(block)[:, None]
        times = np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count)
        sums, counts = np.split(times.astype(float) @ both, 2, axis=1)
        means.append(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))
    few = defined.sum(0) < 2
    low, high = np.nanpercentile(np.where(few, 0, np.concatenate(means)), [2.5, 97.5], axis=0)
    return np.where(few, np.nan, low), np.where(few, np.nan, high)


def format_comparison(differences: list[Difference]) -> str:
    """An aligned table with a note on how to read it."""

    def signed(d: Difference, value: float) -> str:
        return "--" if math.isnan(value) else f"{value:+.{decimals(d.metric) + 1}f}"

    left = [
        ("dataset", [printable(d.dataset) for d in differences]),
        ("difference", [printable(f"{d.method} - {d.baseline}") for d in differences]),
        ("metric", [METRICS[d.metric].title for d in differences]),
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
        f"Paired bootstrap over images, {RESAMPLES} resamples. Without a word at its end, a line's interval holds 0:\n"
        "the difference may be chance in the choice of images. What another training run would change is not in it."
    )
    if any(d.images < 20 for d in differences):
        note += "\nOf fewer than 20 images an interval comes out too narrow."
    return f"{aligned(left, right)}\n\n{note}"


def as_dict(differences: list[Difference]) -> dict:
    """For JSON: by data set, method and metric; null where there is no number."""
    datasets: dict[str, dict] = {}
    for d in differences:
        dataset = datasets.setdefault(d.dataset, {"baseline": d.baseline, "methods": {}})
        dataset["methods"].setdefault(d.method, {})[d.metric] = {
            "difference": json_number(d.mean),
            "low": json_number(d.low),
            "high": json_number(d.high),
            "images": d.images,
            "left_out": d.left_out,
        }
    return {"level": 0.95, "resamples": RESAMPLES, "seed": SEED, "datasets": datasets}
