"""Longer scripts without a process for each step."""

import sys
from pathlib import Path

import pytest

from sam2unet.cli import main
from sam2unet.commands import COMMANDS, make_sample_data
from sam2unet.data import sample_images
from sam2unet.quickstart import plan, samples
from sam2unet.quickstart import run as quickstart_run
from sam2unet.reproduce import cross_validation, study
from tests.conftest import load_script


@pytest.fixture(scope="session")
def sample_data(make_once) -> Path:
    """The folder of the first of the sample data: 20 pairs to train on and 12 to test with."""

    def write(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sample_images, "COUNTS", {"train": 20, "test": 12})
            make_sample_data.run(make_sample_data.parser().parse_args(["--save_path", str(folder / "data")]))

    return make_once("sample_data", write) / "data"


@pytest.fixture
def steps(monkeypatch) -> list[list[str]]:
    """Makes reproduce.py and quickstart.py run their steps in this process. Returns the list of their command lines.

    A training takes one epoch, and of the smallest network if its size is a flag: the tiny one writes hundreds of
    megabytes in an epoch.
    """
    commands = []

    def run_step(command: str, *flags: object) -> None:
        commands.append([command, *map(str, flags)])
        module = load_script(COMMANDS[command].script)
        with pytest.MonkeyPatch.context() as patch:
            small = ["--epoch", "1"] + ["--encoder", "micro"] * ("--encoder" in commands[-1])
            small += ["--repeat", "1"] * ("--repeat" in commands[-1])
            patch.setattr(sys, "argv", commands[-1] + small * (command == "train"))
            with pytest.raises(SystemExit) as ended:
                module.main(module.parser, module.run)
        if ended.value.code:
            sys.exit(ended.value.code)

    for caller in (samples, quickstart_run, study, cross_validation):
        monkeypatch.setattr(caller, "run_command", run_step)
    monkeypatch.setattr(plan, "ENCODER", "micro")
    monkeypatch.setattr(quickstart_run, "ENCODER", "micro")
    return commands


@pytest.fixture
def run_main(monkeypatch, capsys):
    """An imported script in this process: `run_main(reproduce, flag, ...)` returns exit status, output and errors."""

    def call(module, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(module.parser, module.run)
        return ended.value.code, *capsys.readouterr()

    return call
