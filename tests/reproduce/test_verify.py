"""--check names what differs from a certificate, and a file that is no certificate is one line."""

import copy
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import save


def read(folder: Path) -> dict:
    return json.loads((folder / "certificate.json").read_text())


@pytest.fixture
def check(run_py, monkeypatch):
    """Runs --check for a study. Returns its end, and verdict and detail of each part."""

    def call(study):
        monkeypatch.setattr(os, "cpu_count", lambda: 1)  # a pool takes longer to start than these maps to score
        words = ("--check", study.folder / "certificate.json", "--data_root", study.data, "--hiera_path", study.weights)
        ended = run_py("scripts/reproduce.py", *words)
        rows = [re.split(r" {2,}", line, maxsplit=2) for line in ended.out.splitlines()[1:-2]]
        return ended, {part: (verdict, *detail) for part, verdict, *detail in rows}

    return call


def test_a_check_on_the_same_disk_finds_no_difference(finished, check):
    ended, rows = check(finished)
    assert ended.status == 0, ended.out
    assert {row[0] for row in rows.values()} == {"same"} and rows["figures CAMO"][1] == "4 metrics, computed again"
    assert "0 of 15 parts differ, 0 are not here" in ended.out


def test_a_check_names_what_differs_and_what_is_not_here(copied, check):
    mask, weights = next((copied.data / "B-train/masks").iterdir()), copied.weights
    save(mask, 255 - np.asarray(Image.open(mask)))
    save(copied.data / "CAMO/images/new.png", np.zeros((8, 8), np.uint8))
    shutil.rmtree(copied.data / "A-train")
    weights.write_bytes(weights.read_bytes() + b"x")
    changed = next((copied.folder / "seed_1024/maps/CAMO").glob("*.png"))
    save(changed, 255 - np.asarray(Image.open(changed)))
    (copied.folder / "seed_1025/SAM2-UNet-2.pth").unlink()
    content = read(copied.folder)
    content["environment"]["versions"]["numpy"] = "1.0"
    content["code"]["files"]["sam2unet/recipe.py"] = "0" * 64
    (copied.folder / "certificate.json").write_text(json.dumps(content))
    ended, rows = check(copied)
    assert ended.status == 1
    assert rows.pop("data B-train") == ("differs", f"1 changed: masks/{mask.name}")
    assert rows.pop("data CAMO") == ("differs", "1 new: images/new.png")
    assert rows.pop("data A-train")[0] == rows.pop("checkpoint, seed 1025")[0] == "not here"
    assert rows.pop("weights --hiera_path") == ("differs", f"1 changed: {weights.name}")
    assert rows.pop("maps CAMO, seed 1024") == ("differs", f"1 changed: {changed.name}")
    assert rows.pop("environment") == ("differs", f"numpy was 1.0, is {np.__version__}")
    assert rows.pop("code") == ("differs", "1 changed: sam2unet/recipe.py")
    figures = rows.pop("figures CAMO")
    assert figures[0] == "differs" and re.search(r"S mean was 0\.\d+, is 0\.\d+; ", figures[1])
    assert {row[0] for row in rows.values()} == {"same"}


def remove(content, *keys):
    for key in keys[:-1]:
        content = content[key]
    del content[keys[-1]]


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda c: remove(c, "certificate_version"), "is no certificate; give a certificate.json"),
        (lambda c: c.update(certificate_version=2), "has the version 2; 1 can be read"),
        (lambda c: remove(c, "data", "root"), "is damaged: data.root is missing or has a wrong value"),
        (lambda c: c["data"]["sets"].update({"../../etc": {}}), "is damaged: data.sets.../../etc"),
        (lambda c: c["data"]["sets"]["CAMO"].update({"/etc/passwd": "0"}), "data.sets.CAMO./etc/passwd"),
        (lambda c: c["runs"][0].update(folder="a/../../b"), "runs[].folder"),
        (lambda c: c["runs"][0]["checkpoint"].update(file="/dev/zero"), "runs[].checkpoint.file"),
        (lambda c: c["runs"][0]["maps"].update(CAMO={"a.png": 1}), "runs[].maps.CAMO.a.png"),
        (lambda c: c["figures"][0].update(metric=["S"]), "figures[].metric"),
        (lambda c: c["figures"][0].update(mean=10**400), "figures[].mean"),
        (lambda c: c["configuration"]["study"].update(protocol={}), "configuration.study.protocol"),
        (lambda c: c["configuration"]["study"].update(test=["\0"]), "configuration.study.test[]"),
        (lambda c: c["configuration"]["study"].update(expect="sam9"), "no published figures are known for 'sam9'"),
        (lambda c: c["configuration"]["recipe"].update(foreground=[{}]), "a wrong mask_threshold or foreground"),
        (lambda c: c.update(weights=[]), "is damaged: weights"),
    ],
)
def test_a_crafted_certificate_is_one_line(spoil, words, finished, tmp_path, run_py):
    content = copy.deepcopy(read(finished.folder))
    spoil(content)
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(content))
    ended = run_py("scripts/reproduce.py", "--check", path)
    assert ended.is_refusal(words), ended


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"certificate_version": 1', "[1]"])
def test_another_file_is_one_line(text, tmp_path, run_py):
    (tmp_path / "c.json").write_text(text)
    assert run_py("scripts/reproduce.py", "--check", tmp_path / "c.json").is_refusal("give a certificate.json")
