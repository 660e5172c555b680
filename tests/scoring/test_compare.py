"""The paired bootstrap and the permutation test against theory, exhaustive counts and cases with a known answer."""

import itertools
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sam2unet.scoring.aggregate import MethodResult, name_folders
from sam2unet.scoring.compare import bootstrap_intervals, compare, correct_holm, permute_methods
from sam2unet.scoring.tables.comparison_tables import format_comparison, to_json_dict


def result(method, per_image, images=None, dataset="CAMO"):
    per_image = {key: np.asarray(values, float) for key, values in per_image.items()}
    names = images or [f"image_{i}" for i in range(len(next(iter(per_image.values()))))]
    return MethodResult(dataset, method, names, [], [], [], per_image, {})


def pair(deltas, key="S"):
    """A baseline and a method that differ by `deltas`."""
    base = np.random.default_rng(9).random(len(deltas))
    return [result("base", {key: base}), result("new", {key: base + deltas})]


def test_of_many_images_the_interval_is_that_of_normal_theory():
    deltas = np.random.default_rng(1).normal(0.01, 0.1, 2000)
    (found,) = compare(pair(deltas), ["S"])
    margin = 1.96 * deltas.std(ddof=1) / math.sqrt(2000)
    assert found.mean == pytest.approx(deltas.mean())
    # Percentiles of 10,000 resamples scatter by about 1.5 % of the margin.
    assert found.low == pytest.approx(deltas.mean() - margin, abs=0.06 * margin)
    assert found.high == pytest.approx(deltas.mean() + margin, abs=0.06 * margin)


def test_of_few_images_the_interval_is_that_of_all_resamples():
    deltas = np.array([0.03, -0.11, 0.2, 0.071, 0.35])
    every = np.array([np.mean(drawn) for drawn in itertools.product(deltas, repeat=5)])
    (low,), (high,) = bootstrap_intervals(deltas[:, None])
    for value, share in ((low, 0.025), (high, 0.975)):
        # The distribution has steps: the value must lie where the exact one passes the share, give or take noise.
        assert (every < value - 1e-9).mean() - 0.005 <= share <= (every <= value + 1e-9).mean() + 0.005


def test_equal_methods_differ_by_nothing():
    (found,) = compare(pair(np.zeros(50)), ["S"])
    assert (found.mean, found.low, found.high, found.verdict) == (0, 0, 0, "")


def test_intervals_hold_the_truth_about_95_times_in_100():
    deltas = np.random.default_rng(2).normal(0.3, 1, (60, 400))  # 400 experiments with 60 images each
    low, high = bootstrap_intervals(deltas)
    assert 0.91 < ((low < 0.3) & (0.3 < high)).mean() < 0.97  # a percentile interval of 60 holds it a bit too rarely


@pytest.mark.parametrize("key, shift, verdict", [("S", 0.1, "better"), ("S", -0.1, "worse"), ("MAE", 0.1, "worse")])
def test_the_verdict_knows_which_direction_is_better(key, shift, verdict):
    deltas = shift + np.random.default_rng(3).normal(0, 0.05, 40)
    (found,) = compare(pair(deltas, key), [key])
    assert found.verdict == verdict
    assert format_comparison([found]).splitlines()[1].split()[-1] == verdict


def test_noise_is_not_marked():
    deltas = np.random.default_rng(4).normal(0, 0.1, 40)
    (found,) = compare(pair(deltas - deltas.mean() + 0.001), ["S"])
    assert found.verdict == "" and format_comparison([found]).splitlines()[1].endswith(f"{found.p_holm:.4f}")


def test_images_without_a_number_in_either_are_left_out_and_counted():
    base, new = np.random.default_rng(5).random((2, 30))
    whole = compare([result("base", {"S": base[2:]}), result("new", {"S": new[2:]})], ["S"])[0]
    base[0], new[1] = math.nan, math.nan
    found = compare([result("base", {"S": base, "MAE": base * 0}), result("new", {"S": new, "MAE": base * 0})], ["S"])[
        0
    ]
    assert (found.images, found.left_out) == (28, 2)
    assert found.mean == pytest.approx(whole.mean)
    assert found.low == pytest.approx(whole.low, abs=0.01) and found.high == pytest.approx(whole.high, abs=0.01)


