"""The command `benchmarks eval --classes`."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import scoring
from benchmarks.__main__ import parser
from tests.benchmarks.here import Here
from tests.conftest import save, write_class_pairs


def test_classes_are_compared_with_torchmetrics(tmp_path):
    pytest.importorskip("torchmetrics")
    _, masks, file = write_class_pairs(tmp_path)
    for path in masks.iterdir():
        save(tmp_path / "maps" / path.name, np.array(Image.open(path)) % 3)  # the ignored pixels get class 0
    words = ["eval", "--pred_path", tmp_path / "maps", "--gt_path", masks, "--classes", file, "--rounds", 1]
    args = parser().parse_args([*map(str, words)])
    args.alone, args.record = Here(), lambda *result: None
    _, table = scoring.run(args)
    title, table = table.strip().split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert title == "evaluation of classes"
    assert rows[0] == ["row", "pairs/s", "ratio"]
    assert [row[0] for row in rows[2:]] == list(scoring.CLASS_ROWS)
    assert rows[2][2] == "1.00" and all(float(row[1]) > 0 for row in rows[2:])
