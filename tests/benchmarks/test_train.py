"""The benchmark of training: the rows do the same work, and what cannot be measured says so. No time is asserted."""

import argparse
import os

import pytest
import torch
from PIL import Image

from benchmarks import curves, harness, train
from benchmarks.__main__ import parser, run
from sam2unet.errors import UserError
from tests.conftest import write_pairs


def test_the_table_has_numbers_and_both_ways_start_from_the_same_loss(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(harness, "run_alone", lambda function, *arguments: function(*arguments))
    images, masks = map(str, write_pairs(tmp_path, count=4))
    flags = "--encoder tiny --size 64 --batch_size 2 --steps 2 --rounds 1 --device cpu --workers 1".split()
    folders = ["--train_image_path", images, "--train_mask_path", masks]
    run(parser().parse_args(["train", *folders, *flags, "--rows", "released", "ours"]))
    out = capsys.readouterr().out
    # At 64 a window of 14 on a grid of 4 is mostly padding, which the released way computes.
    assert "arithmetic per image, forward and in training, GFLOP: released 2.6 and 5.8, ours 1.2 and 2.8" in out
    table = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| 2 |")]
    assert [cells[1] for cells in table] == ["released", "ours"]
    for _, _, rate, ratio, peak, share, start, of_peak, loss in table:
        assert min(map(float, (rate, ratio, peak, share, start, loss))) > 0
        assert float(start) <= float(peak) and of_peak.endswith("% of fp32")
    assert table[0][3] == table[0][5] == "1.00"
    assert float(table[0][-1]) == pytest.approx(float(table[1][-1]), abs=2e-5)


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Of each row's three updates."""
    images, masks = map(str, write_pairs(tmp_path_factory.mktemp("pairs"), count=4))
    p = argparse.ArgumentParser()
    train.add_flags(p)
    flags = "--encoder micro --size 64 --steps 1 --device cpu --workers 0 --seed 3"
    args = p.parse_args(["--train_image_path", images, "--train_mask_path", masks, *flags.split()])
    return {row: train.measure_training(args, 2, row)["losses"] for row in train.ROWS}


@pytest.mark.parametrize("row", train.ROWS[1:])
def test_each_row_does_the_released_work(row, losses):
    assert len(losses[row]) == 3
    # Half a per cent is what bf16 rounds to; without it the first loss differs by rounding alone.
    assert losses[row] == pytest.approx(losses["released"], rel=5e-3)
    if row.startswith("ours"):
        assert losses[row][0] == pytest.approx(losses["released"][0], rel=1e-6)


@pytest.mark.parametrize("row", ["quick", "released+fused", "ours+magic"])
def test_a_row_that_there_is_not_is_refused(row):
    with pytest.raises(UserError, match="^no row .*; there are released, and ours or fast"):
        harness.check_rows(["released", row], train.OPTIONS)


def test_a_row_that_could_not_be_measured_says_so_and_the_others_go_without_ratio():
    ours = {"rate": 24.0, "start_gib": 0.5, "peak_gib": 1.0, "losses": [3.0], "kind": "fp32"}
    machine = {"flops": {"released": (1, 2), "ours": (1, 1e9)}, "peaks": {"fp32": 1e12}}
    text = train.format_training({"released": "not measured: out of memory", "ours": ours}, 12, machine)
    assert text.splitlines()[2:] == [
        "| 12 | released | not measured: out of memory | | | | | | |",
        "| 12 | ours | 24.0 |  | 1.00 |  | 0.50 | 2.4% of fp32 | 3.00000 |",
    ]


def test_a_row_that_fails_in_one_round_keeps_its_best_round(monkeypatch, capsys):
    results = iter([{"rate": 2.0}, "out of memory", "out of memory", {"rate": 1.0}, {"rate": 3.0}, {"rate": 2.0}])

    def run_alone(measure, row):
        if isinstance(result := next(results), str):
            raise harness.NotMeasured(f"not measured: {result}")
        return result

    monkeypatch.setattr(harness, "run_alone", run_alone)
    best = harness.measure_in_turns(["released", "ours"], 3, measure=lambda row: {})
    assert best == {"released": {"rate": 3.0}, "ours": {"rate": 2.0}}
    assert "round 1, ours: not measured: out of memory\nround 2, released: not measured" in capsys.readouterr().err


def raise_out_of_memory():
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("work, reason", [(raise_out_of_memory, "out of memory"), (os.abort, "its process was killed")])
def test_a_process_that_fails_says_why(work, reason):
    with pytest.raises(harness.NotMeasured, match=f"^not measured: {reason}$"):
        harness.run_alone(work)


def test_curves_are_a_picture_and_a_line_each(monkeypatch, capsys, tmp_path):
    def run_alone(function, args, *row):
        if function is train.inspect_training:
            return {"work": "SAM2-UNet tiny at 32x32, 4 pairs, workers 2", "device": "a processor"}
        return {"losses": [4.0] * 10 + [2.0] * args.steps}

    monkeypatch.setattr(curves, "run_alone", run_alone)
    p = argparse.ArgumentParser()
    curves.add_flags(p)
    flags = ["--train_image_path", "i", "--train_mask_path", "m", "--steps", "60", "--save_path"]
    curves.run(p.parse_args([*flags, str(tmp_path / "a/curves.png")]))
    assert Image.open(tmp_path / "a/curves.png").width > 1000
    numbers = (tmp_path / "a/curves.csv").read_text().splitlines()
    assert numbers[0] == '"released way, fp32","ours, fp32","ours, bf16"' and numbers[-1] == "2.0,2.0,2.0"
    assert len(numbers) == 61
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[-1] == "ours, bf16           first loss 4.00000, mean of the last 50 2.0000"
