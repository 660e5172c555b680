"""Signals that arrive while PyTorch works."""

import os
import signal
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch

from sam2unet.weights.formats import write_pickle
from tests.conftest import ROOT


class Interrupting:
    """While it is saved, a process that reads images seems to end."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGCHLD)
        return OrderedDict, ()


def fail(number, frame):
    raise RuntimeError("a reader was killed")


def test_a_file_is_complete_before_the_error_of_a_killed_reader(tmp_path):
    before = signal.signal(signal.SIGCHLD, fail)
    try:
        with pytest.raises(RuntimeError, match="a reader was killed"):
            write_pickle({"a": torch.ones(3), "b": Interrupting()}, tmp_path / "a.pt")
        assert signal.getsignal(signal.SIGCHLD) is fail
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert torch.load(tmp_path / "a.pt", weights_only=True)["a"].sum() == 3


def test_a_worker_ends_when_its_parent_is_killed():
    words = "import os, time; from sam2unet.runtime.signals import end_with_parent\n"
    words += "if not os.fork():\n    end_with_parent()\n    print('ready', flush=True)\ntime.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", words], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate(timeout=30)  # until the worker, too, has closed its output
