"""Scores that other groups published beside their maps, made again from files to table.

DSS on SOD, 300 maps, by a MATLAB toolbox for salient objects (the "mean" of a curve is over its 256 thresholds):

| published              | definition it needs                                                                       |
| ---------------------- | ----------------------------------------------------------------------------------------- |
| MAE, S_measure         | means over images                                                                         |
| adaptive F             | mean over images of F at twice the map's mean                                             |
| adaptive precision ... | ... and recall: likewise. They follow from an image's F-measures of two betas             |
| precision, recall      | curves: means over images of maps >= 255/255, 254/255, ... 0                              |
| max_F                  | data set level: the best F of these two mean curves, not of the images' mean F curve      |
| AUC                    | data set level: the area under mean recall over mean false positive rate, from the        |
|                        | strictest threshold on, so without the corner at (0, 0)                                   |
| max_IoU, mean_IoU      | maximum and mean of the images' mean IoU curve                                            |
| IoU_at_max_F           | of another method's maps, see the test                                                    |

SINet on three images of COD10K, by a MATLAB toolbox for camouflaged objects:

| published              | definition it needs                                                                       |
| ---------------------- | ----------------------------------------------------------------------------------------- |
| Smeasure, wFmeasure,   | means over images                                                                         |
| MAE, adpEm, adpFm      |                                                                                           |
| F, precision, recall   | curves: means over images of maps >= 1:-1/255:0, MATLAB's floats: 14 of the 256 lie one   |
|                        | rounding above the grey level that they stand for and miss its pixels                     |
| E                      | curve: likewise of maps > 1:-1/255:0, so it starts with an empty cut, and 22 thresholds   |
|                        | that lie one rounding below their grey level do hold its pixels                           |
| meanEm, maxEm,         | mean and maximum of these curves. With exact thresholds: meanEm 1.2e-5, meanFm 7.5e-7,    |
| meanFm, maxFm          | maxFm 1.0e-5 higher; maxEm the same                                                       |
"""

import json
from pathlib import Path

import numpy as np
import pytest

from sam2unet.scoring.aggregate import average_scores
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, score_job

# Sums of the same terms in another order; the figures are published with 15 digits and more, curves with 8 decimals.
ROUNDING = 1e-12
CURVE_ROUNDING = 0.5e-8 + ROUNDING


class Scores:
    """What a folder's README says was scored, by us and as published."""

    def __init__(self, folder: Path):
        self.published = json.loads((folder / "published.json").read_text())
        masks = sorted((folder / "masks").iterdir())
        scored = [score_job(ScoreJob(folder / "preds" / path.name, path, ScoreOptions())) for path in masks]
        assert not any(each.problem for each in scored)
        self.stems = [path.stem for path in masks]
        self.per_image = {key: np.array([each.numbers[key] for each in scored]) for key in scored[0].numbers}
        self.curves = {name: np.mean([each.curves[name] for each in scored], axis=0) for name in scored[0].curves}
        self.table = average_scores(self.per_image, self.curves)


@pytest.fixture(scope="module")
def dss(shared) -> Scores:
    return Scores(shared / "data/maps_sod_dss")


@pytest.fixture(scope="module")
def sinet(shared) -> Scores:
    return Scores(shared / "data/maps_cod10k_sinet")


@pytest.mark.parametrize("name, key", [("MAE", "MAE"), ("S_measure", "S"), ("adaptive_F", "F_adaptive")])
def test_dss_image_by_image(name, key, dss):
    expected = [dss.published["per_image"][stem][name] for stem in dss.stems]
    assert len(expected) == len(dss.published["per_image"]) == 300
    np.testing.assert_allclose(dss.per_image[key], expected, rtol=0, atol=ROUNDING)


