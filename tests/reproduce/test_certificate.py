"""A study of several seeds ends with a certificate, also after a kill."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sam2unet.data.pairs import list_files
from sam2unet.errors import UserError
from sam2unet.reproduce.digests import combine_digests
from sam2unet.reproduce.figures import Figure
from sam2unet.reproduce.leakage import find_leakage, warn_leakage
from sam2unet.reproduce.page import write_page
from sam2unet.reproduce.run import choose_seed_folders


def read(folder: Path) -> dict:
    return json.loads((folder / "certificate.json").read_text())


def test_the_certificate_has_what_the_figures_depend_on(finished):
    content = read(finished.folder)
    assert content["seeds"] == [1024, 1025] and "--seeds 2" in content["command"]
    assert content["configuration"]["recipe"]["epoch"] == 2
    files = content["data"]["sets"]["A-train"]
    assert len(files) == 6 and set(content["data"]["sets"]) == {"A-train", "B-train", "CAMO", "COD10K"}
    sums = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    options = dict(cwd=finished.data / "A-train", input=sums, text=True, capture_output=True)
    assert subprocess.run(["sha256sum", "--check", "--strict"], **options).returncode == 0
    assert content["weights"]["hiera_path"]["path"] == str(finished.weights.resolve())
    assert {"train.py", "sam2unet/recipe.py", "scripts/reproduce.py"} <= content["code"]["files"].keys()
    assert content["environment"]["versions"]["numpy"] == np.__version__
    for run in content["runs"]:
        assert run["starts"][0]["device"]["type"] == "cpu" and 0 < run["hours"] < 1
        assert (finished.folder / run["folder"] / run["checkpoint"]["file"]).is_file()
        assert {name: len(maps) for name, maps in run["maps"].items()} == {"CAMO": 3, "COD10K": 4}


def test_the_figures_are_those_of_the_tables_of_the_seeds(finished):
    figures = read(finished.folder)["figures"]
    tables = [json.loads((finished.folder / f"seed_{n}/scores/results.json").read_text()) for n in (1024, 1025)]
    assert len(figures) == 8
    for figure in figures:
        values = [table["datasets"][figure["dataset"]]["SAM2-UNet"][figure["metric"]] for table in tables]
        assert figure["seeds"] == values and values[0] != values[1]
        assert (figure["mean"], figure["std"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert figure["low"] <= figure["mean"] <= figure["high"]


def test_test_images_that_were_trained_on_are_named(finished):
    leakage = read(finished.folder)["leakage"]
    assert leakage["CAMO"] == {"images": 3, "equal": [], "near": []}
    ((test, train),) = leakage["COD10K"]["equal"]
    assert test == "COD10K/images/copy1.bmp" and train.startswith("A-train/images/")
    ((test, train, bits),) = leakage["COD10K"]["near"]
    assert test == "COD10K/images/copy0.8.bmp" and train.startswith("B-train/images/") and 0 < bits < 90
    err = (finished.folder.parent / "err").read_text()
    assert "warning: COD10K: 1 of 4 test images are training images, pixel by pixel: copy1.bmp = A-train/" in err
    assert "warning: COD10K: 1 of 4 test images look like training images: copy0.8.bmp ~ B-train/" in err


def test_the_page_has_the_content_of_the_certificate(finished):
    content, page = read(finished.folder), (finished.folder / "certificate.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    for name, files in content["data"]["sets"].items():
        assert f"{name}: {len(files)} files, digest {combine_digests(files)}" in page
        assert all(f"{digest}  {file}" in page for file, digest in files.items())
    for figure in content["figures"]:
        assert f"<td>{figure['mean']:.3f}<td>{figure['std']:.4f}<td>[{figure['low']:.3f}, {figure['high']:.3f}]" in page
    assert "1 equal, 1 near" in page and "copy0.8.bmp" in page and content["weights"]["hiera_path"]["sha256"] in page


def test_names_in_the_page_are_text(finished, tmp_path):
    text = (finished.folder / "certificate.json").read_text().replace("COD10K", "<b>$x</b>").replace("horse", "<i>")
    content = json.loads(text)
    figures = [Figure("<b>$x</b>", "S", 4, (0.5,), 0.5, math.nan, 0.4, 0.6, None)]
    write_page(content, figures, tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "&lt;b&gt;$x&lt;/b&gt;" in page and "&lt;i&gt;" in page and "<b>$x" not in page and "<i>" not in page


def test_a_killed_study_that_goes_on_has_the_same_figures(start, finished, tmp_path):
    run, words = tmp_path / "run", ["tests/reproduce/in_process.py", *finished.flags, "--save_path", tmp_path / "run"]
    shutil.copytree(finished.folder / "seed_1024", run / "seed_1024")
    process, log, deadline = start(*words), run / "seed_1025/metrics.jsonl", time.monotonic() + 60
    while not (log.is_file() and '"epoch"' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)  # in the second of two epochs
    assert process.finish().returncode == -signal.SIGKILL
    assert sorted(path.name for path in run.iterdir()) == ["seed_1024", "seed_1025"]
    ended = start(*words).finish()
    assert ended.returncode == 0, ended.stderr
    now, then = read(tmp_path / "run"), read(finished.folder)
    assert [run["checkpoint"] for run in now["runs"]] == [run["checkpoint"] for run in then["runs"]]
    for a, b in zip(now["figures"], then["figures"], strict=True):
        for key in ("seeds", "mean", "low", "high"):  # a map may differ by one grey level
            assert a[key] == pytest.approx(b[key], abs=1e-3)
    assert len(now["runs"][1]["starts"]) == 2


def test_without_imagehash_only_equal_pixels_are_found(finished, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    sets = {name: list_files(finished.data / name / "images") for name in ("A-train", "CAMO", "COD10K")}
    leakage = find_leakage(sets.pop("A-train"), sets)
    assert [path.name for path in leakage["COD10K"].equal] == ["copy1.bmp"] and not leakage["CAMO"].equal
    assert {found.near for found in leakage.values()} == {None}
    warn_leakage(leakage)
    assert "not searched, because ImageHash is not installed" in capsys.readouterr().out


def test_seeds_have_their_folders(tmp_path):
    assert choose_seed_folders(tmp_path, [7]) == [tmp_path]
    several = [tmp_path / "seed_7", tmp_path / "seed_8"]
    assert choose_seed_folders(tmp_path, [7, 8]) == several
    (tmp_path / "run.json").touch()  # a run of one seed is the first of several
    assert choose_seed_folders(tmp_path, [7, 8]) == [tmp_path, several[1]]
    several[1].mkdir()
    (several[1] / "run.json").touch()
    with pytest.raises(UserError, match="has the runs of several seeds; give --seeds N"):
        choose_seed_folders(tmp_path, [7])


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--seeds", 0], "seeds is 0; it must be from 1 to 100"),
        (["--seeds", 2, "--seed", 2**63 - 1], "seed is 9223372036854775808"),
        (["--check", "c.json"], "--check goes only with --data_root and the flags of weights; leave out config"),
    ],
)
def test_flags_that_cannot_work_are_one_line(flags, words, finished, run_py):
    config = [finished.config, "--data_root", finished.data]
    assert run_py("scripts/reproduce.py", *config, *flags).is_refusal(words)


def test_a_certificate_of_somebody_else_is_not_overwritten(finished, tmp_path, run_py):
    (tmp_path / "certificate.json").write_text('{"mine": 1}')
    words = [finished.config, "--data_root", finished.data, "--save_path", tmp_path]
    assert run_py("scripts/reproduce.py", *words).is_refusal(
        "certificate.json exists, and reproduce.py did not write it"
    )
