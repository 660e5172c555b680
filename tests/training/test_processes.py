"""Several processes on one run: real ones that talk through gloo."""

import json
import os
import signal
import subprocess

import pytest
import torch

import sam2unet
from sam2unet.data.batches import Batches
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.masks.validate import validate
from tests.conftest import write_pairs
from tests.training.waiting import read_progress, wait_for_batch

# train.py as a user runs it, but in float64, where two orders of adding up differ by less than 1e-9.
DOUBLE = "import runpy, torch; torch.set_default_dtype(torch.float64); runpy.run_path('train.py', run_name='__main__')"


@pytest.fixture
def words(tmp_path):
    """Flags that train on so many images and save to the folder of that name."""

    def flags(name, images):
        image_folder, mask_folder = write_pairs(tmp_path, count=images)
        data = ["--train_image_path", image_folder, "--train_mask_path", mask_folder]
        small = "--encoder micro --finetune adapters --size 64 --batch_size 2 --epoch 1 --device cpu --workers 0"
        return [*data, *small.split(), "--save_path", tmp_path / name]

    return flags


def test_two_processes_take_the_steps_of_one(script, two_processes, words, tmp_path):
    double = tmp_path / "double.py"
    double.write_text(DOUBLE)
    one = script(double, *words("one", 6))
    assert one.returncode == 0, one.stderr
    for name, more in (("two", ["--sync_bn"]), ("apart", [])):
        two = two_processes(double, *words(name, 6), *more)
        assert two.returncode == 0, two.stderr
        assert two.stdout.count("data: 6 pairs") == 1 and two.stdout.count("saved") == 1  # one writer
        assert "Warning" not in two.stderr
    one, two, apart = (torch.load(tmp_path / f"{name}/SAM2-UNet-1.pth") for name in ("one", "two", "apart"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-9, msg=name)
    # Without --sync_bn, BatchNorm of one image each.
    assert not torch.allclose(apart["head.weight"], one["head.weight"], rtol=0, atol=1e-6)


def test_two_processes_validate_the_checkpoint_that_the_first_one_writes(two_processes, words, tmp_path):
    """Without --sync_bn, BatchNorm has seen other images in each process."""
    folders = tmp_path / "images", tmp_path / "masks"
    ended = two_processes("train.py", *words("run", 4), "--val_image_path", folders[0], "--val_mask_path", folders[1])
    assert ended.returncode == 0, ended.stderr
    alone = validate(sam2unet.load_model(tmp_path / "run/best.pth", "cpu"), match(*folders), 64).table
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {name: last[name] for name in alone} == alone


@pytest.mark.parametrize("launcher", ["none", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_killed_process_stops_the_run_which_resumes(launcher, start_two, torchrun, two_processes, words, tmp_path):
    command = ["train.py", *words("run", 32), "--save_minutes", 0, "--resume", "auto"]
    first, *others = [torchrun(*command)] if launcher == "torchrun" else start_two(*command)
    wait_for_batch(first, tmp_path / "run")
    pids = [process.pid for process in others]
    if not pids:
        children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True)
        pids = [int(pid) for pid in children.stdout.split()]
    os.kill(pids[-1], signal.SIGKILL)
    ended = first.finish()
    print(ended.stderr)
    assert ended.returncode != 0
    assert "another process of this run has ended" in ended.stderr or "stopped" in ended.stderr
    done = read_progress(tmp_path / "run")
    assert done["epoch"] == 1 and 0 < done["batch"] < 16
    ended = two_processes(*command)
    assert ended.returncode == 0, ended.stderr
    assert f"resumed at epoch 1, step {done['batch']}" in ended.stdout


def test_prediction_is_shared_out(script, two_processes, checkpoint, tmp_path):
    images, _ = write_pairs(tmp_path, count=5)
    words = ["--checkpoint", checkpoint, "--test_image_path", images, "--size", 64, "--exact"]
    two = two_processes("test.py", *words, "--save_path", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert "process 1 of 2: 3 maps" in two.stdout and "process 2 of 2: 2 maps" in two.stdout
    assert script("test.py", *words, "--save_path", tmp_path / "one").returncode == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")} for name in ("one", "two"))
    assert one == two and len(one) == 5


def test_every_sample_is_taken_once_and_no_process_goes_without():
    for length in range(2, 20):
        parts = [list(Batches(length, 3, seed=0, rank=rank, world=2)) for rank in (0, 1)]
        assert sorted(draw.index for part in parts for batch in part for draw in batch) == list(range(length))
        assert len(parts[0]) == len(parts[1]) and all(batch for part in parts for batch in part)
    with pytest.raises(UserError, match="a batch of 1 images cannot be shared by 2 processes"):
        Batches(1, 4, seed=0, rank=0, world=2)
