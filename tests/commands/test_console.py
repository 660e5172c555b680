"""The console command `sam2unet`, and the wheel that contains it."""

import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from sam2unet import __main__ as console
from sam2unet.cli import list_arguments, locate_recipe_file
from sam2unet.commands import COMMANDS, doctor, train
from sam2unet.scoring.pixels import library
from tests.conftest import ROOT, load_script


@pytest.fixture
def sam2unet_py(monkeypatch, capsys):
    """The console command in this process: `sam2unet_py("train", "--size", 64)` returns status, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sam2unet", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            console.run_console()
        return ended.value.code, *capsys.readouterr()

    return call


def test_help_lists_all_commands_and_a_typing_error_gets_a_hint(sam2unet_py):
    status, out, _ = sam2unet_py("--help")
    assert status == 0 and all(f"\n  {name} " in out for name in COMMANDS)
    assert sam2unet_py()[0] == 2
    status, _, err = sam2unet_py("trian")
    assert status == 2 and err == "error: there is no command 'trian'; did you mean train?\n"
    status, out, _ = sam2unet_py("train", "--help")
    assert status == 0 and out.startswith("usage: sam2unet train ")
    status, _, err = sam2unet_py("train", "--lr", "x")
    assert status == 2 and err.endswith("(see sam2unet train --help)\n")


def test_each_script_runs_the_command_of_the_table():
    scripts = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("scripts/*.py")} | {"train.py", "test.py"}
    assert scripts - {"scripts/__init__.py", "scripts/onnx_prompts.py"} <= {c.script for c in COMMANDS.values()}
    for command in COMMANDS.values():
        if command.script:
            script = load_script(command.script)
            module = importlib.import_module(f"sam2unet.commands.{command.module}")
            assert (script.parser, script.run) == (module.parser, module.run)


def test_the_page_on_installation_has_all_commands_and_optional_parts():
    text = (ROOT / "docs/install.md").read_text()
    for name, command in COMMANDS.items():
        assert f"| `{name}` | {f'`{command.script}`' if command.script else 'none'} |\n" in text
    assert all(f"| `{name}` | {words} |\n" in text for name, words in doctor.EXTRAS.items())
    extras = re.findall(
        r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("[project.optional-")[1], re.MULTILINE
    )
    assert set(doctor.EXTRAS) == set(extras[: extras.index("video") + 1]) - {"dev"}


def test_neither_the_package_nor_the_help_of_a_command_loads_torch():
    code = (
        "import importlib, sys, sam2unet\n"
        "from sam2unet.commands import COMMANDS\n"
        "for command in COMMANDS.values():\n"
        "    importlib.import_module(f'sam2unet.commands.{command.module}').parser().format_help()\n"
        "    loaded = {'torch', 'timm', 'gradio', 'matplotlib', 'onnx', 'sklearn'} & sys.modules.keys()\n"
        "    assert not loaded, (command, loaded)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_recipe_has_a_name_unless_a_file_has_it_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("polyp", "polyp.yaml", "configs/polyp.yaml"):
        assert locate_recipe_file(text) == ROOT / "configs/polyp.yaml"
    assert locate_recipe_file("other/polyp.yaml") == Path("other/polyp.yaml")
    assert locate_recipe_file("none") == Path("none")
    (tmp_path / "polyp.yaml").touch()
    assert locate_recipe_file("polyp.yaml") == Path("polyp.yaml")


def test_doctor_names_what_is_broken_and_what_is_not_installed(sam2unet_py, monkeypatch):
    # Weights become new tensors, as they do when they move to a GPU.
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module._apply(torch.clone))
    monkeypatch.setattr(doctor, "list_extras", lambda: {"medical": ["pydicom", "no-such-package"], "log": []})
    right = library.score_by_library
    monkeypatch.setattr(library, "score_by_library", lambda map_, mask: right(255 - map_, mask))
    status, out, err = sam2unet_py("doctor", "--device", "cpu")
    assert status == 1 and out.count("  passed  ") == 2 and "FAILED  the scores equal pysodmetrics" in out
    assert err.startswith("error: 1 of 3 tests failed: the scores equal pysodmetrics")
    assert 'NIfTI and DICOM                             pip install "sam2unet[medical]"' in out
    assert "TensorBoard                                 installed" in out


def test_the_wheel_has_all_files_and_its_commands_work_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    paths = [path for folder in ("sam2unet", "configs") for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    files = {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}
    files = {name if name.startswith("sam2unet/") else f"sam2unet/{name}" for name in files}
    assert files <= names and {"sam2unet/configs/polyp.yaml", "sam2unet/py.typed"} <= names
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    code = "from sam2unet import cli, recipe; print(recipe.Recipe.read(cli.locate_recipe_file('polyp')).size)"
    for words, line in ((["-c", code], "352"), (["-m", "sam2unet", "eval", "--legend"], "MAE")):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and line in done.stdout, done.stderr


def test_the_record_of_a_run_has_zeros_that_the_user_gave():
    parser = train.parser()
    args = parser.parse_args(["--mask_threshold", "0", "--lr", "0.5", "--save_minutes", "0"])
    assert list_arguments(args, parser).items() >= {"mask_threshold": 0, "lr": 0.5, "save_minutes": 0.0}.items()
    assert "val_fraction" not in list_arguments(args, parser) and "rgb" not in list_arguments(args, parser)
