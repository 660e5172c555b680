"""The benchmark of prediction: a line for each row. No time is asserted."""

import pytest
import torch

from benchmarks.__main__ import parser, run
from sam2unet.errors import UserError
from sam2unet.runtime.device import pick_half_type
from tests.benchmarks.here import run_here
from tests.conftest import write_pairs


def test_the_table_has_a_line_for_each_row(capsys, tmp_path):
    images, _ = write_pairs(tmp_path, count=2)
    flags = "--encoder micro --size 32 --count 3 --rounds 1 --megapixels 0.01 --device cpu --rows released fast".split()
    tables = run_here(["predict", "--test_image_path", images, *flags])
    assert "micro at 32x32, 3 photographs of 0.01 megapixels" in capsys.readouterr().out
    (table,) = tables.values()
    half = pick_half_type(torch.device("cpu")) == "bf16"
    for row in ("released", "fast"):
        shares = [table[row].pop(f"{part} of device's peak") for part in ("forward", "model")]
        assert len(table[row]) == 8 and min(map(float, table[row].values())) > 0
        assert all(share.endswith("of bf16" if row == "fast" and half else "of fp32") for share in shares)
    assert table["released"]["ratio"] == "1.00"


def test_a_row_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^no row ours\+magic; there are released"):
        run(parser().parse_args(["predict", "--test_image_path", str(tmp_path), "--rows", "ours+magic"]))
