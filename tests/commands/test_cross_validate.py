"""scripts/cross_validate.py: each image is predicted by a model that has not seen it, and all are scored once."""

import csv
import json

import numpy as np
import pytest

from sam2unet.classes import Classes
from sam2unet.commands import cross_validate
from sam2unet.errors import UserError
from sam2unet.reproduce.cross_validation import list_mask_flags
from sam2unet.task import RunData
from tests.conftest import write_pairs

FLAGS = "--folds 2 --encoder micro --size 64 --batch_size 2 --workers 0 --device cpu --protocol medical".split()


@pytest.fixture
def flags(tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=7)
    return ["--train_image_path", images, "--train_mask_path", masks, "--save_path", tmp_path / "run", *FLAGS]


def test_each_image_is_predicted_by_the_other_folds(flags, tmp_path, steps, run_main):
    status, out, err = run_main(cross_validate, *flags)
    assert status == 0, err
    folder = tmp_path / "run"
    names = [set((folder / f"fold_{fold}/mask.txt").read_text().splitlines()) for fold in (1, 2)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 7
    for fold in (1, 2):
        record = json.loads((folder / f"fold_{fold}/run.json").read_text())
        assert record["data"]["count"] == 7 - len(names[fold - 1])
        assert len(list((folder / f"fold_{fold}/maps").glob("*.png"))) == len(names[fold - 1])
    assert [command[0] for command in steps] == ["train", "test"] * 2 + ["eval"]
    tested = [command[command.index("--checkpoint") + 1] for command in steps if command[0] == "test"]
    assert [path.split("/")[-2:] for path in tested] == [[f"fold_{fold}", "SAM2-UNet-1.pth"] for fold in (1, 2)]

    with open(folder / "scores/per_image.csv") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "folds.csv") as file:
        table = {row["dataset"]: row for row in csv.DictReader(file)}
    means = [np.mean([float(r["medical_Dice"]) for r in rows if r["dataset"] == f"fold {fold}"]) for fold in (1, 2)]
    assert float(table["mean of folds"]["medical_Dice"]) == pytest.approx(np.mean(means))
    assert float(table["standard deviation"]["medical_Dice"]) == pytest.approx(np.std(means, ddof=1))
    everything = [float(r["medical_Dice"]) for r in rows if r["dataset"] == "all folds"]
    assert len(everything) == 7 and float(table["all folds"]["medical_Dice"]) == pytest.approx(np.mean(everything))
    assert "standard deviation" in out and "| all folds |" in (folder / "folds.md").read_text()

    steps.clear()
    status, _, err = run_main(cross_validate, *flags, "--protocol", "surfaces")
    assert status == 2 and err.startswith("error: no protocol named surfaces") and not steps
    (folder / "fold_2/maps" / f"{sorted(names[1])[0].split('/')[-1]}").unlink()
    assert run_main(cross_validate, *flags)[0] == 0
    assert [command[0] for command in steps] == ["train", "train", "test", "eval"]  # only what is missing


@pytest.mark.parametrize(
    "words, message",
    [
        (["--folds", 0], "--folds is 0; it must be from 2 to 100"),
        (["--empty_masks", "best"], "argument --empty_masks: invalid choice"),
        (["--spacing", 0], "spacing is 0.0; it must be from 1e-12 to"),
        (["--protocol", "polyp", "--spacing", 2], "--spacing, --nsd_tolerance and --empty_masks need a --protocol"),
    ],
)
def test_what_would_end_the_run_after_the_training_ends_it_before(words, message, flags, tmp_path, steps, run_main):
    status, _, err = run_main(cross_validate, *flags, *words)
    assert status == 2 and err.startswith(f"error: {message}") and not steps
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, message",
    [(["--report"], "--report shows images"), (["--protocol", "polyp"], "volumes need --protocol medical or surface")],
)
def test_volumes_have_no_report_and_need_columns_in_3d(words, message, flags, tmp_path, steps, run_main):
    for path in (tmp_path / "data").rglob("*.*"):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((3, 8, 8), np.uint8))
    status, _, err = run_main(cross_validate, *flags, *words)
    assert status == 2 and err.startswith(f"error: {message}") and not steps


def test_classes_of_the_config_go_to_eval(tmp_path):
    file, classes = tmp_path / "classes.yaml", Classes.number(3)
    assert list_mask_flags(classes, file) == ["--classes", file] and Classes.read(file) == classes
    assert list_mask_flags((3, 4), file) == ["--foreground", "3", "4"] and list_mask_flags(None, file) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"folds": 3}, "--folds and --fold go together"),
        ({"group": "a"}, "--folds and --fold go together"),
        ({"folds": 3, "fold": 4}, "fold is 4 of 3"),
        ({"folds": 1, "fold": 1}, "fold is 1 of 1"),
        ({"folds": 3, "fold": 1, "val_fraction": 0.1}, "--folds takes validation images from the training folders"),
    ],
)
def test_wrong_folds_are_refused(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        RunData(**options)
