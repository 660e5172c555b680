"""The start of a run with several processes: they share the work, and an error of one ends all in one line."""

import socket
from datetime import timedelta

import numpy as np
import pytest
import torch

from sam2unet.runtime import processes as module
from sam2unet.runtime.processes import NotConnected, Processes
from tests.conftest import save, write_pairs

SMALL = "--encoder micro --size 64 --batch_size 2 --epoch 1 --device cpu --workers 0".split()


@pytest.fixture
def words(tmp_path):
    images, masks = write_pairs(tmp_path, count=4)
    return ["--train_image_path", images, "--train_mask_path", masks, *SMALL, "--save_path", tmp_path / "run"]


def refusal(ended) -> str:
    """The line of an error that all processes ended with."""
    assert [process.returncode for process in ended] == [2, 2], ended[0].stderr + ended[1].stderr
    (line,) = "".join(process.stderr for process in ended).splitlines()
    return line


def test_bad_inputs_are_one_line_of_the_first_process(two_processes, words, tmp_path):
    save(tmp_path / "masks/b.png", np.ones((50, 60), np.uint8))
    ended = two_processes("train.py", *words)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: 1 of 4 masks are not 0/255: b.png")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, words_of_error",
    [
        (["--device", "cuda:9"], "device cuda:9 cannot be used here"),
        (["--hiera_path", "none.pt"], "no such file: none.pt"),
        (["--batch_size", "1"], "a batch of 1 images cannot be shared by 2 processes"),
    ],
)
def test_an_error_of_the_second_process_alone_ends_both(flags, words_of_error, start, words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = dict(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_PORT=port, MASTER_ADDR="127.0.0.1")
    both = [start("train.py", *words, *more, RANK=r, LOCAL_RANK=r, **run) for r, more in (("0", []), ("1", flags))]
    assert words_of_error in refusal([process.finish() for process in both])


NO_MEMORY = """
import os, runpy, sys
import torch
import sam2unet.training.trainer as trainer
build_optimizer = trainer.build_optimizer
def fail(*arguments):
    if os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("no memory")
    return build_optimizer(*arguments)
trainer.build_optimizer = fail
runpy.run_path("train.py", run_name="__main__")
"""


def test_an_error_in_the_constructor_of_the_trainer_is_one_line_too(start_two, words, tmp_path):
    script = tmp_path / "no_memory.py"
    script.write_text(NO_MEMORY)
    ended = [process.finish() for process in start_two(script, *words)]
    assert refusal(ended).startswith("error: out of memory on cpu with batches of 2 at 64x64")
    (tmp_path / "run/last.pt").write_bytes(b"x")
    ended = [process.finish() for process in start_two("train.py", *words, "--resume", "auto")]
    assert "last.pt is damaged or not the state of a run" in refusal(ended)


def test_a_process_that_never_comes_is_one_line(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(module, "CONNECTING", timedelta(seconds=1))
    with pytest.raises(NotConnected) as error:
        Processes(0, 2).connect(torch.device("cpu"))
    (line,) = error.value.args
    assert line.startswith(f"the 2 processes of this run cannot connect at 127.0.0.1:{port} (")
    assert line.endswith("start the run on all machines, and open this port between them")


def test_two_processes_fill_a_cache_together(two_processes, words, tmp_path):
    weights = []
    for cache in ("off", "ram", "disk"):
        ended = two_processes("train.py", *words, "--cache", cache, "--save_path", tmp_path / cache)
        assert ended.returncode == 0, ended.stderr
        weights.append(torch.load(tmp_path / cache / "SAM2-UNet-1.pth"))
    for other in weights[1:]:
        assert all(torch.equal(other[name], value) for name, value in weights[0].items())
