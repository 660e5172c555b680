"""A run never overwrites what it did not write, and a state that it cannot go on from is one line."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from sam2unet.atomic import PART, claim_folder, refuse_existing, refuse_other_results, write_together
from sam2unet.data.checks.contact_sheet import make_origin_note, refuse_other_picture
from sam2unet.errors import UserError
from sam2unet.recipe import Recipe
from sam2unet.scoring.evaluate import FILES
from sam2unet.training.loop import Progress
from sam2unet.training.run import RunFolder, find_resume_state
from sam2unet.training.run_record import write_run_record
from sam2unet.training.state import (
    FIELDS,
    check_state,
    lock_run_folder,
    read_run_state,
    refuse_other_files,
    try_lock,
    write_run_state,
)
from sam2unet.weights.formats import write_pickle
from tests.conftest import load_script


def test_a_new_run_leaves_models_and_files_of_others_alone(tmp_path):
    refuse_other_files(tmp_path, "SAM2-UNet")
    (tmp_path / "notes.txt").write_text("mine")
    refuse_other_files(tmp_path, "SAM2-UNet")
    (tmp_path / "recipe.yaml").write_text("lr: 1")
    with pytest.raises(UserError, match="holds recipe.yaml, which no run wrote"):
        refuse_other_files(tmp_path, "SAM2-UNet")
    write_run_record(tmp_path, {"started": "now", "recipe": {}})
    (tmp_path / "metrics.jsonl").touch()
    refuse_other_files(tmp_path, "SAM2-UNet")  # a run that was killed before its first state
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="holds run.json, recipe.yaml, metrics.jsonl, of an earlier run"):
        refuse_other_files(tmp_path, "SAM2-UNet")
    (tmp_path / "metrics.jsonl").unlink()
    for text in ("{", "[]", "{}"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UserError, match="holds run.json, recipe.yaml, which no run wrote"):
            refuse_other_files(tmp_path, "SAM2-UNet")
    for name in ("best.pth", "SAM2-UNet-5.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=rf"holds models of an earlier run \({name}\)"):
            refuse_other_files(tmp_path, "SAM2-UNet")
        (tmp_path / name).unlink()


def test_a_run_removes_only_unfinished_files_of_this_project(tmp_path):
    for name in (".lock", ".film.mp4.part", ".1.part"):
        (tmp_path / name).write_text("mine")
    (tmp_path / f".last.pt.7{PART}").write_bytes(b"")
    with lock_run_folder(tmp_path):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        (".lock", ".film.mp4.part", ".1.part"), "mine"
    )
    own = tmp_path / f".{os.getpid()}.part"
    own.mkdir()
    (own / "file").write_text("mine")
    with write_together(tmp_path) as part:
        (part / "new").write_text("")
    assert (own / "file").read_text() == "mine" and (tmp_path / "new").is_file()


def test_a_disk_without_locks_is_not_another_run(tmp_path):
    """A file that is open for reading cannot be locked, as no file on such a disk."""
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock") as file, pytest.raises(UserError, match=r"cannot lock .*\.lock: .*; give a --save_"):
        try_lock(file)


def test_a_folder_is_claimed_when_new_or_empty_and_again_for_the_same_content(tmp_path):
    assert claim_folder(tmp_path / "new", "data") is False
    (tmp_path / "new/file").write_text("")
    assert claim_folder(tmp_path / "new", "data") is True
    with pytest.raises(UserError, match="was made for data, not for maps"):
        claim_folder(tmp_path / "new", "maps")
    with pytest.raises(UserError, match="holds files that this script did not make"):
        claim_folder(tmp_path, "data")


def whole_state(**other):
    state = {name: {} for name in FIELDS} | {"weights": {"a": torch.zeros(2)}, "progress": vars(Progress())}
    return state | other


@pytest.mark.parametrize(
    "state, words",
    [
        (whole_state(weights={}), "holds the weights of another model"),
        (whole_state(weights={"a": torch.zeros(3)}), "holds the weights of another model"),
        (whole_state(weights={"a": 1}), "holds the weights of another model"),
        (whole_state(progress={"epoch": 1}), "has unknown fields of progress"),
        (whole_state(progress=vars(Progress()) | {"new": 1}), "has unknown fields of progress"),
        ({"recipe": {}}, "is not complete: data, base, weights"),
        (whole_state(later=1), r"has unknown fields \(later\)"),
        (whole_state(recipe={"later": 1}), r"has unknown fields \(recipe.later\)"),
    ],
)
def test_a_state_without_weights_or_of_a_newer_version_is_refused(state, words, tmp_path):
    path = tmp_path / "last.pt"
    write_run_state(path, state)
    with pytest.raises(UserError, match=words):
        check_state(path, read_run_state(path), {"a": torch.zeros(2)}, vars(Progress()).keys())


def test_what_is_no_state_is_named(tmp_path):
    path = tmp_path / "epoch1_sam.pth"
    weights = {"mask_decoder.iou_token.weight": torch.zeros(1)}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    for content in ({"model": weights, "optimizer": optimizer}, {"model": weights, "optimizer": {}}):
        torch.save(content, path)
        with pytest.raises(UserError, match="a checkpoint of SAM-Med2D's released training.*--sam_checkpoint takes"):
            read_run_state(path)
    torch.save(weights, path)
    with pytest.raises(UserError, match="weights go to --init_from"):
        read_run_state(path)
    path.write_text("Quota exceeded")
    with pytest.raises(UserError, match="is damaged or not the state of a run"):
        read_run_state(path)


def test_a_run_with_another_validation_set_is_not_resumed(tmp_path):
    facts = {"recipe": asdict(Recipe()), "data": {"count": 4}, "validation_set": {"count": 2, "bytes": 5}, "base": {}}
    write_run_state(tmp_path / "last.pt", whole_state(**facts))
    run_folder = RunFolder(tmp_path, resume="auto")
    assert find_resume_state(run_folder, facts)["data"] == {"count": 4}
    with pytest.raises(UserError, match=r"belongs to a run with another validation set \(count was 2, is now 3\)"):
        find_resume_state(run_folder, facts | {"validation_set": {"count": 3, "bytes": 5}})
    with pytest.raises(UserError, match="belongs to a run with another validation set"):
        find_resume_state(run_folder, facts | {"validation_set": {}})


def test_a_run_from_a_state_elsewhere_overwrites_no_other_run(tmp_path):
    facts = {"recipe": asdict(Recipe()), "data": {"count": 4}, "validation_set": {}, "base": {}}
    for name, count in (("mine", 4), ("other", 5)):
        (tmp_path / name).mkdir()
        write_run_state(tmp_path / name / "last.pt", whole_state(**facts | {"data": {"count": count}}))
    backup = tmp_path / "backup.pt"
    backup.write_bytes((tmp_path / "mine/last.pt").read_bytes())
    for name in ("mine", "new"):  # back to an earlier state, and into a new folder
        assert find_resume_state(RunFolder(tmp_path / name, resume=str(backup)), facts)["data"] == {"count": 4}
    words = r"other/last.pt belongs to a run with another data set \(count was 5, is now 4\); give another --save_path"
    with pytest.raises(UserError, match=words):
        find_resume_state(RunFolder(tmp_path / "other", resume=str(backup)), facts)


def test_a_run_goes_on_with_its_metric_and_with_its_weights_whatever_their_file_is_called(tmp_path):
    facts = {"recipe": asdict(Recipe()), "data": {}, "validation_set": {}, "best_metric": {"--best_metric": "mDice"}}
    facts |= {"base": {"hiera_path": f"a.pt, {'1' * 64}"}}
    write_run_state(tmp_path / "last.pt", whole_state(**facts))
    run_folder = RunFolder(tmp_path, resume="auto")
    assert find_resume_state(run_folder, facts | {"base": {"hiera_path": f"renamed.pt, {'1' * 64}"}})
    with pytest.raises(UserError, match=r"another weight file \(hiera_path was a.pt, 1+, is now a.pt, 2+\)"):
        find_resume_state(run_folder, facts | {"base": {"hiera_path": f"a.pt, {'2' * 64}"}})
    # best.pth is the best one by the first metric; no epoch before could be the best one by another metric.
    with pytest.raises(UserError, match=r"another best metric \(--best_metric was mDice, is now MAE\)"):
        find_resume_state(run_folder, facts | {"best_metric": {"--best_metric": "MAE"}})


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_run_json_is_one_line_and_stays(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match="run.json .*; move it away, then --resume works"):
        write_run_record(tmp_path, {}, resumed=True)
    assert path.read_text() == text
    path.write_text('{"resumed": 5}')
    write_run_record(tmp_path, {"a": 1}, resumed=True)
    assert json.loads(path.read_text()) == {"resumed": [5, {"a": 1}]}


def test_a_full_disk_is_called_so(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "with_name", lambda path, name: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(UserError, match="cannot write .*last.pt: No space left on device"):
        write_pickle({"a": torch.zeros(10**7)}, tmp_path / "last.pt")


def test_results_replace_only_results(tmp_path):
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(UserError, match="holds table.csv, which this project did not write"):
        refuse_other_results(tmp_path, FILES)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="holds table.csv, results.json, which this project did not write"):
        refuse_other_results(tmp_path, FILES)
    (tmp_path / "results.json").write_text('{"versions": {}}')
    refuse_other_results(tmp_path, FILES)
    refuse_existing(tmp_path / "new.onnx")
    with pytest.raises(UserError, match="table.csv exists and is not overwritten"):
        refuse_existing(tmp_path / "new.onnx", tmp_path / "table.csv")


def test_a_contact_sheet_replaces_only_a_contact_sheet(tmp_path):
    path = tmp_path / "contact_sheet.png"
    refuse_other_picture(path)
    picture = Image.new("L", (4, 4))
    picture.save(path, pnginfo=make_origin_note())
    refuse_other_picture(path)
    picture.save(path)
    with pytest.raises(UserError, match="was not made by this script and is not overwritten"):
        refuse_other_picture(path)


def test_a_mask_is_not_written_over_another_file(tmp_path):
    script, image = load_script("scripts/onnx_prompts.py"), tmp_path / "a.png"
    image.touch()
    words = ["--encoder", "e", "--decoder", "d", "--image", str(image), "--output", str(image), "--box", "1,1,9,9"]
    with pytest.raises(UserError, match="a.png exists and is not overwritten"):
        script.run(script.parser().parse_args(words))
