"""Weights by name: what is downloaded, when, and what is left after each kind of failure."""

import argparse
import hashlib
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import sam2unet
from sam2unet.atomic import sha256
from sam2unet.weights.download import get_weights, locate_weight_files
from sam2unet.weights.named import PUBLISHED, make_sam2_row
from tests.conftest import write_pairs
from tests.weights.stand_in import StandIn

CONTENT = bytes(range(256)) * 4096  # 1 MiB
ROW = make_sam2_row("sam2", "large", hashlib.sha256(CONTENT).hexdigest())
PLACE = "/segment_anything_2/072824/sam2_hiera_large.pt"
HUB_PLACE = "/facebook/sam2-hiera-large/resolve/main/sam2_hiera_large.pt"
TIMM = "vit_large_patch14_dinov2.lvd142m"
TIMM_PLACE = f"/timm/{TIMM}/resolve/main/model.safetensors"
needs_hub_2 = pytest.mark.skipif(
    huggingface_hub.__version__ < "2", reason="an older huggingface_hub leaves this case to the next run"
)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with the file of `ROW`, and an empty cache. The library writes each 64 KiB that it receives."""
    monkeypatch.setenv("SAM2UNET_CACHE", str(tmp_path / "cache"))
    for name in ("HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setitem(PUBLISHED, ROW.name, ROW)
    server = StandIn()
    server.files[PLACE] = CONTENT
    monkeypatch.setenv("SAM2UNET_WEIGHTS_SERVER", server.address)
    yield server
    server.close()


@pytest.fixture
def no_pause(monkeypatch):
    """The library does not wait between two attempts."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def list_cache() -> list[str]:
    """The files in the cache, without locks."""
    return sorted(path.name for path in ROW.path.parent.iterdir() if path.suffix != ".lock")


def refuse(*words: str) -> str:
    """Downloads, and returns the error, which is one line with these words."""
    with pytest.raises(sam2unet.UserError) as caught:
        get_weights(ROW)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    return message


def test_a_file_is_downloaded_once(server, capsys):
    for _ in range(2):
        assert get_weights(ROW).read_bytes() == CONTENT
    assert server.requests == [(PLACE, 0)] and list_cache() == ["sam2_hiera_large.pt"]
    assert f"downloading {server.address}{PLACE} to {ROW.path}" in capsys.readouterr().out


@needs_hub_2
def test_a_short_interruption_costs_no_byte_twice(server, no_pause):
    server.cut, server.limit = 1, 300_000
    assert get_weights(ROW).read_bytes() == CONTENT
    (_, first), (_, second) = server.requests
    assert first == 0 and 0 < second <= 300_000


@pytest.mark.parametrize("knows_range", [True, pytest.param(False, marks=needs_hub_2)])
def test_the_next_run_continues_an_interrupted_transfer(knows_range, server, no_pause):
    server.cut, server.limit, server.knows_range, server.answers = 2, 300_000, knows_range, 2
    refuse(server.address, str(ROW.path), "Run the command again")
    (part,) = list_cache()
    length = (ROW.path.parent / part).stat().st_size
    server.cut, server.answers = 0, None
    assert get_weights(ROW).read_bytes() == CONTENT and list_cache() == ["sam2_hiera_large.pt"]
    assert server.requests[-1] == (PLACE, length) and length > 0


def test_a_complete_transfer_of_a_killed_process_is_used(server):
    ROW.path.parent.mkdir()
    ROW.path.with_name(".sam2_hiera_large.pt.sam2unet.part").write_bytes(CONTENT)
    assert get_weights(ROW).read_bytes() == CONTENT and list_cache() == ["sam2_hiera_large.pt"]


def test_a_file_with_another_hash_is_not_kept(server):
    server.files[PLACE] = CONTENT[:-1] + b"x"
    wrong = hashlib.sha256(server.files[PLACE]).hexdigest()
    refuse(server.address, wrong, ROW.sha256)
    assert list_cache() == []
    server.files[PLACE] = CONTENT
    assert get_weights(ROW).read_bytes() == CONTENT


def test_a_server_without_the_file_is_one_line(server):
    server.files.clear()
    refuse(f"{server.address}{PLACE}", "status 404", str(ROW.path), "--weights_from hub")
    assert list_cache() == []


