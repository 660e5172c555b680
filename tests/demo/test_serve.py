"""The start and the end of the server of a page: names of models, what to install, the address, the folder."""

import http.client
import shutil
import socket
import sys
from pathlib import Path

import pytest

from sam2unet.demo import serve
from sam2unet.demo.files import Limits
from sam2unet.demo.prompts.session import PromptMethod
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


@pytest.fixture
def blocks():
    """A page without parts."""
    gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install -e .[demo]")
    with gr.Blocks() as blocks:
        gr.HTML("")
    yield blocks
    blocks.close(verbose=False)


def test_an_address_that_cannot_be_used_is_one_line(blocks, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        used = other.getsockname()[1]
        for host, port, line in (
            ("127.0.0.1", used, rf"cannot listen on 127.0.0.1:{used} \(Address already in use\); give another --host"),
            ("192.0.2.1", 0, r"cannot listen on 192.0.2.1:0 \(Cannot assign requested address\)"),
            ("a..b", 0, r"cannot listen on a..b:0 \("),
        ):
            with pytest.raises(UserError, match=line):
                serve.start(blocks, tmp_path, Limits(), host, port)


@pytest.mark.skipif(not socket.has_ipv6, reason="this computer has no IPv6")
def test_an_ipv6_address_serves_the_page(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "addaudithook", lambda hook: None)  # a hook stays until the process ends
    serve.start(blocks, tmp_path, Limits(), "::1", 0)
    address = capsys.readouterr().out.split()[2]
    assert address.startswith("http://[::1]:")
    connection = http.client.HTTPConnection("::1", int(address.rpartition(":")[2]), timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200


def test_flags_for_mask_values_are_refused_where_the_page_takes_no_masks(tmp_path):
    with pytest.raises(UserError, match="takes no masks; leave --mask_threshold and --foreground out"):
        serve.serve(PromptMethod("a", None), tmp_path, None, Limits(), "127.0.0.1", 0, mask_threshold=(1,))
