"""Fixtures that run scripts of the project, in other processes or in this one."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.forked import ROOT, Forked, Started, serve


@pytest.fixture(scope="session")
def start(make_once):
    """Start a script of the project as a process: `start("train.py", "--size", 64).finish()`."""
    forked = Forked(make_once("server", lambda folder: serve(folder / "socket")) / "socket")

    def call(name: str, *flags: object, cwd: Path = ROOT, **variables: str) -> Started:
        return forked.start([str(ROOT / name), *map(str, flags)], cwd, variables)

    return call


@pytest.fixture(scope="session")
def script(start):
    """The same to its end."""

    def call(name: str, *flags: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        return start(name, *flags, cwd=cwd).finish()

    return call


@pytest.fixture(scope="session")
def start_two(start):
    """Start a script as the two processes of a run, in the environment of torchrun, but without its imports."""

    def call(name: str, *flags: object) -> list[Started]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        run = dict(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_PORT=port)
        run["MASTER_ADDR"] = "127.0.0.1"
        return [start(name, *flags, RANK=rank, LOCAL_RANK=rank, **run) for rank in "01"]

    return call


@pytest.fixture(scope="session")
def two_processes(start_two):
    """The same to its end."""

    def call(name: str, *flags: object) -> subprocess.CompletedProcess:
        ended = [process.finish() for process in start_two(name, *flags)]
        out, err = ("".join(getattr(process, kind) for process in ended) for kind in ("stdout", "stderr"))
        return subprocess.CompletedProcess(ended[0].args, max(process.returncode for process in ended), out, err)

    return call


@pytest.fixture(scope="session")
def torchrun(start):
    """Start a script as two processes: `torchrun("train.py", "--size", 64).finish()`."""
    words = (Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc_per_node=2", "-m", "tests.networks")
    return lambda name, *flags: start(*words, ROOT / name, *flags)


class Ended(NamedTuple):
    status: int
    out: str
    err: list[str]  # lines

    def is_refusal(self, words: str) -> bool:
        """Whether it ended with status 2 and one line that holds these words."""
        return self.status == 2 and len(self.err) == 1 and words in self.err[0]


@pytest.fixture
def test_py(monkeypatch, capsys):
    """test.py in this process: `test_py("--checkpoint", path, ...)`."""
    return in_process("test.py", monkeypatch, capsys)


@pytest.fixture
def train_py(monkeypatch, capsys):
    return in_process("train.py", monkeypatch, capsys)


@pytest.fixture
def eval_py(monkeypatch, capsys):
    return in_process("eval.py", monkeypatch, capsys)


@pytest.fixture
def run_py(monkeypatch, capsys):
    """Any script in this process: `run_py("scripts/export.py", "--checkpoint", path)`."""
    return lambda name, *words: in_process(name, monkeypatch, capsys)(*words)


def load_script(name: str):
    """The module of a script of the project."""
    spec = importlib.util.spec_from_file_location(f"{Path(name).stem}_script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_process(name: str, monkeypatch, capsys):
    module = load_script(name)

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            module.main(module.parser, module.run)
        out, err = capsys.readouterr()
        return Ended(ended.value.code, out, err.splitlines())

    return call


@pytest.fixture
def maps_of(checkpoint, test_py):
    """The same at size 64: `maps_of(source, target, "--overlay")`."""

    def call(source: Path, target: Path, *flags: object) -> Ended:
        words = ("--checkpoint", checkpoint, "--test_image_path", source, "--save_path", target, "--size", 64)
        return test_py(*words, *flags)

    return call