def test_images_are_paired_by_name():
    base = result("base", {"S": [0.1, 0.2, 0.3]}, ["a", "b", "c"])
    new = result("new", {"S": [0.4, 0.2, 0.3, 0.9]}, ["c", "a", "b", "only here"])
    (found,) = compare([base, new], ["S"])
    assert found.mean == pytest.approx(0.1) and (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert (found.images, found.left_out) == (3, 1)


def test_every_metric_sees_the_same_images():
    deltas = np.random.default_rng(6).normal(0, 1, (25, 1))
    low, high = bootstrap_intervals(np.concatenate([deltas, deltas, -deltas], axis=1))
    assert low[0] == low[1] and high[0] == high[1]
    assert (low[2], high[2]) == pytest.approx((-high[0], -low[0]))


def test_each_data_set_compares_with_its_first_method_in_what_is_a_mean_over_images():
    rng = np.random.default_rng(7)
    results = [
        result(method, {"S": rng.random(20), "MAE": rng.random(20), "F_max": rng.random(20)}, dataset=dataset)
        for dataset, method in [("A", "x"), ("B", "y"), ("A", "y"), ("A", "z"), ("B", "x"), ("C", "x")]
    ]
    found = compare(results, ["S", "F_max", "E_max", "MAE"])
    assert [(d.dataset, d.method, d.baseline) for d in found if d.metric == "S"] == [
        ("A", "y", "x"),
        ("A", "z", "x"),
        ("B", "x", "y"),
    ]
    assert {d.metric for d in found} == {"S", "MAE"}


def test_of_one_image_or_none_there_is_no_interval():
    results = [
        result("base", {"S": [0.5, math.nan], "Fw": [math.nan] * 2}),
        result("new", {"S": [0.6] * 2, "Fw": [1] * 2}),
    ]
    one, none = compare(results, ["S", "Fw"])
    assert one.mean == pytest.approx(0.1) and math.isnan(one.low) and one.verdict == ""
    assert math.isnan(none.mean) and none.images == 0
    numbers = json.loads(json.dumps(to_json_dict([one, none]), allow_nan=False))["datasets"]["CAMO"]["methods"]["new"]
    nothing = dict.fromkeys(["difference", "low", "high", "p", "p_holm"])
    assert numbers["Fw"] == nothing | {"images": 0, "left_out": 2}
    assert "fewer than 20 images" in format_comparison([one, none])


def test_of_few_images_the_p_value_counts_all_signs():
    from scipy.stats import permutation_test  # slow to import, and not needed by the other tests

    deltas = np.random.default_rng(10).normal(0.05, 0.1, (11, 3)).round(2)  # rounded, so that sums are equal
    deltas[4, 1] = math.nan
    for values, p in zip(deltas.T, permute_methods(deltas), strict=True):
        kept = values[np.isfinite(values)]
        sums = np.array([np.dot(signs, kept) for signs in itertools.product((1, -1), repeat=len(kept))])
        assert p == pytest.approx((abs(sums) >= abs(kept.sum()) - 1e-9).mean(), abs=1e-12)
        scipy_p = permutation_test((kept,), np.mean, permutation_type="samples", n_resamples=math.inf).pvalue
        assert p == pytest.approx(scipy_p, abs=1e-12)


def test_of_many_images_the_p_value_is_that_of_a_t_test():
    from scipy.stats import ttest_1samp  # slow to import, and not needed by the other tests

    deltas = np.random.default_rng(11).normal(0.005, 0.1, (600, 30))
    found = permute_methods(deltas)
    expected = ttest_1samp(deltas, 0).pvalue
    assert abs(found - expected).max() < 0.02 and found.min() >= 1e-4  # 10,000 patterns have a noise of 0.005
    np.testing.assert_array_equal(found, permute_methods(-deltas))  # the same seed, and two-sided
    assert permute_methods(np.zeros((600, 1))) == 1 and np.isnan(permute_methods(deltas[:1])).all()


def test_of_equal_methods_one_p_value_in_twenty_is_below_5_per_cent():
    deltas = np.random.default_rng(12).normal(0, 1, (40, 600))
    assert 0.03 < (permute_methods(deltas) < 0.05).mean() < 0.07


def test_holm_multiplies_by_the_number_of_metrics_that_are_not_yet_rejected():
    values = [0.03, math.nan, 0.01, 0.04, 0.6]
    np.testing.assert_allclose(correct_holm(np.array(values)), [0.09, math.nan, 0.04, 0.09, 0.6])
    rng = np.random.default_rng(13)
    base, new, third = ({key: rng.random(60) + shift for key in ("S", "MAE", "Fw")} for shift in (0, 0.1, 0.15))
    found = compare([result("base", base), result("new", new), result("third", third)], ["S", "MAE"], ["Fw"])
    for method in ("new", "third"):
        s, mae, fw = (d for d in found if d.method == method)
        assert min(s.p, mae.p) * 2 == pytest.approx(min(s.p_holm, mae.p_holm)) and max(s.p, mae.p) <= max(
            s.p_holm, mae.p_holm
        )
        assert math.isnan(fw.p_holm) and 0 < fw.p < 1  # Fw is not in the printed table


def test_methods_without_a_name_have_that_of_their_folder():
    def name(*pairs):
        return name_folders(*zip(*((dataset, Path(folder)) for dataset, folder in pairs), strict=True))

    assert name(("A", "maps/A")) == ["maps"]
    assert name(("A", "runs/x/maps"), ("A", "runs/y/maps"), ("B", "maps/z")) == ["x", "y", "z"]
    assert name(("CAMO", "ours/CAMO"), ("CAMO", "others/FEDER/CAMO")) == ["ours", "FEDER"]
    assert name(("A", "maps"), ("A", "maps")) == ["maps", "maps"]


def test_five_thousand_images_fit_in_little_memory():
    deltas = np.random.default_rng(8).normal(0, 1, (5000, 10))
    tracemalloc.start()
    bootstrap_intervals(deltas)
    permute_methods(deltas)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all draws at once would take 400 MB
