"""A run whose number of processes changes: each image is trained once in each epoch, and nothing is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

import sam2unet
from sam2unet.data.batches import Batches
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.families.table import find_family
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.training.speed import Speed
from sam2unet.training.state import lock_run_folder, restart_old_epoch_
from sam2unet.training.trainer import Trainer
from tests.conftest import write_pairs
from tests.forked import Started
from tests.training.recording import Recording
from tests.training.waiting import read_progress, wait_for

SMALL = "--encoder micro --finetune adapters --size 64 --batch_size 2 --device cpu --workers 0 --save_minutes 0"


@pytest.fixture
def flags(tmp_path):
    """A function: flags that train on so many images for so many epochs, and the names of the images."""

    def call(count, epochs):
        images, masks = write_pairs(tmp_path, count=count)
        data = ["--train_image_path", images, "--train_mask_path", masks, "--epoch", epochs]
        return [*data, *SMALL.split(), "--sync_bn"], sorted(path.name for path in images.iterdir())

    return call


def is_further(folder, epoch, batch):
    if not (folder / "last.pt").exists():
        return False
    now = read_progress(folder)
    return (now["epoch"], now["batch"]) >= (epoch, batch)


def test_two_processes_then_one_then_two_train_each_image_once(flags, start, start_two, script, tmp_path):
    recording, folder = Recording(tmp_path, pause=0.15), tmp_path / "run"
    words, names = flags(12, 2)
    command = [recording.script, *words, "--save_path", folder, "--resume", "auto"]
    first = start_two(*command)
    wait_for(first[0], lambda: is_further(folder, 1, 2))
    for process in first:
        os.kill(process.pid, signal.SIGTERM)
    assert [process.finish().returncode for process in first] == [143, 143]
    stopped = read_progress(folder)
    assert stopped["epoch"] == 1 and 2 <= stopped["batch"] < 6
    alone = start(*command)
    wait_for(alone, lambda: is_further(folder, 2, 2))
    os.kill(alone.pid, signal.SIGTERM)
    ended = alone.finish()
    assert ended.returncode == 143 and f"resumed at epoch 1, step {stopped['batch']}" in ended.stdout
    last = [process.finish() for process in start_two(*command)]
    assert [process.returncode for process in last] == [0, 0], last[0].stderr
    assert all(recording.has_each_once(epoch, names) for epoch in (1, 2))
    # The batches, and what they change, are those of a run that nobody disturbed. In float64 rounding is below 1e-9.
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Recording(tmp_path / "undisturbed", pause=0)
    ended = script(undisturbed.script, *words, "--save_path", tmp_path / "one")
    assert ended.returncode == 0, ended.stderr
    assert recording.read() == undisturbed.read()
    ours, theirs = (torch.load(tmp_path / name / "SAM2-UNet-2.pth") for name in ("run", "one"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9, msg=name)


def test_a_state_of_an_older_version_starts_its_epoch_again(capsys):
    progress = {"epoch": 3, "batch": 2, "seen": 8, "sums": {"total": 1.0}, "weight": 8, "scores": {1: {"a": 0.5}}}
    old, new, ended = {"progress": dict(progress)}, {"progress": dict(progress), "order": 2}, {"progress": progress}
    for state, images, seen in ((old, 20, 0), (new, 20, 8), (ended, 8, 8)):
        restart_old_epoch_(state, Path("last.pt"), images)
        assert state["progress"]["seen"] == seen
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (not seen)
    wanted = {"epoch": 3, "batch": 0, "seen": 0, "sums": {}, "weight": 0, "scores": {1: {"a": 0.5}}}
    assert old["progress"] == wanted


def test_a_state_that_an_older_version_saved_under_torchrun_fits(polyps):
    """It left the parameters out of the optimizer that never get a gradient."""
    family, recipe, cpu = find_family("sam2unet"), Recipe(size=64, batch_size=2), torch.device("cpu")
    model = sam2unet.create_model("sam2unet", encoder="micro").train()
    trainer = Trainer(family, mask_step, model, recipe, Speed(), cpu, Processes())
    folder = MaskFolder(match(polyps / "images", polyps / "masks")[:2], 64)
    trainer.update([folder.__getitems__(next(iter(Batches(2, 2, seed=0)))).on(cpu)], [1.0])
    now = trainer.optimizer.state_dict()
    (group,) = now["param_groups"]
    used = [number for number in group["params"] if number in now["state"]]
    assert 0 < len(used) < len(group["params"])
    older = {number: now["state"][place] for number, place in enumerate(used)}
    restored = trainer.add_idle({"state": older, "param_groups": [group | {"params": list(range(len(used)))}]})
    assert restored == now and trainer.add_idle(now) == now


def test_a_new_attempt_waits_until_the_last_one_has_ended(tmp_path):
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        with lock_run_folder(tmp_path):
            os.write(writer, b"locked")
            time.sleep(1)
            os._exit(0)
    os.read(reader, 6)
    with pytest.raises(UserError, match="another run is writing into"), lock_run_folder(tmp_path):
        pass
    with lock_run_folder(tmp_path, seconds=60):
        assert os.waitpid(pid, os.WNOHANG) == (pid, 0)


def kill_machine(machine: Started) -> None:
    """Kills an agent of torchrun and its worker, as a machine that loses its power."""
    found = subprocess.run(["pgrep", "-P", str(machine.pid)], capture_output=True, text=True)
    for pid in [machine.pid, *map(int, found.stdout.split())]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_machine_leaves_and_comes_back_under_torchrun(flags, start, request, tmp_path):
    """Two agents of torchrun are two machines. One is killed with its worker, and started again later."""
    recording, folder = Recording(tmp_path, pause=0.5), tmp_path / "run"
    words, names = flags(12, 20)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = Path(sys.executable).with_name("torchrun"), "--nnodes=1:2", "--nproc_per_node=1", "--max_restarts=3"
    rendezvous = "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=run"
    times = "--rdzv_conf=last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5"
    command = [*launcher, *rendezvous, times, "-m", "tests.networks", recording.script, *words]
    command += ["--save_path", folder, "--resume", "auto"]
    # PyTorch 2.14 shares a store by default, whose address a machine that comes back never gets.
    variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def count_processes() -> int:
        text = (folder / "run.json").read_text() if (folder / "run.json").exists() else ""
        return int(text.rpartition('"processes": ')[2].partition("}")[0]) if text else 0

    first = start(*command, **variables)
    request.addfinalizer(partial(kill_machine, first))
    time.sleep(1)  # the first machine has the meeting point
    second = start(*command, **variables)
    request.addfinalizer(partial(kill_machine, second))
    wait_for(first, lambda: is_further(folder, 1, 3) and count_processes() == 2)
    kill_machine(second)
    second.finish()
    wait_for(first, lambda: count_processes() == 1, seconds=300)
    place = read_progress(folder)
    wait_for(first, lambda: is_further(folder, place["epoch"], place["batch"] + 3))
    third = start(*command, **variables)
    request.addfinalizer(partial(kill_machine, third))
    wait_for(first, lambda: count_processes() == 2, seconds=300)
    recording.slow.unlink()
    ended = [machine.finish() for machine in (first, third)]
    print(*(part for process in ended for part in (process.stdout, process.stderr)), sep="\n")
    assert [process.returncode for process in ended] == [0, 0]
    assert count_processes() == 2
    assert all(recording.has_each_once(epoch, names) for epoch in range(1, 21))
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 20 * 6
