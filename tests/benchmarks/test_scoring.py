"""The command `benchmarks eval --classes`."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import scoring
from tests.benchmarks.here import run_here
from tests.conftest import save, write_class_pairs


def test_classes_are_compared_with_torchmetrics(tmp_path):
    pytest.importorskip("torchmetrics")
    _, masks, file = write_class_pairs(tmp_path)
    for path in masks.iterdir():
        save(tmp_path / "maps" / path.name, np.array(Image.open(path)) % 3)  # the ignored pixels get class 0
    words = ["eval", "--pred_path", tmp_path / "maps", "--gt_path", masks, "--classes", file, "--rounds", 1]
    table = run_here(words)["evaluation of classes"]
    assert list(table) == list(scoring.CLASS_ROWS)
    assert table["torchmetrics"]["ratio"] == "1.00" and all(float(row["pairs/s"]) > 0 for row in table.values())