def test_dss_means_over_images(dss):
    f, f1 = dss.per_image["F_adaptive"], dss.per_image["F1_adaptive"]
    with np.errstate(divide="ignore", invalid="ignore"):  # F is 0 where nothing was hit: both are 0 then
        recall = 0.7 / (2 / f1 - 1.3 / f)  # 1.3 / f = 0.3 / recall + 1 / precision, 2 / f1 = 1 / recall + 1 / precision
        precision = 1 / (2 / f1 - 1 / recall)
    means = {name: np.where(f > 0, each, 0).mean() for name, each in (("precision", precision), ("recall", recall))}
    published = dss.published["dataset"]
    assert dss.table["MAE"] == pytest.approx(published["MAE"], abs=ROUNDING)
    assert dss.table["S"] == pytest.approx(published["S_measure"], abs=ROUNDING)
    assert means | {"F": dss.table["F_adaptive"]} == pytest.approx(published["adaptive"], abs=ROUNDING)


def test_dss_curves_and_what_is_made_of_them(dss):
    for name, expected in dss.published["curves_256"].items():
        np.testing.assert_allclose(dss.curves[name], expected, rtol=0, atol=CURVE_ROUNDING, err_msg=name)
    recall, published = dss.curves["recall"], dss.published["dataset"]
    false_alarm = 2 * dss.curves["BER"] - 1 + recall
    area = np.sum(np.diff(false_alarm) * (recall[1:] + recall[:-1]) / 2)
    assert dss.table["F_max_dataset"] == pytest.approx(published["max_F"], abs=ROUNDING)
    assert area == pytest.approx(published["AUC"], abs=ROUNDING)
    assert dss.curves["IoU"].max() == pytest.approx(published["max_IoU"], abs=ROUNDING)
    assert dss.table["IoU_mean"] == pytest.approx(published["mean_IoU"], abs=ROUNDING)
    assert dss.table["F_max"] == pytest.approx(0.8038, abs=5e-5)  # of the images' F: another number


def test_dss_iou_at_max_f_is_of_other_maps(dss):
    """The toolbox scores several methods at once and takes `IoU(ind)` of a (256, methods) matrix: the first method's
    IoU at the threshold of each one's own best F. The published 0.5529 is not the IoU of DSS at any threshold."""
    precision, recall, iou = (dss.curves[name] for name in ("precision", "recall", "IoU"))
    best = np.argmax(1.3 * precision * recall / (0.3 * precision + recall))
    assert best == 253 and iou[best] == pytest.approx(0.6513245194, abs=1e-10)
    assert np.abs(iou - dss.published["dataset"]["IoU_at_max_F"]).min() > 3e-3


def test_sinet_means_over_images(sinet):
    published = sinet.published["dataset"]
    for name, key in (("Smeasure", "S"), ("MAE", "MAE"), ("adpEm", "E_adaptive"), ("adpFm", "F_adaptive")):
        assert sinet.table[key] == pytest.approx(published[name], abs=ROUNDING), name
    # 1e-10 off, as py-sod-metrics' own is
    assert sinet.table["Fw"] == pytest.approx(published["wFmeasure"], abs=1e-9)


def test_sinet_curves_and_what_is_made_of_them(sinet):
    entry = np.arange(256)
    level = (255 - entry) / 255
    # MATLAB fills 1:-1/255:0 from both of its ends.
    threshold = np.where(entry < 128, 1 + entry * (-1 / 255), (255 - entry) * (1 / 255))
    late, early = threshold > level, threshold < level
    assert (late.sum(), early.sum()) == (14, 22)
    curves = {name: sinet.curves[name][entry - late] for name in ("F", "precision", "recall")}
    empty = sinet.curves["E"][-1]  # E of a cut that holds nothing equals that of one that holds all
    curves["E"] = np.append(empty, sinet.curves["E"])[entry + early]
    for name, expected in sinet.published["curves_256"].items():
        np.testing.assert_allclose(curves[name], expected, rtol=0, atol=CURVE_ROUNDING, err_msg=name)
    published = sinet.published["dataset"]
    for name in ("E", "F"):
        assert curves[name].mean() == pytest.approx(published[f"mean{name}m"], abs=ROUNDING)
        assert curves[name].max() == pytest.approx(published[f"max{name}m"], abs=ROUNDING)
        # what we print, at exact thresholds, agrees with what they print
        assert sinet.table[f"{name}_mean"] == pytest.approx(published[f"mean{name}m"], abs=2e-5)
        assert sinet.table[f"{name}_max"] == pytest.approx(published[f"max{name}m"], abs=2e-5)