def test_a_silent_server_is_one_line(server, no_pause, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    server.stall = True
    refuse(f"{server.address}{PLACE}", "timed out", str(ROW.path))
    assert list_cache() == []


def test_no_network_is_one_line(server, no_pause):
    server.close()
    refuse(f"{server.address}{PLACE}", "Connection refused", f"save it as {ROW.path}")
    assert list_cache() == []


def test_a_redirect_is_followed(server):
    server.files["/mirror/x"] = server.files.pop(PLACE)
    server.redirects[PLACE] = f"{server.address}/mirror/x"
    assert get_weights(ROW).read_bytes() == CONTENT


def test_a_second_process_waits_and_transfers_nothing(server):
    server.stall, server.limit = True, 200_000
    processes = [FORK.Process(target=get_weights, args=(ROW,)) for _ in range(2)]
    for process in processes:
        process.start()
    while not server.requests:
        time.sleep(0.01)
    time.sleep(0.1)
    server.go.set()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests == [(PLACE, 0)] and ROW.path.read_bytes() == CONTENT


def test_a_killed_download_leaves_no_file_and_continues(server):
    server.stall, server.limit = True, 400_000
    process = FORK.Process(target=get_weights, args=(ROW,))
    process.start()
    part = ROW.path.with_name(".sam2_hiera_large.pt.sam2unet.part")
    while not (part.is_file() and part.stat().st_size):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert list_cache() == [part.name]
    length = part.stat().st_size
    server.stall = False
    assert get_weights(ROW).read_bytes() == CONTENT
    assert server.requests == [(PLACE, 0), (PLACE, length)]


def test_the_hub_has_the_same_file(server, monkeypatch):
    monkeypatch.delenv("SAM2UNET_WEIGHTS_SERVER")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.files = {HUB_PLACE: CONTENT[::-1]}
    with pytest.raises(sam2unet.UserError, match=ROW.sha256):  # the hub's copy must have the published hash too
        get_weights(ROW, "hub")
    server.files = {HUB_PLACE: CONTENT}
    assert get_weights(ROW, "hub").read_bytes() == CONTENT
    with pytest.raises(sam2unet.UserError, match="knows no copy of sam_vit_b on the Hugging Face hub"):
        get_weights(PUBLISHED["sam_vit_b"], "hub")


def test_an_unknown_hash_is_recorded_at_the_first_download(server, run_py, capsys):
    server.files[TIMM_PLACE] = CONTENT
    assert run_py("scripts/weights.py", "get", TIMM).out.count(ROW.sha256) == 1
    path = PUBLISHED[TIMM].path
    assert (path.parent / f"{path.name}.sha256").read_text() == f"{ROW.sha256}  {TIMM}.safetensors\n"
    path.unlink()
    server.files[TIMM_PLACE] = CONTENT[::-1]
    assert run_py("scripts/weights.py", "get", TIMM).is_refusal(ROW.sha256)
    assert not path.exists()


def test_verify_finds_a_damaged_file(server, run_py):
    assert run_py("scripts/weights.py", "get", ROW.name).status == 0
    assert re.search(rf"{ROW.name} .* cached +{ROW.path}", run_py("scripts/weights.py", "list").out)
    assert run_py("scripts/weights.py", "verify").out.endswith("0 damaged\n")
    ROW.path.write_bytes(CONTENT[1:])
    ended = run_py("scripts/weights.py", "verify")
    assert ended.status == 1 and f"remove these files, then run: sam2unet weights get {ROW.name}" in ended.err[0]


def test_scripts_and_python_accept_a_name(server, sam2_micro, train_py, test_py, monkeypatch, tmp_path):
    row = make_sam2_row("sam2", "micro", sha256(sam2_micro))
    monkeypatch.setitem(PUBLISHED, row.name, row)
    place = "/segment_anything_2/072824/sam2_hiera_micro.pt"
    server.files[place] = sam2_micro.read_bytes()
    images, masks = write_pairs(tmp_path)
    flags = ["--train_image_path", images, "--train_mask_path", masks, "--size", 32, "--epoch", 1, "--workers", 0]
    ended = train_py("--hiera_path", row.name, *flags, "--save_path", tmp_path / "run", "--save", "trainable")
    assert ended.status == 0, ended.err
    assert f"weights: sam2_hiera_micro.pt, SAM 2 micro, SHA-256 {row.sha256}" in ended.out
    trained = sam2unet.load_model(tmp_path / "run/SAM2-UNet-1.safetensors", "cpu", hiera_path=row.name)
    new = sam2unet.create_model("sam2unet", hiera_path=row.name)
    published = torch.load(sam2_micro)["model"]["image_encoder.trunk.pos_embed"]
    for model in (trained, new):
        assert torch.equal(model.state_dict()["encoder.pos_embed"], published)
    row.path.unlink()
    monkeypatch.delenv("SAM2UNET_WEIGHTS_SERVER")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    hub_place = "/facebook/sam2-hiera-micro/resolve/main/sam2_hiera_micro.pt"
    server.files[hub_place] = server.files[place]
    words = [
        "--checkpoint",
        tmp_path / "run/SAM2-UNet-1.safetensors",
        "--hiera_path",
        row.name,
        "--weights_from",
        "hub",
    ]
    ended = test_py(*words, "--test_image_path", images, "--save_path", tmp_path / "maps")
    assert ended.status == 0 and len(list((tmp_path / "maps").glob("*.png"))) == 4, ended.err
    assert server.requests == [(place, 0), (hub_place, 0)]


def test_a_file_wins_over_the_name(server, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ROW.name).write_bytes(b"mine")
    assert locate_weight_files({"hiera_path": ROW.name}) == {"hiera_path": Path(ROW.name)}
    assert "is the file in this folder, not the published weights" in capsys.readouterr().out and not server.requests


@pytest.mark.parametrize(
    "flag, value, words",
    [
        ("hiera_path", "sam2_hiera_lage", "no such file: sam2_hiera_lage; similar names.*: sam2_hiera_large, "),
        ("hiera_path", "sam2_hiera_large.pt", "no such file: sam2_hiera_large.pt; similar names.*: sam2_hiera_large,"),
        ("sam_checkpoint", "SAM_VIT_B_01ec64.pth", "similar names.*: sam_vit_b,"),
        ("hiera_path", "dinov2_vitl14", "dinov2_vitl14 is for --dinov2_path, not for --hiera_path"),
        ("sam_checkpoint", "sam-med2d_b", "open https://drive.google.com/.*, and save the file as .*/sam-med2d_b.pth"),
    ],
)
def test_names_that_download_nothing(flag, value, words, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sam2unet.UserError, match=words):
        locate_weight_files({"hiera_path": ROW.name} | {flag: value})
    assert not server.requests


def test_a_path_is_never_a_name(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("weights/sam2_hiera_large", "/x/sam2_hiera_large", "no.pt", "sam2.pt", "../sam2_hiera_large.pt"):
        assert locate_weight_files({"hiera_path": value}) == {"hiera_path": Path(value)}
    assert not server.requests


def test_quickstart_accepts_a_name_and_a_path_from_another_folder(server, tmp_path):
    from sam2unet.commands import quickstart

    (tmp_path / "mine.pt").write_bytes(b"x")
    for value, path in (("mine.pt", tmp_path / "mine.pt"), ("none.pt", tmp_path / "none.pt"), (ROW.name, ROW.path)):
        args = argparse.Namespace(folder=tmp_path, hiera_path=Path(value), weights_from=None)
        assert quickstart.locate_hiera(args) == path
    assert ROW.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("SAM2UNET_WEIGHTS_SERVER", "127.0.0.1:1", "must start with http:// or https://"),
        ("SAM2UNET_CACHE", "/dev/null/cache", "Give another SAM2UNET_CACHE"),
    ],
)
def test_wrong_environment_variables_are_one_line(name, value, words, server, monkeypatch):
    monkeypatch.setenv(name, value)
    refuse(words)


def test_the_table_has_the_addresses_of_the_specification(shared):
    text = (shared / "spec/weights.md").read_text()
    hashes = {row.sha256 for row in PUBLISHED.values() if row.sha256}
    assert hashes == set(re.findall(r"\b[0-9a-f]{64}\b", text)) and len(hashes) == 14
    sizes = {f"{row.size:,}" for row in PUBLISHED.values() if row.size}
    assert sizes == set(re.findall(r"\d{3},\d{3},\d{3}|\d,\d{3},\d{3},\d{3}", text))
    addresses = {row.name: row.address for row in PUBLISHED.values()}
    assert addresses["sam2.1_hiera_base_plus"].endswith("/segment_anything_2/092824/sam2.1_hiera_base_plus.pt")
    assert (
        addresses["dinov2_vits14"] == "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
    )
    assert PUBLISHED["sam2.1_hiera_base_plus"].hub == "facebook/sam2.1-hiera-base-plus/sam2.1_hiera_base_plus.pt"
    assert PUBLISHED["sam_vit_b"].address.endswith("/segment_anything/sam_vit_b_01ec64.pth")
