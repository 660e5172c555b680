"""Means, standard deviations and intervals agree with numpy, and words say where the published figure lies."""

import math

import numpy as np
import pytest

from sam2unet.reproduce.figures import Figure, explain_figures, summarize
from sam2unet.scoring.aggregate import MethodResult

RNG = np.random.default_rng(5)
COUNT = 60


def bootstrap(statistic, times: int = 2000) -> np.ndarray:
    """2.5 and 97.5 percentiles of statistic(indices of images), with draws of its own."""
    rng = np.random.default_rng(11)
    values = [statistic(rng.integers(0, COUNT, COUNT)) for _ in range(times)]
    return np.percentile(values, [2.5, 97.5])


def make_results(scores: np.ndarray, keys: list[str]) -> list[list[MethodResult]]:
    """For each seed the scores (seeds, keys, images) of one data set."""
    names = [f"i{i}" for i in range(COUNT)]
    tables = [dict(zip(keys, values, strict=True)) for values in scores]
    return [
        [MethodResult("CAMO", "m", names, per_image=t, table={key: float(np.nanmean(v)) for key, v in t.items()})]
        for t in tables
    ]


def test_mean_and_std_over_seeds_and_the_interval_over_images():
    scores = RNG.uniform(0.2, 0.9, (3, 4, COUNT))
    keys = ["S", "F_adaptive", "E_mean", "MAE"]
    figures = summarize(make_results(scores, keys), "camouflaged", {"camo": {"S": 0.884}})
    assert [figure.metric for figure in figures] == keys
    for figure, values in zip(figures, np.moveaxis(scores, 1, 0), strict=True):
        assert figure.seeds == pytest.approx(values.mean(1))
        assert (figure.mean, figure.std) == pytest.approx((values.mean(), values.mean(1).std(ddof=1)))
        interval = bootstrap(lambda i, values=values: values[:, i].mean())
        assert (figure.low, figure.high) == pytest.approx(interval, abs=0.004)
    assert [figure.published for figure in figures] == [0.884, None, None, None]


def test_one_seed_has_no_std_and_images_without_a_score_are_left_out():
    scores = RNG.uniform(size=(1, 4, COUNT))
    scores[0, 0, :7] = np.nan
    figure = summarize(make_results(scores, ["S", "F_adaptive", "E_mean", "MAE"]), "camouflaged", {})[0]
    assert math.isnan(figure.std) and figure.mean == pytest.approx(np.nanmean(scores[0, 0]))
    interval = bootstrap(lambda i: np.nanmean(scores[0, 0, i]))
    assert (figure.low, figure.high) == pytest.approx(interval, abs=0.01)


def test_the_interval_belongs_to_the_mean_if_the_seeds_leave_out_different_images():
    scores = RNG.uniform(0.8, 0.9, (2, 4, COUNT))
    scores[0, 0, :30] = np.nan  # masks without object: the first seed finds nothing, the second something wrong
    scores[1, 0, :30] = 0
    figure = summarize(make_results(scores, ["S", "F_adaptive", "E_mean", "MAE"]), "camouflaged", {})[0]
    interval = bootstrap(lambda i: np.nanmean(scores[:, 0, i], axis=1).mean())
    assert figure.low < figure.mean < figure.high and (figure.low, figure.high) == pytest.approx(interval, abs=0.01)


def test_the_interval_of_a_maximum_draws_curves():
    keys = ["mirror_IoU", "mirror_MAE", "mirror_BER", "mirror_accuracy"]
    results = make_results(RNG.uniform(size=(2, 4, COUNT)), keys)
    curves = RNG.uniform(0.1, 1, (2, 2, COUNT, 256))
    for (result,), (precision, recall) in zip(results, curves, strict=True):
        result.image_curves = {"mirror_precision": precision, "mirror_recall": recall}
        result.table["mirror_F_max"] = 0.5

    def best_f(i: np.ndarray) -> float:
        precision, recall = curves[:, :, i].mean(2).swapaxes(0, 1)
        return (1.3 * precision * recall / (0.3 * precision + recall)).max(1).mean()

    figure = next(f for f in summarize(results, "mirror", {}) if f.metric == "mirror_F_max")
    assert (figure.low, figure.high) == pytest.approx(bootstrap(best_f), abs=0.003)


@pytest.mark.parametrize(
    "published, place",
    [(0.850, "inside"), (0.840, "inside"), (0.8604, "inside"), (0.861, "above"), (0.839, "below"), (None, "")],
)
def test_words_compare_the_printed_numbers(published, place):
    figure = Figure("CAMO", "S", 250, (0.85,), 0.85, math.nan, 0.8396, 0.8604, published)
    assert figure.place == place
    text = " ".join(explain_figures([figure], [1024]))
    assert ("lies inside the interval for 1 of 1" in text) == (place == "inside")
    assert ("higher than the interval for CAMO S" in text) == (place == "above")
    assert ("lower than the interval for CAMO S" in text) == (place == "below")
    assert ("No published figure" in text) == (place == "")
