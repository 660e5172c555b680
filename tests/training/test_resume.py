"""What is left of a run that is stopped, killed, or finds its disk full: enough to end as if nothing had happened."""

import os
import resource
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from sam2unet.errors import UserError
from sam2unet.recipe import Recipe
from sam2unet.training.run import RunFolder, find_resume_state
from sam2unet.training.state import write_run_state
from tests.conftest import write_pairs
from tests.training.waiting import read_progress, wait_for, wait_for_batch

FLAGS = "--size 64 --batch_size 2 --epoch 4 --warmup 4 --ema 0.9 --save_minutes 0 --device cpu --workers 1".split()


@pytest.fixture(scope="module")
def train(start, tmp_path_factory, sam2_micro):
    """A function that starts training on five images for twelve steps."""
    images, masks = write_pairs(tmp_path_factory.mktemp("data"), count=5)
    files = ["--hiera_path", sam2_micro, "--train_image_path", images, "--train_mask_path", masks]
    files += ["--val_image_path", images, "--val_mask_path", masks, "--val_every", 2]
    return lambda folder, *more: start("train.py", *files, *FLAGS, "--save_path", folder, *more)


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = finish(train(folder))
    assert code == 0 and "the averaged weights are still 28% those of the start; give a lower --ema, for" in err
    return folder


def finish(process) -> tuple[int, str, str]:
    ended = process.finish()
    return ended.returncode, ended.stdout, ended.stderr


def saved(folder) -> float:
    return (folder / "last.pt").stat().st_mtime if (folder / "last.pt").exists() else 0.0


def saved_after(process, folder, before) -> float:
    wait_for(process, lambda: saved(folder) > before)
    return saved(folder)


def same_end(folder, uninterrupted) -> bool:
    """Checkpoint, best checkpoint and log are those of the run that nobody disturbed."""
    for name in ("SAM2-UNet-4.pth", "best.pth"):
        a, b = (torch.load(path / name, weights_only=True) for path in (folder, uninterrupted))
        assert list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a), name
    kinds = [
        [line[:40] for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (folder, uninterrupted)
    ]
    return kinds[0] == kinds[1]


@pytest.mark.parametrize("moments", [(), pytest.param((2.2, 2.5, 2.8), marks=pytest.mark.slow)])
def test_killed_at_some_moments_a_run_ends_in_the_same_bits(moments, train, uninterrupted, tmp_path):
    """`moments` are in savings of last.pt. Two other moments are always there."""
    log = []
    for moment in (*moments, "in the middle of an epoch", "while last.pt is written"):
        before, unfinished = saved(tmp_path), set(tmp_path.glob(".last.pt.*.part"))  # of the run that was killed
        process = train(tmp_path, "--resume", "auto")
        if moment == "while last.pt is written":
            wait_for(process, lambda known=unfinished: set(tmp_path.glob(".last.pt.*.part")) - known)
        elif isinstance(moment, str):
            wait_for(process, lambda before=before: saved(tmp_path) > before and read_progress(tmp_path)["batch"] > 0)
        else:
            for _ in range(int(moment)):
                last, before = before, saved_after(process, tmp_path, before)
            time.sleep(moment % 1 * (before - last))
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        left = list(tmp_path.glob(".last.pt.*.part"))
        log.append(
            (moment, {key: read_progress(tmp_path)[key] for key in ("epoch", "batch")}, "half-written" if left else "")
        )
    print(*log, sep="\n")
    code, out, err = finish(train(tmp_path, "--resume", "auto"))
    assert code == 0, err
    assert same_end(tmp_path, uninterrupted), log
    assert not list(tmp_path.glob(".*.part"))


def test_a_signal_saves_first(train, uninterrupted, tmp_path):
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = saved(tmp_path)
        process = train(tmp_path, "--resume", "auto")
        wait_for(process, lambda before=before: saved(tmp_path) > before)
        os.killpg(process.pid, number)  # to the workers too, as Ctrl-C in a terminal
        code, _, err = finish(process)
        assert code == status
        assert err.splitlines()[-1].startswith("stopped") and "Traceback" not in err
    code, out, err = finish(train(tmp_path, "--resume", "auto"))
    assert code == 0 and "resumed at epoch" in out
    assert same_end(tmp_path, uninterrupted)


def test_a_state_from_before_a_field_of_the_recipe_was_there_is_resumed(tmp_path):
    then = asdict(Recipe(lr=0.1))
    del then["lr_scheduler"]
    write_run_state(tmp_path / "last.pt", {"recipe": then})
    run_folder = RunFolder(tmp_path, resume="auto")
    assert find_resume_state(run_folder, {"recipe": asdict(Recipe(lr=0.1))})["recipe"]["lr"] == 0.1
    for other in (Recipe(), Recipe(lr=0.1, lr_scheduler="constant")):
        with pytest.raises(UserError, match="a run with another recipe"):
            find_resume_state(run_folder, {"recipe": asdict(other)})


def test_a_second_run_in_the_folder_is_refused(train, uninterrupted, tmp_path):
    process = train(tmp_path)
    wait_for(process, lambda: saved(tmp_path) > 0)
    os.kill(process.pid, signal.SIGSTOP)  # so that it does not end before the second has tried
    code, _, err = finish(train(tmp_path, "--resume", "auto"))
    assert code == 2 and "another run is writing into" in err.splitlines()[-1]
    os.kill(process.pid, signal.SIGCONT)
    assert finish(process)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, _, err = finish(train(tmp_path))
    assert code == 2 and "holds a run; continue it with --resume auto" in err.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert same_end(tmp_path, uninterrupted)


def test_resuming_another_run_is_refused(train, uninterrupted, tmp_path):
    for flags, words in {
        ("--lr", "0.5"): "another recipe (lr was 0.001, is now 0.5)",
        ("--hiera_path", str(tmp_path / "none.pt")): "no such file",
    }.items():
        code, _, err = finish(train(uninterrupted, "--resume", "auto", *flags))
        assert code == 2 and words in err.splitlines()[-1]


def test_a_finished_run_resumes_to_nothing(train, uninterrupted):
    before = (uninterrupted / "last.pt").read_bytes()
    code, out, _ = finish(train(uninterrupted, "--resume", "auto"))
    assert code == 0 and "complete" in out
    assert (uninterrupted / "last.pt").read_bytes() == before


def test_a_full_disk_stops_the_run_and_keeps_the_last_state(train, uninterrupted, tmp_path):
    """A limit on the size of files stands in for the disk's end; it fails the same call."""
    process = train(tmp_path, "--resume", "auto")
    wait_for(process, lambda: saved(tmp_path) > 0)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    code, _, err = finish(process)
    assert code == 2 and "cannot write" in err.splitlines()[-1]
    assert finish(train(tmp_path, "--resume", "auto"))[0] == 0
    assert same_end(tmp_path, uninterrupted)


def test_a_reader_that_is_killed_ends_the_run_in_one_line(train, tmp_path):
    process = train(tmp_path, "--epoch", "200")
    wait_for_batch(process, tmp_path)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    for reader in children.stdout.split():
        os.kill(int(reader), signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, "Traceback" in err) == (2, False), err
    assert err.splitlines()[-1].startswith("error: a process that reads images was ended by the signal Killed")
