"""The scripts around the three: sample data, quickstart, the shell files, and the check of the installation."""

import importlib.metadata
import json
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
from sam2unet.commands import make_sample_data
from sam2unet.data import sample_images
from sam2unet.data.checks.check import check_pairs
from sam2unet.data.pairs import match
from tests.conftest import ROOT, load_script, write_pairs


def test_sample_data_are_the_same_every_time_and_their_masks_exact(sample_data, run_main, tmp_path, monkeypatch):
    assert sample_images.COUNTS == {"train": 200, "test": 40}
    monkeypatch.setattr(sample_images, "COUNTS", {"train": 12, "test": 4})
    assert run_main(make_sample_data, "--save_path", tmp_path / "b")[0] == 0
    again = [path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*.*g")]
    assert len(again) == 2 * 16
    assert all((sample_data / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in again)
    for split, count in (("train", 20), ("test", 12)):
        pairs = match(sample_data / split / "images", sample_data / split / "masks")
        assert len(pairs) == count
        check_pairs(pairs)
        for pair in pairs:
            mask = np.asarray(Image.open(pair.mask))
            assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
            assert 0.05 < (mask > 0).mean() < 0.6
            assert all(200 <= side <= 500 for side in mask.shape) and Image.open(pair.image).size == mask.shape[::-1]


@pytest.mark.parametrize(
    "line, words",
    [
        ("quickstart.py --images data/images --masks data/masks --save_path .", "holds files that this script did not"),
        ("quickstart.py --images data/images --masks data/masks --save_path data", "holds files that this script did"),
        ("quickstart.py --images data/images --masks data/masks --save_path other", "was made for something else"),
        ("quickstart.py --save_path .", "holds files that this script did not make; give another --save_path"),
        ("make_sample_data.py --save_path data", "holds files that this script did not make"),
        ("make_sample_data.py --save_path other", "was made for something else, not for sample data, seed 0"),
        ("make_prompt_data.py data/images data/masks --save_path lists", "image2label_train.json exists and"),
        (
            "make_prompt_data.py data/images data/masks --split regions --save_path data2",
            "holds files that this script",
        ),
    ],
)
def test_scripts_never_write_into_folders_of_the_user(line, words, run_py, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data", count=6)
    for name in ("maps/a.png", "lists/image2label_train.json", "data2/masks/a_000.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.sam2unet").write_text("something else")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ended = run_py(f"scripts/{line.split()[0]}", *line.split()[1:])
    assert ended.is_refusal(words), ended
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


ECHO = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n'
SHELL_FILES = {  # variables -> the command line
    "train.sh": (
        "TRAIN_IMAGES=i TRAIN_MASKS=m SAVE_PATH=s HIERA_PATH=h DINOV2_PATH=d MODEL=sam2unext EPOCH=1 LR=2 BATCH_SIZE=3",
        "train.py --train_image_path i --train_mask_path m --save_path s --model sam2unext --hiera_path h "
        "--dinov2_path d --epoch 1 --lr 2 --batch_size 3 --size 64",
    ),
    "train.sh for SAM3-UNet": (
        "DATA=d SAVE_PATH=s MODEL=sam3unet SAM3_PATH=w",
        "train.py --data d --save_path s --model sam3unet --sam3_path w --size 64",
    ),
    "train.sh with a list": (
        "DATA_PATH=d SAVE_PATH=s SAM_CHECKPOINT=c",
        "train.py --data_path d --save_path s --sam_checkpoint c --size 64",
    ),
    "train.sh with a folder": ("DATA=d SAVE_PATH=s", "train.py --data d --save_path s --size 64"),
    "train.sh with a folder and images": (
        "DATA=d TRAIN_IMAGES=i TRAIN_MASKS=m SAVE_PATH=s",
        "train.py --train_image_path i --train_mask_path m --save_path s --size 64",
    ),
    "test.sh": (
        "CHECKPOINT=c TEST_IMAGES=i TEST_MASKS=m SAVE_PATH=s",
        "test.py --checkpoint c --test_image_path i --test_gt_path m --save_path s --size 64",
    ),
    "test.sh without masks": (
        "CHECKPOINT=c TEST_IMAGES=i SAVE_PATH=s",
        "test.py --checkpoint c --test_image_path i --save_path s --size 64",
    ),
    "test.sh with a list": (
        "CHECKPOINT=c DATA_PATH=d SAVE_PATH=s SAM_CHECKPOINT=b",
        "test.py --checkpoint c --data_path d --sam_checkpoint b --save_path s --size 64",
    ),
    "test.sh with a folder": (
        "CHECKPOINT=c DATA=d SAVE_PATH=s",
        "test.py --checkpoint c --data d --save_path s --size 64",
    ),
    "eval.sh": (
        "DATASET=d PREDICTIONS=p MASKS=m",
        "eval.py --dataset_name d --pred_path p --gt_path m --workers 1",
    ),
}


@pytest.mark.parametrize("name", SHELL_FILES)
def test_shell_files_pass_their_variables_on(name, tmp_path):
    """A copy of the file runs a `python` that prints its arguments."""
    variables, line = SHELL_FILES[name]
    file, (script, *flags) = name.split()[0], line.split()
    shutil.copy(ROOT / file, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(ECHO)
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"]} | dict(word.split("=") for word in variables.split())
    command = ["bash", str(tmp_path / file), *flags[-2:]]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / script), *flags]
    load_script(script).parser().parse_args(flags)  # ends the test if a flag is wrong


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
        ([], "13.0.0", "Pillow 13 resizes portraits differently"),
    ],
)
def test_packages_that_change_numbers_are_warned_of(installed, pillow, words, monkeypatch, capsys):
    monkeypatch.setattr(importlib.metadata, "version", dict.fromkeys(installed, "4.12").get)
    monkeypatch.setattr(PIL, "__version__", pillow)
    check_installation()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(words) and (not words or words in lines[0])


