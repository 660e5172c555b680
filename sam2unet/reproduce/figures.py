"""The figures of a study: means over seeds, intervals over images, and the published figures beside them."""

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..recipe import ForegroundRule
from ..scoring.aggregate import CURVE_METRICS, MethodResult, average_scores
from ..scoring.columns import METRICS, PROTOCOLS
from ..scoring.compare import RESAMPLES, bootstrap_means, compute_percentiles, draw_weights
from ..scoring.expected import Figures, find_figures
from ..scoring.match import Entry, match_predictions
from ..scoring.score_folders import fill_, score_pairs
from ..scoring.score_pair import ImageScore, ScoreJob, ScoreOptions, score_job
from ..scoring.tables.csv_files import read_per_image_csv
from ..scoring.tables.score_tables import format_value
from .study import SeedRun, StudyInputs

FEW = 20  # with fewer images, a bootstrap interval is too narrow


class Figure(NamedTuple):
    """A number of the result: one metric on one data set. NaN if a number is not defined."""

    dataset: str
    metric: str  # key of `METRICS`
    images: int
    seeds: tuple[float, ...]  # the number of each seed
    mean: float
    std: float  # sample standard deviation over the seeds; NaN for one seed
    # low and high: the 95 % interval of the mean, by a bootstrap over the images
    low: float
    high: float
    published: float | None

    @property
    def place(self) -> str:
        """Where the published figure lies: `inside`, `above` or `below` the interval. Empty if one is not known.

        Compares the numbers as printed, because the published figure is rounded too.
        """
        if self.published is None or math.isnan(self.low):
            return ""
        published, low, high = (self.round(value) for value in (self.published, self.low, self.high))
        return "above" if published > high else "below" if published < low else "inside"

    def round(self, value: float) -> float:
        return float(format_value(METRICS[self.metric], value))

    def format(self, value: float | None, digits: int = 0) -> str:
        """Returns a cell of a table, with `digits` more than the metric has."""
        metric = METRICS[self.metric]
        return "--" if value is None else format_value(metric._replace(digits=metric.digits + digits), value)


def read_results(inputs: StudyInputs, run: SeedRun) -> list[MethodResult]:
    """Returns the scores of a seed on each test set, as eval.py wrote them.

    For metrics that are maxima of curves, scores the maps again, because their intervals need the curves of images.
    """
    if not set(PROTOCOLS[inputs.study.protocol]) & set(CURVE_METRICS):
        return read_per_image_csv(run.folder / "scores/per_image.csv")
    sets = zip(inputs.study.test, run.maps, inputs.test, strict=True)
    entries = [Entry(name, run.title, maps, path / "masks") for name, maps, path in sets]
    return score_again(entries, inputs.study.protocol, inputs.rule)


def score_again(entries: Sequence[Entry], protocol: str, rule: ForegroundRule) -> list[MethodResult]:
    """Scores maps as eval.py does, without its warnings. Keeps the curves that the intervals of `protocol` need."""
    columns = PROTOCOLS[protocol]
    names = {name for key in columns for name in CURVE_METRICS.get(key, ())}
    how = ScoreOptions.choose(columns, mask_threshold=rule)
    results = [match_predictions(entry, "error") for entry in entries]
    with score_pairs(partial(score_curves, names), results, how, None) as scores:
        for result in results:
            fill_(result, scores)
            result.image_curves = {name: result.per_image.pop(f"curve {name}") for name in names}
    return results


def score_curves(names: Collection[str], job: ScoreJob) -> ImageScore:
    """Scores a pair. Its numbers also have its curves of these names."""
    score = score_job(job)
    return score._replace(numbers=score.numbers | {f"curve {name}": score.curves.get(name) for name in names})


def summarize(results: Sequence[Sequence[MethodResult]], protocol: str, published: Figures) -> list[Figure]:
    """Returns a figure for each data set and column. `results` has for each seed the scores on the same data sets."""
    figures = []
    for runs in zip(*results, strict=True):
        name, count = runs[0].dataset, len(runs[0].images)
        known = find_figures(published, name)
        for key in PROTOCOLS[protocol]:
            seeds = tuple(run.table[key] for run in runs)
            std = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else math.nan
            low, high = compute_interval(runs, key)
            figures.append(Figure(name, key, count, seeds, float(np.mean(seeds)), std, low, high, known.get(key)))
    return figures


def compute_interval(runs: Sequence[MethodResult], key: str) -> tuple[float, float]:
    """Returns the 95 % interval of a figure that is averaged over seeds. All seeds draw the same images."""
    if key not in CURVE_METRICS:
        scores = np.stack([run.per_image[key] for run in runs], axis=1)  # NaN may be in other images for each seed
        means = bootstrap_means(scores).mean(axis=1, keepdims=True)
        low, high = compute_percentiles(means, np.array([(np.isfinite(scores).sum(0) < 2).any()]))
        return float(low[0]), float(high[0])
    names, count, maxima = CURVE_METRICS[key], len(runs[0].images), []
    for times in draw_weights(count, max(count, 256)):  # a row of curves has 256 numbers
        total = np.zeros(len(times))
        for run in runs:
            rows = zip(*(times @ run.image_curves[name] / count for name in names), strict=True)
            total += [average_scores({}, dict(zip(names, row, strict=True)))[key] for row in rows]
        maxima.append(total / len(runs))
    low, high = compute_percentiles(np.concatenate(maxima)[:, None], np.array([count < 2]))
    return float(low[0]), float(high[0])


def explain_figures(figures: Sequence[Figure], seeds: Sequence[int]) -> list[str]:
    """Returns sentences: what the columns mean, and where the published figures lie."""
    lines = [
        f"95 % interval: of the mean, by a bootstrap over the test images ({RESAMPLES} resamples). It shows what other "
        "test images could change."
    ]
    if len(seeds) > 1:
        lines.append(f"mean and std: over {len(seeds)} trainings, with the seeds {', '.join(map(str, seeds))}.")
    else:
        lines.append(f"mean: of one training, with the seed {seeds[0]}. Give --seeds 3 to see what a seed changes.")
    if any(figure.images < FEW for figure in figures):
        lines.append(f"With fewer than {FEW} images, an interval is too narrow.")
    known = [figure for figure in figures if figure.place]
    if not known:
        return [*lines, "No published figure is known for these data sets and metrics."]
    inside = sum(figure.place == "inside" for figure in known)
    lines.append(f"The published figure lies inside the interval for {inside} of {len(known)} figures.")
    for place, word in (("above", "higher than"), ("below", "lower than")):
        if names := [f"{f.dataset} {METRICS[f.metric].title}" for f in known if f.place == place]:
            lines.append(f"It is {word} the interval for {', '.join(names)}.")
    return lines
