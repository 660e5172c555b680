"""The table against py-sod-metrics called as the released script calls it."""

import re
import warnings

import numpy as np
import pytest
from PIL import Image

from sam2unet.scoring.columns import RELEASED
from sam2unet.scoring.score_folders import Entry, score_entries
from sam2unet.scoring.score_pair import ScoreOptions
from tests.conftest import save


def released_table(pairs):
    """The metric objects and results of the released evaluation script."""
    import py_sod_metrics  # slow to import, and not needed by the other tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library wants another class than the released script uses
        f, wf, s = py_sod_metrics.Fmeasure(), py_sod_metrics.WeightedFmeasure(), py_sod_metrics.Smeasure()
        e, mae = py_sod_metrics.Emeasure(), py_sod_metrics.MAE()
    both = dict(with_dynamic=True, with_adaptive=True)
    handlers = {"dice": py_sod_metrics.DICEHandler(**both), "iou": py_sod_metrics.IOUHandler(**both)}
    v2 = py_sod_metrics.FmeasureV2(metric_handlers=handlers)
    for prediction, mask in pairs:
        for metric in (f, wf, s, e, mae, v2):
            metric.step(pred=prediction, gt=mask)
    return {
        "Dice_mean": v2.get_results()["dice"]["dynamic"].mean(),
        "IoU_mean": v2.get_results()["iou"]["dynamic"].mean(),
        "S": s.get_results()["sm"],
        "Fw": wf.get_results()["wfm"],
        "F_adaptive": f.get_results()["fm"]["adp"],
        "E_mean": e.get_results()["em"]["curve"].mean(),
        "MAE": mae.get_results()["mae"],
    }


def read(folder, names):
    return [
        tuple(np.asarray(Image.open(folder / kind / name).convert("L")) for kind in ("preds", "masks"))
        for name in names
    ]


@pytest.mark.parametrize("folder, count", [("maps_sod_dss", 12), ("maps_cod10k_sinet", 3)])
def test_table_equals_the_library(folder, count, shared, tmp_path):
    folder = shared / "data" / folder
    names = sorted(path.name for path in (folder / "masks").iterdir())[:count]
    expected = released_table(read(folder, names))
    for kind in ("preds", "masks"):
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).symlink_to(folder / kind / name)
    entry = Entry("set", "", tmp_path / "preds", tmp_path / "masks")
    (slow,), (fast,) = (score_entries([entry], ScoreOptions(library=library), workers=1) for library in (True, False))
    assert {key: slow.table[key] for key in RELEASED} == pytest.approx(expected, rel=0, abs=1e-12)
    assert {key: fast.table[key] for key in RELEASED} == pytest.approx(expected, rel=0, abs=1e-6)


def test_eval_prints_that_table_and_what_each_number_is(evaluate, shared, tmp_path):
    folder = shared / "data/maps_cod10k_sinet"
    result = evaluate("--dataset_name", "COD", "--pred_path", folder / "preds", "--gt_path", folder / "masks")
    assert result.status == 0, result.err
    titles, numbers = (line.split() for line in result.out.splitlines()[:2])
    assert titles == ["dataset", "images", "mDice", "mIoU", "S", "wF", "adpF", "mE", "MAE"]
    expected = released_table(read(folder, sorted(path.name for path in (folder / "masks").iterdir())))
    assert numbers == ["COD", "3", *(f"{value:.3f}" for value in expected.values())]
    for title in titles[2:]:
        assert re.search(rf"^{title} +\w.* is better$", result.out, re.M)


def test_an_undefined_s_is_named_and_left_out(evaluate, tmp_path):
    rng = np.random.default_rng(0)
    middle, corner = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    middle[5:15, 5:20] = 255
    corner[-1, -1] = 255  # the centre of the foreground lies in the last row and column
    for name, mask in (("middle", middle), ("corner", corner)):
        save(tmp_path / f"masks/{name}.png", mask)
        save(tmp_path / f"maps/{name}.png", rng.integers(0, 256, mask.shape, dtype=np.uint8))
    folders = ["--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks"]
    result = evaluate("--dataset_name", "two", *folders)
    assert result.status == 0
    assert "S is not defined for 1 images (corner)" in result.err
    alone = released_table([(np.asarray(Image.open(tmp_path / "maps/middle.png")), middle)])
    assert result.out.splitlines()[1].split()[4] == f"{alone['S']:.3f}"


def test_predictions_too_many_are_left_out_with_a_warning(evaluate, shared, tmp_path):
    folder = shared / "data/maps_cod10k_sinet"
    for path in sorted((folder / "masks").iterdir())[:2]:
        save(tmp_path / path.name, np.asarray(Image.open(path)))
    result = evaluate("--dataset_name", "x", "--pred_path", folder / "preds", "--gt_path", tmp_path)
    assert result.err.startswith("warning: 1 predictions have no mask") and result.out.splitlines()[1].split()[:2] == [
        "x",
        "2",
    ]


def test_soft_masks_are_scored_at_128_with_a_warning(evaluate, tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:20], mask[4], mask[3] = 255, 129, 128
    save(tmp_path / "masks/a.png", mask)
    save(tmp_path / "maps/a.png", np.where(mask > 128, 255, 0).astype(np.uint8))
    result = evaluate("--dataset_name", "x", "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks")
    assert "1 masks have grey values between 0 and 255; above 128 is foreground: a" in result.err
    assert result.out.splitlines()[1].split()[-1] == "0.000"