ONE_PROCESS = """import json, runpy, sys
from tests.networks import add_sizes
add_sizes()
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture
def stranger():
    """A function that runs scripts as user 65534, who may write into one folder alone and has no home; the folder."""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() != 0 or shutil.which(words[0]) is None:
        pytest.skip("only root can run a script as another user, with setpriv of util-linux")
    if subprocess.run([*words, sys.executable, "-c", f"open({str(ROOT / 'train.py')!r})"]).returncode:
        pytest.skip("user 65534 cannot read this installation")
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # The folder of `tmp_path` is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)

        def run_scripts(*scripts):
            lines = json.dumps([[str(word) for word in (ROOT / name, *flags)] for name, *flags in scripts])
            command = [*words, sys.executable, "-c", ONE_PROCESS, lines]
            result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            return result.stdout

        yield run_scripts, Path(folder)


def test_all_three_scripts_run_for_a_user_without_a_home_folder(stranger):
    run_scripts, folder = stranger
    images, masks = write_pairs(folder, count=2)
    small = ["--encoder", "micro", "--size", 64, "--batch_size", 2, "--epoch", 1, "--workers", 0]
    train = ["train.py", *small, "--train_image_path", images, "--train_mask_path", masks, "--save_path", "run"]
    test = ["test.py", "--checkpoint", "run/SAM2-UNet-1.pth", "--test_image_path", images, "--save_path", "maps"]
    scores = ["eval.py", "--dataset_name", "two", "--pred_path", "maps", "--gt_path", masks, "--workers", 1]
    assert "two           2" in run_scripts(train, test, scores)


def test_kernels_are_compiled_without_a_cache_where_there_is_no_place_for_one(monkeypatch):
    numba = pytest.importorskip("numba", reason="numba is not installed: pip install -e .[fast]")
    from numba.core.caching import CacheImpl

    from sam2unet.runtime.compiled import compile_cached

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(write_pairs)
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
