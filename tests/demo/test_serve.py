"""The start and the end of the server of a page: names of models, what to install, the address, the folder."""

import shutil
import sys
from pathlib import Path

import pytest

from sam2unet.demo import serve
from sam2unet.errors import UserError


def test_checkpoints_have_names_that_differ(tmp_path):
    one, two = tmp_path / "x/SAM2-UNet-20.pth", tmp_path / "y/SAM2-UNet-20.pth"
    assert serve.make_model_names([one, two.with_name("best.pth")]) == ["SAM2-UNet-20", "best"]
    assert serve.make_model_names([one, two]) == ["x/SAM2-UNet-20", "y/SAM2-UNet-20"]
    assert serve.make_model_names([one, one]) == ["x/SAM2-UNet-20 (1)", "x/SAM2-UNet-20 (2)"]
    with pytest.raises(UserError, match="3 checkpoints are given"):
        serve.open_methods([one] * 3, None, None, None)


def test_without_gradio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "sam2unet.demo.masks.page", raising=False)
    monkeypatch.delattr("sam2unet.demo.masks.page", raising=False)
    with pytest.raises(UserError, match=r'pip install "sam2unet\[demo\]"'):
        serve.import_page("masks")


def test_only_an_address_of_this_computer_is_silent(capsys):
    serve.check_address("127.0.0.1", 0)
    serve.check_address("localhost", 7860)
    assert capsys.readouterr().err == ""
    serve.check_address("0.0.0.0", 7860)
    assert "has no password" in capsys.readouterr().err
    with pytest.raises(UserError, match="port is 70000"):
        serve.check_address("127.0.0.1", 70000)


def test_the_folder_goes_although_a_thread_wrote_into_it_meanwhile(tmp_path, monkeypatch, capsys):
    remove, calls = shutil.rmtree, []

    def interrupted(folder: Path, ignore_errors: bool) -> None:
        remove(folder)
        calls.append(folder)
        if len(calls) == 1:
            (folder / "uploads").mkdir(parents=True)

    monkeypatch.setattr(serve.shutil, "rmtree", interrupted)
    (tmp_path / "home").mkdir()
    serve.remove_folder(tmp_path / "home")
    assert not (tmp_path / "home").exists() and len(calls) == 2 and capsys.readouterr().err == ""
