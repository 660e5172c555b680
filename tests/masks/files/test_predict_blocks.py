"""scripts/predict_ray.py: every image once, also if a process of the cluster is killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.atomic import PART, claim_folder
from sam2unet.commands import predict_ray
from sam2unet.data.index.build import build_index
from sam2unet.data.index.select import IndexQuery
from sam2unet.errors import SomeFailed, UserError
from sam2unet.masks.files.predict_blocks import (
    BlockOptions,
    BlockPredictor,
    choose_resources,
    describe_maps,
    list_images_to_predict,
    merge_rows,
    run_blocks,
)
from tests.conftest import ROOT
from tests.med2d import pack_zip, write_med2d


def write_images(folder, count):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 30 + number % 9, 3), np.uint8)).save(folder / f"i{number:04}.png")
    return folder


def read_rows(folder):
    with open(folder / "maps.csv", newline="") as file:
        return list(csv.DictReader(file))


def predict_blocks(images, options, blocks):
    options.folder.mkdir(exist_ok=True)
    (options.folder / "rows").mkdir(exist_ok=True)
    BlockPredictor(images, options)({"data": np.array(blocks)})


def test_blocks_give_the_maps_of_predict(checkpoint, tmp_path):
    source = write_images(tmp_path / "images", 70)
    (source / "i0003.png").write_bytes(b"no image")
    images = list_images_to_predict(str(source), None, checkpoint)
    options = BlockOptions(checkpoint, tmp_path / "maps", 32, True, 2, {})
    predict_blocks(images, options, [1, 0])
    kept = (options.folder / "i0069.png").stat().st_mtime_ns
    predict_blocks(images, options, [0, 1])  # done blocks are not done again
    assert (options.folder / "i0069.png").stat().st_mtime_ns == kept
    (options.folder / f"rows/.000000000.csv{PART}").touch()  # of a process that was killed
    with pytest.raises(SomeFailed, match="1 of 70 images were left out"):
        merge_rows(options.folder, 70)
    rows = read_rows(options.folder)
    assert [int(row["number"]) for row in rows] == list(range(70)) and not (options.folder / "rows").exists()
    assert "cannot read" in rows[3]["error"] and rows[3]["map"] == ""
    model = sam2unet.load_model(checkpoint)
    for row in rows[::23]:
        wanted = sam2unet.predict(model, row["image"].removeprefix("file://"), size=32) * 255
        found = np.asarray(Image.open(options.folder / row["map"]))
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_an_index_is_predicted_from_its_archive(checkpoint, tmp_path):
    archive = pack_zip(write_med2d(tmp_path), tmp_path / "a.zip")
    build_index([archive], tmp_path / "index", workers=1)
    images = list_images_to_predict(None, IndexQuery(tmp_path / "index", where="modality=mr"), checkpoint)
    options = BlockOptions(checkpoint, tmp_path / "maps", 32, True, 1, {})
    predict_blocks(images, options, [0])
    merge_rows(options.folder, len(images))
    names = [row["map"] for row in read_rows(options.folder)]
    assert len(names) == 8 and names[0] == "SAMed2Dv1/images/mr_00--BraTS--Case_000--x_0000.png"
    assert all((options.folder / name).is_file() for name in names)


def test_a_list_of_files_is_relative_to_its_folder_and_hidden_files_are_no_images(tmp_path, monkeypatch):
    source = write_images(tmp_path / "images", 2)
    (source / "._i0000.png").write_bytes(b"of a Mac")
    assert len(list_images_to_predict(str(source), None, tmp_path)) == 2
    (tmp_path / "list.txt").write_text(f"\ufeffimages/i0000.png\n\n {source}/i0001.png \n")
    monkeypatch.chdir(source)
    images = list_images_to_predict(str(tmp_path / "list.txt"), None, tmp_path)
    assert [images.read(number).size for number in range(len(images))] == [(30, 40), (31, 40)]


def test_lists_of_images_that_cannot_work_are_refused(tmp_path):
    write_images(tmp_path / "images", 1)
    (tmp_path / "images/i0000.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for source, words in (
        (tmp_path / "images", "same name"),
        (tmp_path / "empty", "no images in"),
        (tmp_path / "none", "cannot list"),
        ("nothing://x", "cannot list nothing://x: Protocol not known"),
    ):
        with pytest.raises(UserError, match=words):
            list_images_to_predict(str(source), None, tmp_path)


def test_a_command_does_not_go_on_with_the_maps_of_another_one(checkpoint, tmp_path):
    images = list_images_to_predict(str(write_images(tmp_path / "images", 2)), None, checkpoint)
    other_images = list_images_to_predict(str(write_images(tmp_path / "others", 2)), None, checkpoint)
    other_checkpoint = tmp_path / checkpoint.name
    torch.save(torch.load(checkpoint, weights_only=True) | {"more": torch.ones(1)}, other_checkpoint)
    options = BlockOptions(checkpoint, tmp_path / "maps", 32, True, 2, {})
    claim_folder(options.folder, describe_maps(images, options))
    assert claim_folder(options.folder, describe_maps(images, replace(options, batch_size=1)))
    for others in (
        (other_images, options),
        (images, replace(options, checkpoint=other_checkpoint)),
        (images, replace(options, size=64)),
        (images, replace(options, minmax=False)),
    ):
        with pytest.raises(UserError, match="was made for maps of 2 images by Ray"):
            claim_folder(options.folder, describe_maps(*others))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--batch_size", 0), "batch_size is 0; it must be from 1"),
        (("--size", 7), "size is 7; it must be from 32"),
        (("--actors", -1), "actors is -1"),
        (("--gpus", -1), "gpus is -1.0"),
        (("--checkpoint", "none.pth"), "none.pth"),
    ],
)
def test_wrong_flags_are_refused_before_a_cluster_starts(flags, words, checkpoint, tmp_path):
    command = write_images(tmp_path / "images", 1), "--checkpoint", checkpoint, "--save_path", tmp_path / "maps"
    args = predict_ray.parser().parse_args([str(word) for word in (*command, *flags)])
    with pytest.raises(UserError, match=words):
        predict_ray.run(args)
    assert not (tmp_path / "maps").exists()


def test_processes_share_the_gpus_of_a_cluster_or_its_cores():
    assert choose_resources({"CPU": 8}, None, None) == (0, 8)
    assert choose_resources({"CPU": 8, "GPU": 2}, None, None) == (1, 2)
    assert choose_resources({"CPU": 8, "GPU": 2}, 0.5, None) == (0.5, 4)
    assert choose_resources({"CPU": 8}, 1, 3) == (1, 3)  # a cluster that grows
    with pytest.raises(UserError, match="--gpus is 1, but the cluster has 0 GPUs"):
        choose_resources({"CPU": 8}, 1, None)


def find_workers(marker: str) -> list[int]:
    """The processes of Ray that predict, whose environment has `marker`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_marked = marker.encode() in (folder / "environ").read_bytes()
            if is_marked and b"Worker" in (folder / "cmdline").read_bytes()[:60]:
                found.append(int(folder.name))
        except OSError:
            pass
    return found


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line(checkpoint, tmp_path):
    pytest.importorskip("ray.data")
    images = list_images_to_predict(str(write_images(tmp_path / "images", 1)), None, checkpoint)
    options = BlockOptions(checkpoint, tmp_path / "maps", 32, True, 1, {})
    with pytest.raises(UserError, match="^cannot connect to a Ray cluster at auto: Could not find any running Ray"):
        run_blocks(images, options, None, None, address="auto")


@pytest.mark.slow
def test_a_killed_process_of_the_cluster_loses_nothing(tmp_path):
    pytest.importorskip("ray.data")
    source = write_images(tmp_path / "images", 320)
    torch.manual_seed(0)
    path = tmp_path / "SAM2-UNet-1.pth"
    torch.save(sam2unet.create_model("sam2unet", encoder="tiny").state_dict(), path)
    flags = "--checkpoint", path, "--save_path", tmp_path / "maps", "--size", "32", "--actors", "2"
    command = [sys.executable, "-m", "sam2unet", "predict-ray", str(source), *map(str, flags)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MARKER": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "maps").glob("rows/*.csv")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    workers = find_workers(str(tmp_path))
    assert len(workers) >= 2
    os.kill(workers[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and f"320 maps in {tmp_path / 'maps'}" in out
    rows = read_rows(tmp_path / "maps")
    assert [int(row["number"]) for row in rows] == list(range(320))
    assert len({row["map"] for row in rows}) == 320 == len(list((tmp_path / "maps").glob("*.png")))
