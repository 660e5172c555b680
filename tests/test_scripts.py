"""The scripts around the three: sample data, quickstart, the shell files, and the check of the installation."""

import importlib.metadata
import os
import subprocess
import sys

import numpy as np
import PIL
import pytest
from conftest import ROOT, write_pairs
from PIL import Image

from sam2unet.cli import check_installation
from sam2unet.data.check import check_pairs
from sam2unet.data.pairs import match


def test_sample_data_are_the_same_every_time_and_their_masks_exact(script, tmp_path):
    for name in ("a", "b"):
        result = script("scripts/make_sample_data.py", "--save_path", tmp_path / name)
        assert result.returncode == 0, result.stderr
    a, b = ({p.relative_to(tmp_path / n): p for p in (tmp_path / n).rglob("*.*")} for n in ("a", "b"))
    assert {name: p.read_bytes() for name, p in a.items()} == {name: p.read_bytes() for name, p in b.items()}
    for split, count in (("train", 200), ("test", 40)):
        pairs = match(tmp_path / "a" / split / "images", tmp_path / "a" / split / "masks")
        assert len(pairs) == count
        check_pairs(pairs)
        for pair in pairs:
            mask = np.asarray(Image.open(pair.mask))
            assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
            assert 0.05 < (mask > 0).mean() < 0.6
            assert all(200 <= side <= 500 for side in mask.shape) and Image.open(pair.image).size == mask.shape[::-1]


def test_quickstart_on_own_folders_holds_out_every_fifth_pair(script, tmp_path):
    write_pairs(tmp_path / "own", count=10)
    flags = ["--images", "own/images", "--masks", "own/masks", "--save_path", "result"]
    result = script("scripts/quickstart.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.stem for path in (tmp_path / "result/maps").iterdir()) == ["e", "j"]
    assert len(list((tmp_path / "result/data/train/images").iterdir())) == 8
    assert "held-out       2" in result.stdout and "best constant map" in result.stdout
    assert Image.open(tmp_path / "result/overview.png").size == (480, 320)
    kept = {path: path.read_bytes() for path in (tmp_path / "result").glob("*.p*t*")}
    assert len(kept) >= 2
    again = script("scripts/quickstart.py", *flags, cwd=tmp_path)
    assert again.returncode == 0 and "result is of an earlier quickstart, which goes on" in again.stdout, again.stderr
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize(
    "line, words",
    [
        ("quickstart.py --images data/images --masks data/masks --save_path .", "holds files that this script did not"),
        ("quickstart.py --images data/images --masks data/masks --save_path data", "holds files that this script did"),
        ("quickstart.py --images data/images --masks data/masks --save_path other", "was made for something else"),
        ("quickstart.py --save_path .", "holds files that this script did not make; give another --save_path"),
        ("make_sample_data.py --save_path data", "holds files that this script did not make"),
        ("make_sample_data.py --save_path other", "was made for something else, not for sample data, seed 0"),
        ("make_prompt_data.py data/images data/masks --save_path lists", "image2label_train.json is there already and"),
        (
            "make_prompt_data.py data/images data/masks --split regions --save_path data2",
            "holds files that this script",
        ),
    ],
)
def test_scripts_never_write_into_folders_of_the_user(line, words, script, tmp_path):
    write_pairs(tmp_path / "data", count=6)
    for name in ("maps/a.png", "lists/image2label_train.json", "data2/masks/a_000.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.sam2unet").write_text("something else")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = script(f"scripts/{line.split()[0]}", *line.split()[1:], cwd=tmp_path)
    assert result.returncode == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_shell_files_pass_their_variables_on(tmp_path):
    images, masks = write_pairs(tmp_path, count=3)
    environment = os.environ | {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "TRAIN_IMAGES": str(images),
        "TRAIN_MASKS": str(masks),
        "SAVE_PATH": str(tmp_path / "run"),
        "EPOCH": "1",
    }
    run(environment, "train.sh", "--encoder", "tiny", "--size", "64")
    environment |= {"CHECKPOINT": str(tmp_path / "run/SAM2-UNet-1.pth"), "TEST_IMAGES": str(images)}
    run(environment | {"SAVE_PATH": str(tmp_path / "maps"), "TEST_MASKS": str(masks)}, "test.sh")
    environment |= {"DATASET": "three", "PREDICTIONS": str(tmp_path / "maps"), "MASKS": str(masks)}
    assert "three         3" in run(environment, "eval.sh")


def run(environment, name, *flags):
    command = ["bash", str(ROOT / name), *flags]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_shell_file_says_which_variable_it_wants():
    result = subprocess.run(
        ["bash", str(ROOT / "eval.sh")], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert result.returncode != 0 and "set DATASET to a name for the table" in result.stderr


@pytest.mark.parametrize(
    "installed, pillow, words",
    [
        (["opencv-python-headless"], "12.3.0", None),
        (["opencv-python-headless", "opencv-python"], "12.3.0", "opencv-python-headless overwrite each other's cv2"),
        ([], "13.0.0", "Pillow 13 resizes portraits otherwise"),
    ],
)
def test_packages_that_change_numbers_are_warned_of(installed, pillow, words, monkeypatch, capsys):
    monkeypatch.setattr(importlib.metadata, "version", dict.fromkeys(installed, "4.12").get)
    monkeypatch.setattr(PIL, "__version__", pillow)
    check_installation()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(words) and (not words or words in lines[0])
