"""The scripts around the three: sample data, quickstart, the shell files, and the check of the installation."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from sam2unet.cli import check_installation
from sam2unet.data.check import check_pairs
from sam2unet.data.pairs import match
from tests.conftest import ROOT, write_pairs


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
    assert sorted(path.stem for path in (tmp_path / "result/maps").glob("*.png")) == ["e", "j"]
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


@pytest.fixture
def stranger():
    """A function that runs a script as user 65534, who may write into one folder alone and has no home; the folder."""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() != 0 or shutil.which(words[0]) is None:
        pytest.skip("only root can run a script as another user, with setpriv of util-linux")
    if subprocess.run([*words, sys.executable, "-c", f"open({str(ROOT / 'train.py')!r})"]).returncode:
        pytest.skip("user 65534 cannot read this installation")
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "OMP_NUM_THREADS": "1"}
    # The folder of `tmp_path` is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)

        def run_script(name, *flags):
            command = [*words, sys.executable, ROOT / name, *flags]
            result = subprocess.run(
                [str(word) for word in command], env=environment, cwd=folder, capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr
            return result.stdout

        yield run_script, Path(folder)


def test_all_three_scripts_run_for_a_user_without_a_home_folder(stranger):
    run_script, folder = stranger
    images, masks = write_pairs(folder, count=2)
    small = ["--encoder", "tiny", "--size", 64, "--batch_size", 2, "--epoch", 1, "--workers", 0]
    run_script("train.py", *small, "--train_image_path", images, "--train_mask_path", masks, "--save_path", "run")
    run_script("test.py", "--checkpoint", "run/SAM2-UNet-1.pth", "--test_image_path", images, "--save_path", "maps")
    scores = ["--dataset_name", "two", "--pred_path", "maps", "--gt_path", masks, "--workers", 1]
    assert "two           2" in run_script("eval.py", *scores)


def test_kernels_are_compiled_without_a_cache_where_there_is_no_place_for_one(monkeypatch):
    numba = pytest.importorskip("numba", reason="numba is not installed: pip install -e .[fast]")
    from numba.core.caching import CacheImpl

    from sam2unet.scoring.pixels.kernels_numba import compile_cached

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(run)
    assert compile_cached(lambda number: number + 1)(1) == 2


def test_warnings_of_libraries_are_hidden_and_ours_are_not(tmp_path):
    (tmp_path / "a.py").write_text(
        "import argparse, logging, subprocess, sys, warnings\n"
        "from sam2unet.cli import Parser, main\n"
        "from sam2unet.errors import warn\n"
        "def run(args):\n"
        "    warnings.warn('numpy', RuntimeWarning)\n"
        "    logging.getLogger('matplotlib').warning('matplotlib')\n"
        "    subprocess.run([sys.executable, '-c', 'import warnings; warnings.warn(\"child\")'])\n"
        "    warn('ours')\n"
        "main(Parser, run)\n"
    )
    for filters, shown in (("", False), ("ignore", False), ("default", True)):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": filters}
        command = [sys.executable, tmp_path / "a.py"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (result.stderr == "warning: ours\n") != shown and "warning: ours" in result.stderr
