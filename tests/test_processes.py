"""Several processes on one run: real ones, started by torchrun, that talk through gloo."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, write_pairs

import sam2unet
from sam2unet.data.batches import Batches
from sam2unet.errors import UserError

# train.py as a user runs it, but in float64, where two orders of adding up differ by less than 1e-9.
DOUBLE = "import runpy, torch; torch.set_default_dtype(torch.float64); runpy.run_path('train.py', run_name='__main__')"


def torchrun(*words, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes, **options)


def flags(folder, name, images=10):
    image_folder, mask_folder = write_pairs(folder, count=images)
    words = ["--train_image_path", image_folder, "--train_mask_path", mask_folder, "--save_path", folder / name]
    return [*words, *"--encoder tiny --size 64 --batch_size 2 --epoch 1 --device cpu --workers 0".split()]


def test_two_processes_take_the_steps_of_one(tmp_path):
    script = tmp_path / "double.py"
    script.write_text(DOUBLE)
    one = subprocess.Popen(
        [sys.executable, script, *map(str, flags(tmp_path, "one"))],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert one.wait(200) == 0
    for name, more in (("two", ["--sync_bn"]), ("apart", [])):
        two = torchrun(script, *flags(tmp_path, name), *more)
        out, err = two.communicate(timeout=200)
        assert two.returncode == 0, err
        assert out.count("data: 10 pairs") == 1 and out.count("saved") == 1  # one writer
    one, two, apart = (torch.load(tmp_path / f"{name}/SAM2-UNet-1.pth") for name in ("one", "two", "apart"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-9, msg=name)
    assert not torch.allclose(
        apart["head.weight"], one["head.weight"], rtol=0, atol=1e-6
    )  # BatchNorm of one image each


def test_a_killed_process_stops_the_run_which_resumes(tmp_path):
    command = [ROOT / "train.py", *flags(tmp_path, "run", images=20), "--save_minutes", 0, "--resume", "auto"]
    process = torchrun(*command)
    last = tmp_path / "run/last.pt"
    deadline = time.monotonic() + 100
    while not last.exists() or torch.load(last, weights_only=True)["progress"]["batch"] == 0:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    print(err)
    assert "another process of this run has ended" in err or "stopped" in err
    done = torch.load(last, weights_only=True)["progress"]
    assert done["epoch"] == 1 and 0 < done["batch"] < 10
    process = torchrun(*command)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert f"resumed at epoch 1, step {done['batch']}" in out


def test_prediction_is_shared_out(fill, tmp_path):
    images, _ = write_pairs(tmp_path, count=5)
    model = sam2unet.create_model("sam2unet", encoder="tiny")
    torch.save(fill.fill_state_dict(model.state_dict(), 0), tmp_path / "tiny.pth")
    words = ["--checkpoint", tmp_path / "tiny.pth", "--test_image_path", images, "--size", 64, "--device", "cpu"]
    two = torchrun(ROOT / "test.py", *words, "--save_path", tmp_path / "two")
    out, err = two.communicate(timeout=100)
    assert two.returncode == 0, err
    assert "process 1 of 2: 3 maps" in out and "process 2 of 2: 2 maps" in out
    subprocess.run([sys.executable, "test.py", *map(str, words), "--save_path", tmp_path / "one"], cwd=ROOT, check=True)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 5


def test_every_sample_is_taken_once_and_no_process_goes_without():
    for length in range(2, 20):
        parts = [list(Batches(length, 3, seed=0, rank=rank, world=2)) for rank in (0, 1)]
        assert sorted(draw.index for part in parts for batch in part for draw in batch) == list(range(length))
        assert len(parts[0]) == len(parts[1]) and all(batch for part in parts for batch in part)
    with pytest.raises(UserError, match="a batch of 1 images cannot be shared by 2 processes"):
        Batches(1, 4, seed=0, rank=0, world=2)
