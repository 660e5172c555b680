"""ECE and the Brier score, against their definitions, and in the report."""

import csv
import json

import numpy as np
import pytest

from sam2unet.scoring.pixels.calibration import measure_ece, score_calibration
from tests.conftest import save


def compute_ece(prediction, mask):
    """By the definition, pixel by pixel."""
    probability, truth = prediction.ravel() / 255, mask.ravel() > 128
    place = np.minimum(14, np.floor(probability * 15).astype(int))
    parts = [place == i for i in range(15) if (place == i).any()]
    return sum(part.mean() * abs(truth[part].mean() - probability[part].mean()) for part in parts)


@pytest.fixture
def maps(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        prediction = rng.integers(10, 240, (40, 30 + i), dtype=np.uint8)  # not the full range: nothing is stretched
        save(tmp_path / f"maps/{i}.png", prediction)
        save(
            tmp_path / f"masks/{i}.png",
            np.where(rng.random(prediction.shape) * 255 < prediction, 255, 0).astype(np.uint8),
        )
    return ["--dataset_name", "A", "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks"]


def test_calibrated_maps_have_a_small_error_and_others_a_large_one():
    rng = np.random.default_rng(1)
    prediction = rng.integers(0, 256, (300, 300), dtype=np.uint8)
    mask = np.where(rng.random(prediction.shape) * 255 < prediction, 255, 0).astype(np.uint8)
    for array, bound in ((prediction, (0, 0.01)), (np.where(prediction > 127, 255, 0).astype(np.uint8), (0.2, 0.3))):
        numbers, counts = score_calibration(array, mask)
        ece = measure_ece(counts["level_pixels"], counts["level_foreground"])
        assert ece == pytest.approx(compute_ece(array, mask), abs=1e-12) and bound[0] < ece < bound[1]
        assert numbers["Brier"] == pytest.approx(np.mean((array / 255 - (mask > 128)) ** 2), rel=1e-12)


def test_eval_py_counts_the_pixels_of_all_images(maps, eval_py, tmp_path):
    from PIL import Image

    ended = eval_py(*maps, "--protocol", "calibration", "--save_dir", tmp_path / "out")
    assert ended.status == 0, ended.err
    arrays = [
        [np.asarray(Image.open(tmp_path / f"{kind}/{i}.png")).ravel() for i in range(3)] for kind in ("maps", "masks")
    ]
    table = json.loads((tmp_path / "out/results.json").read_text())["datasets"]["A"][""]
    assert table["ECE"] == pytest.approx(compute_ece(*map(np.concatenate, arrays)), rel=1e-9)
    with open(tmp_path / "out/per_image.csv") as file:
        rows = list(csv.DictReader(file))
    assert table["Brier"] == pytest.approx(np.mean([float(row["Brier"]) for row in rows])) and "ECE" not in rows[0]
