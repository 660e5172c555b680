"""An index holds the images and masks of its sources, finds faults, and gives the parts that a run asks for."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from sam2unet.data.images.masks import read_mask
from sam2unet.data.index.build import build_index
from sam2unet.data.index.columns import Index
from sam2unet.data.index.select import IndexQuery, open_index_parts
from sam2unet.errors import UserError
from tests.conftest import ROOT
from tests.med2d import pack_zip, write_med2d


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_med2d(tmp_path_factory.mktemp("med2d"))


@pytest.fixture(scope="module")
def index(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index"
    build_index([folder], path, workers=1)
    return path


def name_items(items):
    return {item.image.name: [mask.name for mask in item.masks] for item in items}


def test_every_image_has_the_masks_that_its_name_says(folder, index):
    wanted = {
        image.name: sorted(mask.name for mask in (folder / "masks").glob(f"{image.stem}--*"))
        for image in sorted((folder / "images").iterdir())
    }
    assert name_items(Index.open(index).items) == wanted
    facts = json.loads((index / "index.json").read_text())
    assert facts["modality"] == {"ct": 16, "mr": 8} and facts["dataset"] == {"AMOS": 8, "Brain_PTM": 8, "BraTS": 8}
    assert facts["class"] == {"0": 24, "1": 24}
    assert facts["checked"] == 24 and facts["faults"]["KNOWN"] == {"image": 8, "mask": 16}


def test_archives_give_the_items_of_the_folder(folder, index, tmp_path):
    zipped = build_index([pack_zip(folder, tmp_path / "a.zip")], tmp_path / "zip", workers=1)
    assert name_items(zipped.items) == name_items(Index.open(index).items)
    for name in ("image_width", "mask_foreground", "mask_fault", "image_case"):
        assert np.array_equal(zipped.column(name), Index.open(index).column(name))


def test_foreground_and_size_are_those_of_the_files(index):
    opened = Index.open(index)
    for row, mask in zip(opened.order, opened.items.pairs, strict=True):
        assert opened.column("mask_foreground")[row] == np.count_nonzero(read_mask(mask.mask, 0))
    assert set(opened.column("image_width")) == {48}


def test_faults_are_counted_and_left_out(tmp_path, capsys):
    folder = write_med2d(tmp_path, cases=3)
    masks = sorted((folder / "masks").glob("*AMOS*"))
    masks[0].write_bytes(b"no image")
    Image.new("L", (10, 48), 255).save(masks[1])
    Image.new("L", (48, 48), 0).save(masks[2])
    Image.new("L", (48, 48), 7).save(masks[3])
    soft = np.zeros((48, 48), np.uint8)
    soft[:9], soft[9] = 255, 100
    Image.fromarray(soft).save(masks[4])
    images = sorted((folder / "images").glob("*AMOS*"))
    images[-1].write_bytes(images[-1].read_bytes()[:200])
    opened = build_index([folder], tmp_path / "index", workers=1)
    counts = {name: tuple(count.values()) for name, count in opened.facts["faults"].items()}
    wanted = {"UNREADABLE": (1, 1), "SIZE": (0, 1), "EMPTY": (0, 1), "CODING": (0, 1), "SOFT": (0, 1)}
    assert counts == wanted | {"KNOWN": (6, 12)}
    capsys.readouterr()
    parts = open_index_parts(IndexQuery(tmp_path / "index", where="dataset=AMOS"), seed=0)
    kept = [mask.name for _, mask in parts.training.items.pairs]
    assert kept == [mask.name for mask in masks[4:-2]]
    line = capsys.readouterr().out
    assert "6 of 12 masks are left out" in line and "1: masks are empty" in line
    rule = open_index_parts(IndexQuery(tmp_path / "index", where="dataset=AMOS"), seed=0, rule=6)
    assert {masks[2].name, masks[3].name} < {mask.name for _, mask in rule.training.items.pairs}


def test_a_case_is_in_one_part_and_the_seed_decides_in_which(index):
    def cases(seed):
        parts = open_index_parts(IndexQuery(index, split="case:0.5"), seed)
        return [
            {item.image.stem.rpartition("--")[0] for item in part} for part in (parts.training.items, parts.held_out)
        ]

    first, again, other = cases(1), cases(1), cases(2)
    assert first == again != other
    assert first[0] and first[1] and not first[0] & first[1]
    assert len(first[0] | first[1]) == 8  # the third data set has a known fault


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ("modality=mr", lambda name: "mr_00" in name),
        ("modality=ct|mr and dataset!=Br*", lambda name: "AMOS" in name),
        ("class=1", lambda name: "--0001_" in name),
        ("class!=1 and case=BraTS/Case_002", lambda name: "BraTS--Case_002" in name and "--0000_" in name),
        ("class<1 and width>10", lambda name: "--0000_" in name),
        ("dataset=AM* and foreground>0", lambda name: "AMOS" in name),
    ],
)
def test_conditions_choose_masks(index, where, keep):
    pairs = open_index_parts(IndexQuery(index, where=where), seed=0).training.items.pairs
    everything = [mask.name for _, mask in Index.open(index).items.pairs if "PTM" not in mask.name]
    assert [mask.name for _, mask in pairs] == [name for name in everything if keep(name)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"where": "modality"}, "wanted COLUMN=VALUE"),
        ({"where": "colour=red"}, "the columns are"),
        ({"where": "class=x"}, "is a number"),
        ({"where": "dataset>3"}, "are for one number"),
        ({"where": "dataset=NONE"}, "there are AMOS, BraTS, Brain_PTM|no dataset has this name"),
        ({"where": "class=9"}, "no image without faults"),
        ({"split": "0.9"}, "for example case:0.9"),
        ({"split": "case:1.5"}, "for example case:0.9"),
        ({"balance": "class"}, "dataset"),
    ],
)
def test_wrong_parts_are_refused(index, flags, words):
    with pytest.raises(UserError, match=words):
        open_index_parts(IndexQuery(index, **flags), seed=0)


def test_balance_sorts_by_group(index):
    part = open_index_parts(IndexQuery(index, balance="dataset"), seed=0).training
    names = [item.image.name.split("--")[1] for item in part.items]
    assert part.groups.tolist() == [0, 8, 16] and names == ["AMOS"] * 8 + ["BraTS"] * 8
    assert all(mask.name.startswith(image.stem) for image, mask in part.items.pairs)


def test_a_killed_build_goes_on(tmp_path):
    folder = write_med2d(tmp_path, cases=30, masks=4)
    words = "import sys, time; from pathlib import Path; from sam2unet.data.index import build\n"
    words += "import importlib; check_files = importlib.import_module('sam2unet.data.index.check_files')\n"
    words += "check_chunk = check_files.check_chunk\n"
    words += "def check_slowly(*chunk):\n    time.sleep(0.05)\n    return check_chunk(*chunk)\n"
    words += "check_files.check_chunk, check_files.CHUNK = check_slowly, 4\n"
    words += "build.build_index([Path(sys.argv[1])], Path(sys.argv[2]), workers=1)\n"
    command = [sys.executable, "-c", words, str(folder), str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline, faults = time.monotonic() + 60, tmp_path / "killed/image_fault.npy"
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "killed/plan.json").exists() and 0 < np.count_nonzero(np.load(faults) & 128) < 100:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(UserError, match="it goes on"):
        Index.open(tmp_path / "killed")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other sources"):
        build_index([tmp_path / "other"], tmp_path / "killed")
    finished = build_index([folder], tmp_path / "killed", workers=1)
    whole = build_index([folder], tmp_path / "whole", workers=2)
    assert finished.facts["digest"] == whole.facts["digest"] and finished.facts["checked"] == 180


def test_a_sample_is_checked(folder, tmp_path):
    opened = build_index([folder], tmp_path / "index", sample=0.25, workers=1)
    assert opened.facts["checked"] == 6
    assert len(open_index_parts(IndexQuery(tmp_path / "index"), seed=0).training.items) == 16
    with pytest.raises(UserError, match="above 0"):
        build_index([folder], tmp_path / "b", sample=0)


def test_a_changed_archive_is_refused(folder, tmp_path):
    path = pack_zip(folder, tmp_path / "a.zip")
    build_index([path], tmp_path / "index", workers=1)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x", "y")
    with pytest.raises(UserError, match="has changed"):
        Index.open(tmp_path / "index")
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        Index.open(tmp_path / "index")


def test_rows_of_imed361m_are_masks(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "BTCV"
    (root / "image").mkdir(parents=True)
    (root / "label").mkdir()
    masks = rng.integers(0, 2, (3, 20, 30), np.uint8)
    masks[1] = 0
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(root / f"image/{name}.png")
        sparse.save_npz(root / f"label/{name}.(3, 20, 30, 1).npz", sparse.csr_matrix(masks.reshape(3, -1)))
    for number, source in enumerate((root, pack_zip(root, tmp_path / "BTCV.zip"))):
        build_index([source], tmp_path / f"index{number}", workers=1)
        items = open_index_parts(IndexQuery(tmp_path / f"index{number}"), seed=0).training.items
        assert [item.image.name for item in items] == ["a.png", "b.png"]
        for item in items:
            found = [np.asarray(read_mask(mask)) // 255 for mask in item.masks]
            assert np.array_equal(found, masks[[0, 2]])  # the second class is absent


def test_a_list_gives_its_items(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, *_ = sorted((folder / "images").iterdir())
    masks = sorted((folder / "masks").glob(f"{image.stem}--*"))
    (tmp_path / "list.json").write_text(json.dumps({str(image): [str(mask) for mask in masks[::-1]]}))
    opened = build_index([tmp_path / "list.json"], tmp_path / "index", workers=1)
    assert list(opened.items) == [(image, tuple(masks[::-1]))]


def test_wrong_sources_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for sources, words in (
        ([tmp_path / "none"], "no such folder or archive"),
        ([tmp_path / "empty"], "no mask belongs to an image among 0 images"),
    ):
        with pytest.raises(UserError, match=words):
            build_index(sources, tmp_path / "index", workers=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds files"):
        build_index([folder], tmp_path / "mine", workers=1)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"
