"""The recipes of published results, and the script that runs one from data to table."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sam2unet.commands import reproduce
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.recipe import Recipe, Study
from sam2unet.reproduce import study as study_steps
from sam2unet.run_command import run_command
from sam2unet.scoring.columns import PROTOCOLS
from sam2unet.scoring.expected import read_figures
from tests.conftest import ROOT, save, write_pairs

MAS3K = Study(("MAS3K-train",), 1769, ("MAS3K",), (1141,), "marine", "sam2-unet")
RMAS = Study(("RMAS-train",), 2514, ("RMAS",), (500,), "marine", "sam2-unet")
MSD = Study(("MSD-train",), None, ("MSD",), (955,), "mirror", "sam2-unet")  # its training count is nowhere to be found
PMD = Study(("PMD-train",), 5095, ("PMD",), (571,), "mirror", "sam2-unet")
CAMOUFLAGED = Study(
    train=("COD10K-train", "CAMO-train"),
    train_count=3040 + 1000,
    test=("CHAMELEON", "CAMO", "COD10K", "NC4K"),
    test_count=(76, 250, 2026, 4121),
    protocol="camouflaged",
    expect="sam2-unet",
)
SALIENT = Study(
    train=("DUTS-TR",),
    train_count=10553,
    test=("DUTS-TE", "DUT-OMRON", "HKU-IS", "PASCAL-S", "ECSSD"),
    test_count=(5019, 5168, 4447, 850, 1000),
    protocol="salient",
    expect="sam2-unet",
)
POLYP = Study(
    train=("PraNet-train",),
    train_count=900 + 550,
    test=("Kvasir", "CVC-ClinicDB", "CVC-ColonDB", "CVC-300", "ETIS"),
    test_count=(100, 62, 380, 60, 196),
    protocol="polyp",
    expect="sam2-unet",
)
UNEXT = {"model": "sam2unext", "size": 1024, "batch_size": 1, "lr": 2e-4}
NEXT = {
    name: dataclasses.replace(study, expect="sam2-unext")
    for name, study in {
        "unext_camouflaged": CAMOUFLAGED,
        "unext_marine_mas3k": MAS3K,
        "unext_marine_rmas": RMAS,
        "unext_dichotomous": Study(
            train=("DIS-TR",),
            train_count=3000,
            test=("DIS-VD", "DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4"),
            test_count=(470, 500, 500, 500, 500),
            protocol="dichotomous",
        ),
        "unext_remote_eorssd": Study(("EORSSD-train",), 1400, ("EORSSD",), (600,), "remote_sensing"),
        "unext_remote_orsi4199": Study(("ORSI-4199-train",), 2000, ("ORSI-4199",), (2199,), "remote_sensing"),
    }.items()
}
SAM3 = {"model": "sam3unet", "size": 336, "lr": 2e-4}
SAM3_STUDIES = {  # no source gave the figures
    f"sam3_{name}": (dataclasses.replace(study, expect=None), SAM3)
    for name, study in {"salient": SALIENT, "mirror_msd": MSD, "mirror_pmd": PMD}.items()
}
STUDIES = {  # and what the recipe has other than the released script
    "camouflaged": (CAMOUFLAGED, {"epoch": 50}),
    "salient": (SALIENT, {}),
    "marine_mas3k": (MAS3K, {}),
    "marine_rmas": (RMAS, {}),
    "mirror_msd": (MSD, {}),
    "mirror_pmd": (PMD, {}),
    "polyp": (POLYP, {}),
} | {name: (study, UNEXT) for name, study in NEXT.items()}
STUDIES |= SAM3_STUDIES
UNKNOWN = {"CVC-ColonDB", "CVC-300"}  # data sets of the paper whose figures no source gave
RELEASED = Recipe(
    model="sam2unet", encoder=None, size=352, epoch=20, batch_size=12, lr=1e-3, weight_decay=5e-4, loss="released"
)


def test_every_published_result_has_a_file():
    found = {path.stem for path in (ROOT / "configs").iterdir() if Study.read(path) != Study()}
    assert found == set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_file_has_the_published_data_and_the_released_recipe(name):
    study, other = STUDIES[name]
    path = ROOT / f"configs/{name}.yaml"
    assert Study.read(path) == study
    assert Recipe.read(path) == dataclasses.replace(RELEASED, **other)


@pytest.mark.parametrize("name", STUDIES)
def test_a_head_has_the_command_and_the_figures_that_a_run_is_held_against(name):
    head = [
        line.removeprefix("#") for line in (ROOT / f"configs/{name}.yaml").read_text().splitlines() if line[:1] == "#"
    ]
    study, other = STUDIES[name]
    assert any(f"scripts/reproduce.py configs/{name}.yaml --data_root" in line for line in head)
    assert "epoch" not in other or any("--epoch 20" in line for line in head)
    if study.expect is None:
        assert any("Expect: no source" in line for line in head)
        return
    rows = {words[0]: words[1:] for words in map(str.split, head) if words and words[0] in study.test}
    published = read_figures(study.expect)
    assert set(study.test) - set(published) == UNKNOWN & set(study.test)
    known = {dataset: published.get(dataset, {}) for dataset in study.test}
    assert set().union(*known.values()) <= set(PROTOCOLS[study.protocol])
    columns = [key for key in PROTOCOLS[study.protocol] if any(key in row for row in known.values())]
    for dataset, row in known.items():
        assert rows[dataset] == [f"{row[key]:.3f}" if key in row else "-" for key in columns]


def test_counts_and_test_sets_must_be_as_many(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("test: [a, b]\ntest_count: [1]")
    with pytest.raises(UserError, match="test_count has 1 numbers for 2 data sets"):
        Study.read(path)


@pytest.fixture
def study(tmp_path):
    """A recipe file `small.yaml` and its data root, two sets to train on and two to test."""
    for name, count in (("A-train", 4), ("B-train", 3), ("CAMO", 3), ("COD10K", 2)):
        write_pairs(tmp_path / "data" / name, count)
    (tmp_path / "small.yaml").write_text(
        "encoder: micro\nsize: 64\nepoch: 3\nbatch_size: 4\n"
        "train: [A-train, B-train]\ntrain_count: 7\ntest: [CAMO, COD10K]\ntest_count: [3, 2026]\n"
        "protocol: camouflaged\nexpect: sam2-unet\n"
    )
    return tmp_path


@pytest.fixture
def refusal(run_main, steps, study):
    """Runs reproduce.py, which must end before its first step. Returns the lines on stderr."""

    def call() -> list[str]:
        status, _, err = run_main(reproduce, study / "small.yaml", "--data_root", study / "data")
        assert status == 2 and steps == []
        return err.splitlines()

    return call


def test_what_is_missing_is_one_line_with_all_of_it(refusal, study):
    (study / "data/CAMO").rename(study / "data/camo")
    (study / "data/B-train/masks").rename(study / "data/B-train/GT")
    assert refusal() == [
        f"error: not in {study / 'data'}: B-train/masks, CAMO; wanted are NAME/images and NAME/masks for "
        "A-train, B-train, CAMO, COD10K"
    ]


def mask_without_image(study):
    save(study / "data/CAMO/masks/z.png", np.full((50, 60), 255, np.uint8))


def mask_of_ones(study):
    save(study / "data/CAMO/masks/a.png", np.ones((50, 60), np.uint8))


def no_data_named(study):
    (study / "small.yaml").write_text("epoch: 3")


def unknown_protocol(study):
    (study / "small.yaml").write_text("train: [A-train]\ntest: [CAMO]\nprotocol: camo")


def unknown_paper(study):
    (study / "small.yaml").write_text("train: [A-train]\ntest: [CAMO]\nexpect: sam3")


def equal_names(study):
    write_pairs(study / "data/more/CAMO", 3)
    (study / "small.yaml").write_text("train: [A-train]\ntest: [CAMO, more/CAMO]")


@pytest.mark.parametrize(
    "spoil, words",
    [
        (mask_without_image, "have no image, and a score needs every mask's map: z;"),
        (mask_of_ones, "1 of 3 masks are not 0/255: a.png"),
        (no_data_named, "small.yaml does not name its data"),
        (unknown_protocol, "no protocol named camo"),
        (unknown_paper, "no published figures are known for 'sam3'"),
        (equal_names, "two data sets in test are called CAMO"),
    ],
)
def test_what_would_end_a_run_after_training_ends_it_before(spoil, words, refusal, study):
    spoil(study)
    lines = refusal()
    assert words in lines[-1] and sum(line.startswith("error: ") for line in lines) == 1


def test_a_wrong_count_is_a_warning_and_a_failing_step_gives_its_status(run_main, steps, study):
    flags = ["--data_root", study / "data", "--save_path", study / "run", "--size", 50]
    status, _, err = run_main(reproduce, study / "small.yaml", *flags)
    assert "warning: COD10K has 2 pairs; 2026 were published" in err
    assert "warning: CAMO has" not in err
    assert status == 2 and err.count("error: ") == 1
    assert [step[0] for step in steps] == ["train"]


def test_a_run_goes_on_where_it_stopped(run_main, steps, study, monkeypatch):
    monkeypatch.chdir(study)
    flags = ["small.yaml", "--data_root", "data", "--epoch", 1, "--workers", 0]
    status, _, err = run_main(reproduce, *flags)
    assert status == 0, err
    assert name_steps(steps) == ["train", "test CAMO", "test COD10K", "eval"]
    run_folder = study / "runs/small"
    checkpoint = run_folder / "SAM2-UNet-1.pth"
    kept, removed = run_folder / "maps/CAMO/a.png", run_folder / "maps/COD10K/b.png"
    before = [path.stat().st_mtime_ns for path in (checkpoint, kept)]
    removed.unlink()
    (run_folder / "scores/table.md").unlink()

    steps.clear()
    status, out, err = run_main(reproduce, *flags)
    assert status == 0, err
    assert name_steps(steps) == ["train", "test COD10K", "eval"]
    assert "CAMO: all 3 maps are in runs/small/maps/CAMO" in out
    assert [path.stat().st_mtime_ns for path in (checkpoint, kept)] == before and removed.is_file()
    table = re.search(r"CAMO +SAM2-UNet +3 .* 0\.884 .*\nCOD10K +SAM2-UNet +2 .* 0\.880 ", out)
    assert table and (run_folder / "scores/table.md").is_file()
    (run,) = json.loads((run_folder / "certificate.json").read_text())["runs"]
    assert (run["seed"], run["folder"], len(run["starts"])) == (1024, ".", 1)  # the second start trained nothing


def test_a_checkpoint_of_trained_weights_alone_gets_its_base_for_prediction(study, monkeypatch):
    calls = []

    def call(*words):
        calls.append([str(word) for word in words])
        if words[0] == "train":
            Recipe.read(study / "small.yaml").write(study / "recipe.yaml")
            (study / "SAM2-UNet-3.safetensors").touch()

    monkeypatch.setattr(study_steps, "run_command", call)
    weights, others = ["--hiera_path", "sam2.pt"], ["--save", "trainable"]
    config = study / "small.yaml"
    inputs = study_steps.StudyInputs(config, Study.read(config), study / "data", None, weights, others=others)
    study_steps.run_seed(inputs, study, seed=7)
    train, test, *_ = calls
    assert train[-4:] == ["--seed", "7", *others]
    assert test[:5] == ["test", "--checkpoint", str(study / "SAM2-UNet-3.safetensors"), *weights]


def name_steps(steps: list[list[str]]) -> list[str]:
    """`test CAMO` and so on."""
    folders = [re.search(r"/(\w+)/images", " ".join(words)) if words[0] == "test" else None for words in steps]
    return [f"{words[0]} {folder[1]}" if folder else words[0] for words, folder in zip(steps, folders, strict=True)]


def test_maps_are_complete_when_newer_than_all_that_they_come_from(tmp_path):
    images, masks = write_pairs(tmp_path, count=2)
    pairs = match(images, masks)
    checkpoint = tmp_path / "SAM2-UNet-1.pth"
    checkpoint.touch()
    for pair in pairs:
        save(tmp_path / f"maps/{pair.image.stem}.png", np.zeros((50, 60), np.uint8))
    now = time.time()
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (now, now))

    def complete():
        return study_steps.is_complete(pairs, tmp_path / "maps", checkpoint)

    assert complete()
    for source in (checkpoint, pairs[1].image, pairs[1].mask):
        os.utime(source, (now + 1, now + 1))
        assert not complete()
        os.utime(source, (now, now))
    (tmp_path / "maps/b.png").unlink()
    assert not complete()


STEP = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path("saved").touch()
    sys.exit(7)
signal.signal(signal.SIGINT, save)
pathlib.Path("started").touch()
time.sleep(60)
"""


def write_program(folder: Path, text: str) -> str:
    """Writes a Python program that can take the place of the interpreter."""
    path = folder / "step"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def test_ctrl_c_waits_for_the_step_to_save_and_gives_its_status(tmp_path):
    code = "import sys; from sam2unet.run_command import run_command; sys.executable = sys.argv[1]; run_command('x')"
    caller = [sys.executable, "-c", code, write_program(tmp_path, STEP)]
    process = subprocess.Popen(caller, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 7 and (tmp_path / "saved").exists()


def test_a_step_killed_by_a_signal_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", write_program(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(SystemExit) as end:
        run_command("train")
    assert end.value.code == 137 and "sam2unet train was ended by signal 9" in capfd.readouterr().err
