"""metrics.jsonl, TensorBoard's files and run.json: what a run leaves to read."""

import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.recipe import Recipe
from sam2unet.training.metrics_log import MetricsLog
from sam2unet.training.run_record import build_run_record, fingerprint, read_git_state, write_run_record
from tests.conftest import save, write_pairs


def lines(folder: Path) -> list[dict]:
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_lines_are_json_and_there_at_once(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("train", 1, losses={"main": 0.5, "side1": math.inf}, rate=1e-3)
    log.write("validation", 1, S=math.nan, MAE=np.float64(0.25), epoch=1)
    assert lines(tmp_path) == [
        {"kind": "train", "step": 1, "losses": {"main": 0.5, "side1": None}, "rate": 1e-3},
        {"kind": "validation", "step": 1, "S": None, "MAE": 0.25, "epoch": 1},
    ]
    log.picture("validation", tmp_path / "none.png", 1)  # for TensorBoard alone
    log.close()
    MetricsLog(tmp_path).close()
    assert lines(tmp_path) == []


def test_a_resumed_run_goes_on_behind_its_state_s_step(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, loss=float(step))
    log.write("validation", 2, S=0.5)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # killed here
    log = MetricsLog(tmp_path, step=2)
    log.write("validation", 2, S=0.5)  # was on disk already
    log.write("epoch", 2, loss=1.5)  # was not
    log.write("train", 3, loss=30.0)
    log.write("validation", 3, S=0.6)
    found = [(line["kind"], line["step"]) for line in lines(tmp_path)]
    assert found == [("train", 1), ("train", 2), ("validation", 2), ("epoch", 2), ("train", 3), ("validation", 3)]
    assert lines(tmp_path)[4]["loss"] == 30.0


def test_tensorboard_reads_numbers_and_pictures_also_of_a_resumed_run(tmp_path):
    save(tmp_path / "sheet.png", np.full((10, 20, 3), 77, np.uint8))
    log = MetricsLog(tmp_path, tensorboard=True)
    log.picture("validation", tmp_path / "sheet.png", 1)
    for step in (1, 2, 3):
        log.write("train", step, losses={"main": step / 8}, memory=5, note="words")
    # Not closed: a run that is killed leaves it so.
    resumed = MetricsLog(tmp_path, tensorboard=True, step=2)
    resumed.write("train", 3, losses={"main": 9.0})
    resumed.close()
    found = events(tmp_path)
    assert found.Tags()["scalars"] == ["train/losses/main", "train/memory"]
    assert [(e.step, e.value) for e in found.Scalars("train/losses/main")] == [(1, 0.125), (2, 0.25), (3, 9.0)]
    (picture,) = found.Images("validation")
    assert (picture.step, picture.width, picture.height) == (1, 20, 10)
    log.close()
    MetricsLog(tmp_path, tensorboard=True).write("train", 1, losses={"main": 4.0})
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("train/losses/main")] == [(1, 4.0)]


def test_without_tensorboard_installed_the_flag_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UserError, match="pip install tensorboard"):
        MetricsLog(tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())
    MetricsLog(tmp_path).write("train", 1, loss=0.5)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    log = MetricsLog(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))  # as of a disk that is full
    try:
        log.write("train", 1, loss=0.5)
        with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: File too large.*--resume auto"):
            log.write("train", 2, loss=0.5)
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = tmp_path / "other"
    (folder / "metrics.jsonl").mkdir(parents=True)
    for step in (0, 5):
        with pytest.raises(UserError, match=r"cannot (write|read) .*metrics.jsonl: Is a directory"):
            MetricsLog(folder, step=step)


def test_a_record_says_what_the_run_was_made_of(tmp_path):
    images, masks = write_pairs(tmp_path)
    pairs, device = match(images, masks), torch.device("cpu")
    arguments, weights = {"save_path": tmp_path, "lr": 0.1}, {"sam2_hiera_tiny.pt": "ab12"}
    facts = {"recipe": vars(Recipe(lr=0.1)), "data": fingerprint(pairs), "validation_set": fingerprint(pairs[:1])}
    write_run_record(tmp_path, build_run_record(arguments, facts, device, weights, world=2))
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["arguments"] == {"save_path": str(tmp_path), "lr": 0.1}
    assert found["recipe"]["lr"] == 0.1 and found["recipe"]["epoch"] == 20 and found["weights"] == weights
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "sam2unet", "timm", "opencv-python-headless"} <= set(found["versions"])
    assert found["device"]["type"] == "cpu" and found["device"]["cpu"] and found["device"]["processes"] == 2
    assert found["device"]["threads"] == torch.get_num_threads()
    assert (found["data"]["count"], found["validation"]["count"]) == (4, 1)
    assert found["started"].endswith("+00:00")


def test_a_fingerprint_knows_other_data_but_not_other_places(tmp_path):
    images, masks = write_pairs(tmp_path / "a", count=3)
    first = fingerprint(match(images, masks))
    files = [*images.iterdir(), *masks.iterdir()]
    assert first["count"] == 3 and first["bytes"] == sum(path.stat().st_size for path in files)
    assert first["sizes"] == {"min": "60x50", "max": "60x50", "distinct": 1}
    pairs = match(*write_pairs(tmp_path / "b", count=3))
    assert fingerprint(pairs) == first
    assert fingerprint(pairs[::-1])["names_sha256"] != first["names_sha256"]  # batches are drawn by place
    assert fingerprint(pairs[:2])["count"] == 2
    Image.new("RGB", (200, 20)).save(pairs[0].image)
    Image.new("RGB", (10, 100)).save(pairs[1].image)
    assert fingerprint(pairs)["sizes"] == {"min": "10x100", "max": "200x20", "distinct": 3}
    pairs[2].image.write_bytes(b"no image")
    with pytest.raises(UserError, match="c.jpg"):
        fingerprint(pairs)


def test_the_git_state_is_that_of_the_project_s_own_checkout(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert read_git_state(tmp_path) is None
    (tmp_path / "sam2unet").mkdir()
    (tmp_path / "sam2unet/a.py").write_text("1")
    git("init", "--quiet")
    assert read_git_state(tmp_path) is None  # nothing committed yet
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/notes.txt").write_text("results do not change the code")
    assert read_git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "sam2unet/b.py").write_text("2")
    assert read_git_state(tmp_path)["dirty"] is True
    assert read_git_state(tmp_path / "sam2unet") is None  # as a package installed inside another project
    monkeypatch.setenv("PATH", "")
    assert read_git_state(tmp_path) is None
