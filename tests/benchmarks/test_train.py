"""The benchmark of training: the rows do the same work, and what cannot be measured says so. No time is asserted."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import harness, train
from benchmarks.__main__ import parser, run
from sam2unet.errors import UserError
from tests.benchmarks.here import Here
from tests.conftest import write_pairs


def test_the_table_has_numbers_and_both_ways_start_from_the_same_loss(capsys, tmp_path):
    images, masks = map(str, write_pairs(tmp_path, count=4))
    flags = "--encoder tiny --size 64 --batch_size 2 --steps 2 --rounds 1 --device cpu --workers 1".split()
    folders = ["--train_image_path", images, "--train_mask_path", masks]
    args = parser().parse_args(["train", *folders, *flags, "--rows", "released", "ours"])
    args.alone = Here()
    run(args)
    out = capsys.readouterr().out
    # At 64 a window of 14 on a grid of 4 is mostly padding, which the released way computes.
    assert "arithmetic per image, forward and in training, GFLOP: released 2.6 and 5.8, ours 1.2 and 2.8" in out
    table = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith(("| released", "| ours"))]
    assert [cells[0] for cells in table] == ["released", "ours"]
    for _, rate, ratio, peak, share, start, of_peak, loss in table:
        assert min(map(float, (rate, ratio, peak, share, start, loss))) > 0
        assert float(start) <= float(peak) and of_peak.endswith("% of fp32")
    assert table[0][2] == table[0][4] == "1.00"
    assert float(table[0][-1]) == pytest.approx(float(table[1][-1]), abs=2e-5)


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Of each row's three updates."""
    images, masks = map(str, write_pairs(tmp_path_factory.mktemp("pairs"), count=4))
    p = argparse.ArgumentParser()
    train.add_flags(p)
    flags = "--encoder micro --size 64 --steps 1 --device cpu --workers 0 --seed 3 --batch_size 2"
    args = p.parse_args(["--train_image_path", images, "--train_mask_path", masks, *flags.split()])
    harness.check_flags(args)
    return {row: train.measure_training(args, row)["losses"] for row in train.ROWS}


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
        harness.check_flags(argparse.Namespace(rows=["released", row], options=train.OPTIONS))


class Played:
    """Stands in for `harness.Alone`: returns results that are given, and raises the reasons among them."""

    def __init__(self, *results):
        self.results = iter(results)

    def run(self, function, *arguments):
        if isinstance(result := next(self.results), str):
            raise harness.NotMeasured(f"not measured: {result}")
        return result


def measure_played(rows: str, rounds: int, machine: dict, *results) -> tuple[str, list]:
    """Returns the table of the benchmark of training for these results, and what was recorded."""
    records = []
    args = argparse.Namespace(
        rows=rows.split(), rounds=rounds, alone=Played(*results), record=lambda *result: records.append(result)
    )
    return harness.measure_rows(args, "training", None, train.COLUMNS, machine)[0], records


def test_a_row_that_could_not_be_measured_says_so_and_the_others_go_without_ratio():
    ours = {"rate": 24.0, "start_gib": 0.5, "peak_gib": 1.0, "first_loss": 3.0, "kind": "fp32"}
    machine = {"flops": {"released": (1, 2), "ours": (1, 1e9)}, "peaks": {"fp32": 1e12}}
    text, records = measure_played("released ours", 1, machine, "out of memory", ours)
    assert text.splitlines()[5:] == [
        "| released | not measured: out of memory | | | | | | |",
        "| ours | 24.0 | | 1.00 | | 0.50 | 2.4% of fp32 | 3.00000 |",
    ]
    assert [record[1:3] for record in records] == [("released", "not measured: out of memory"), ("ours", ours)]


def test_a_row_that_fails_in_one_round_keeps_its_best_round():
    fixed = {"peak_gib": 1, "start_gib": 1, "kind": "fp32", "first_loss": 1}
    machine = {"flops": {"released": (1, 1), "ours": (1, 1)}, "peaks": {}}
    rates = [2.0, "out of memory", "out of memory", 1.0, 3.0, 2.0]
    results = (rate if isinstance(rate, str) else {"rate": rate} | fixed for rate in rates)
    text, records = measure_played("released ours", 3, machine, *results)
    assert [line.strip("| ").split(" | ")[:3] for line in text.splitlines()[5:]] == [
        ["released", "3.00", "1.00"],
        ["ours", "2.00", "0.67"],
    ]
    assert len(records) == 6 and records[1][1:] == ("ours", "not measured: out of memory", {})


def raise_out_of_memory():
    raise torch.OutOfMemoryError


def import_nothing():
    import no_such_package  # noqa: F401


def divide():
    return 1 / 0


@pytest.mark.parametrize(
    "work, reason",
    [
        (raise_out_of_memory, "not measured: out of memory"),
        (os.abort, "not measured: its process was killed"),
        (import_nothing, "not measured: the package no_such_package is not installed"),
        (divide, "failed: ZeroDivisionError: division by zero"),
        (sys.exit, "failed: SystemExit"),
    ],
)
def test_a_process_that_fails_says_why(work, reason, tmp_path):
    with pytest.raises(harness.NotMeasured, match=f"^{reason}$"):
        harness.Alone(log=tmp_path / "log").run(work)
    assert ("Traceback" in (tmp_path / "log").read_text()) == reason.startswith("failed")


def start_sleeper(file):
    """Starts a process that writes its number into `file`, and sleeps like this one."""
    subprocess.Popen(["sh", "-c", f"echo $$ > {file}; exec sleep 100"])
    time.sleep(100)


def test_the_time_limit_ends_a_process_and_its_children(tmp_path):
    file = tmp_path / "pid"
    harness.Alone().run(divmod, 1, 1)  # what all processes import takes time
    with pytest.raises(harness.NotMeasured, match="^not measured: the time of its step was over$"):
        harness.Alone(deadline=time.monotonic() + 6).run(start_sleeper, file)
    status = Path(f"/proc/{file.read_text().strip()}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"
    with pytest.raises(harness.NotMeasured, match="was over"):
        harness.Alone(deadline=time.monotonic() - 1).run(divmod, 1, 1)


def test_losses_are_a_picture_and_a_result_of_each_row(tmp_path, monkeypatch):
    losses = [4.0] * 10 + [2.0] * 50
    numbers = {"rate": 1, "losses": losses, "first_loss": 4.0, "last_loss": 2.0}
    monkeypatch.setattr(
        train, "measure_training", lambda args, row: numbers | {"last_loss": 2.5 if row == "fast" else 2}
    )
    words = ["--train_image_path", "i", "--train_mask_path", "m", "--rounds", "1", "--save_path", str(tmp_path / "a")]
    args, records = parser().parse_args(["losses", *words]), []
    args.alone, args.record = Here(), lambda *result: records.append(result)
    run(args)
    assert Image.open(tmp_path / "a/losses.png").width > 1000
    assert [row for _, row, _, _ in records] == ["released", "ours", "fast", "difference"]
    assert records[0][3] == {"first loss": "4.00000", "mean of the last 50": "2.0000"}
    assert records[3][2:] == ({"ok": False}, {"mean of the last 50": "25.00% (10%)"})
