"""The benchmark of prediction: a line for each row. No time is asserted."""

import pytest
import torch

from benchmarks.__main__ import parser, run
from sam2unet.errors import UserError
from sam2unet.runtime.device import pick_half_type
from tests.benchmarks.here import Here
from tests.conftest import write_pairs


def test_the_table_has_a_line_for_each_row(capsys, tmp_path):
    images, _ = write_pairs(tmp_path, count=2)
    flags = "--encoder micro --size 32 --count 3 --rounds 1 --megapixels 0.01 --device cpu --rows released fast".split()
    args = parser().parse_args(["predict", "--test_image_path", str(images), *flags])
    args.alone = Here()
    run(args)
    out = capsys.readouterr().out
    assert "micro at 32x32, 3 photographs of 0.01 megapixels" in out
    table = {cells[0]: cells for line in out.splitlines() if len(cells := line.strip("| ").split(" | ")) == 11}
    assert [row for row in table if row in ("released", "fast")] == ["released", "fast"]
    half = pick_half_type(torch.device("cpu")) == "bf16"
    for row in ("released", "fast"):
        _, rate, ratio, *milliseconds, of_peak, batch_size, model, model_of_peak = table[row]
        assert min(map(float, (rate, ratio, *milliseconds, batch_size, model))) > 0 and len(milliseconds) == 4
        for share in (of_peak, model_of_peak):
            assert share.endswith("of bf16" if row == "fast" and half else "of fp32")
    assert table["released"][2] == "1.00"


def test_a_row_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^no row ours\+magic; there are released"):
        run(parser().parse_args(["predict", "--test_image_path", str(tmp_path), "--rows", "ours+magic"]))
