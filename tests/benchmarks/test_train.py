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

from benchmarks import harness, models, train
from benchmarks.__main__ import parser
from sam2unet.errors import UserError
from tests.benchmarks.here import run_here
from tests.conftest import write_pairs


def test_the_table_has_numbers_and_both_ways_start_from_the_same_loss(capsys, tmp_path):
    images, masks = map(str, write_pairs(tmp_path, count=4))
    flags = "--encoder tiny --size 64 --batch_size 2 --warm_up 1 --steps 1 --rounds 1 --device cpu --workers 1".split()
    folders = ["--train_image_path", images, "--train_mask_path", masks]
    (table,) = run_here(["train", *folders, *flags, "--rows", "released", "ours"]).values()
    # At 64 a window of 14 on a grid of 4 is mostly padding, which the released way computes.
    assert "arithmetic per image, GFLOP: released 2.6 and 5.8, ours 1.2 and 2.8" in capsys.readouterr().out
    assert list(table) == ["released", "ours"]
    for row in table.values():
        assert min(float(row[title]) for title in ("images/s", "ratio", "of released", "loss 1")) > 0
        assert float(row["GiB at start"]) <= float(row["peak GiB"]) and row["of device's peak"].endswith("% of fp32")
    assert table["released"]["ratio"] == table["released"]["of released"] == "1.00"
    assert float(table["released"]["loss 1"]) == pytest.approx(float(table["ours"]["loss 1"]), abs=2e-5)


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Of each row's three updates."""
    images, masks = map(str, write_pairs(tmp_path_factory.mktemp("pairs"), count=4))
    flags = "--encoder micro --size 64 --steps 1 --device cpu --workers 0 --batch_size 2"
    args = parser().parse_args(["train", "--train_image_path", images, "--train_mask_path", masks, *flags.split()])
    args.machine = models.Machine("", {}, {})
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
    args = parser().parse_args(["train", "--rows", "released", row])
    with pytest.raises(UserError, match="^no row .*; there are released, and ours or fast"):
        models.complete_flags(args)


class Played:
    """Stands in for `harness.Alone`: returns results that are given, and raises the reasons among them."""

    def __init__(self, *results):
        self.results = iter(results)

    def run(self, function, *arguments):
        if isinstance(result := next(self.results), str):
            raise harness.NotMeasured(f"not measured: {result}")
        return result


def measure_played(folder, rounds: int, *rates) -> tuple[dict, list]:
    """Returns the table for these rates of released and ours, and the results in the file."""
    fixed = {
        "peak_gib": 1.0,
        "start_gib": 0.5,
        "precision": "fp32",
        "share": 0.024,
        "first_loss": 3.0,
        "last_loss": 2.0,
    }
    results = harness.Results(folder, "train")
    alone = Played(*(rate if isinstance(rate, str) else {"rate": rate} | fixed for rate in rates))
    args = argparse.Namespace(rows=["released", "ours"], rounds=rounds, alone=alone, results=results)
    harness.measure_rows(args, "train", "training", None)
    return harness.make_tables(results.read())["training"], results.read()


def test_a_row_that_could_not_be_measured_says_so_and_the_others_go_without_ratio(tmp_path):
    table, results = measure_played(tmp_path, 1, "out of memory", 24.0)
    assert [*table["released"].values()] == ["not measured: out of memory", *[""] * 7]
    assert [*table["ours"].values()] == ["24.0", "", "1.00", "", "0.50", "2.4% of fp32", "3.00000", "2.0000"]
    assert [result["ok"] for result in results] == [None, True]
    assert "| ours | 24.0 | | 1.00 | | 0.50 |" in (tmp_path / "results.md").read_text()


def test_a_row_that_fails_in_one_round_keeps_its_best_round(tmp_path):
    table, results = measure_played(tmp_path, 3, 2.0, "out of memory", "out of memory", 1.0, 3.0, 2.0)
    assert [[*row.values()][:2] for row in table.values()] == [["3.00", "1.00"], ["2.00", "0.67"]]
    assert len(results) == 6 and results[1]["result"] == "not measured: out of memory"


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


def test_losses_are_a_picture_and_are_compared(tmp_path, monkeypatch):
    numbers = dict(rate=1, losses=[4.0] * 10 + [2.0] * 50, first_loss=4.0, peak_gib=1, start_gib=1, share=None)
    monkeypatch.setattr(
        train, "measure_training", lambda args, row: numbers | {"last_loss": 2.5 if row == "fast" else 2}
    )
    images, masks = map(str, write_pairs(tmp_path, count=2))
    words = ["train", "--train_image_path", images, "--train_mask_path", masks, "--rounds", "1", "--encoder", "micro"]
    (tmp_path / "a").mkdir()
    tables = run_here(
        [*words, "--size", "64", "--device", "cpu", "--save_path", tmp_path / "a", "--rows", "ours", "fast"]
    )
    assert Image.open(tmp_path / "a/losses.png").width > 1000
    training, difference = tables.values()
    assert training["ours"]["last losses"] == "2.0000" and difference["difference"]["result"] == "25.00% (10%)"
