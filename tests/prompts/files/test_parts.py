"""Long lists of prompts: shares of a test, their parts, and that results do not depend on either."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from sam2unet.data.checks import check
from sam2unet.prompts.groups import group_by_image
from sam2unet.prompts.lists import make_unique_names, write_entries, write_test_list
from sam2unet.weights.formats import save_state
from tests.conftest import flat, tiny_sam_med2d


@pytest.fixture
def words(lists, tmp_path):
    """The flags of a test of a small model. The masks of an image are not neighbours in the list."""
    save_state(tiny_sam_med2d().state_dict(), tmp_path / "small.pth")
    pairs = flat(lists)
    random.Random(0).shuffle(pairs)
    write_test_list(tmp_path, pairs)
    return ("--checkpoint", tmp_path / "small.pth", "--data_path", tmp_path, "--device", "cpu", "--save_pred")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shares_give_the_files_of_one_run(words, test_py, two_processes, tmp_path):
    assert test_py(*words, "--save_path", tmp_path / "whole").status == 0
    outs = []
    for number in (2, 3):
        outs.append(test_py(*words, "--save_path", tmp_path / "shares", "--shard", f"{number}/3").out)
        names = sorted(path.name for path in (tmp_path / "shares").glob("*.*"))
        assert names == [f"part-{i}-of-3.answers" for i in (2, 3)[: len(outs)]]
    assert f"1 of 3 parts are in {tmp_path / 'shares'}" in outs[0] and "share 3/3: 3 masks on 1 images" in outs[1]
    again = test_py(*words, "--save_path", tmp_path / "shares", "--shard", "3/3")
    assert "has the answers of an earlier run" in again.out
    ended = test_py(*words, "--save_path", tmp_path / "shares", "--shard", "1/3")
    assert ended.status == 0 and "\nprompt       masks     Dice" in ended.out
    assert contents(tmp_path / "shares") == contents(tmp_path / "whole")

    together = two_processes("test.py", *words, "--save_path", tmp_path / "two", "--shard", "2/2")
    assert together.returncode == 0, together.stderr
    assert sorted(path.name for path in (tmp_path / "two").glob("*.*")) == [f"part-{i}-of-4.answers" for i in (2, 4)]
    together = two_processes("test.py", *words, "--save_path", tmp_path / "two", "--shard", "1/2")
    assert together.returncode == 0, together.stderr
    assert contents(tmp_path / "two").keys() == contents(tmp_path / "whole").keys()
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")


def test_parts_of_other_tests_are_not_joined(words, lists, test_py, tmp_path):
    out, flags = tmp_path / "out", ("--boxes_prompt", "--shard")
    assert test_py(*words, "--save_path", out, *flags, "1/2", "--seed", 1).status == 0
    ended = test_py(*words, "--save_path", out, *flags, "2/2", "--seed", 2)
    assert "1 of 2 parts are in" in ended.out and not (out / "results.json").exists()
    lists[0].masks[0].write_bytes(b"")
    ended = test_py(*words, "--save_path", out, *flags, "1/2", "--seed", 2, "--on_bad_image", "skip")
    assert ended.status == 1 and "error: 1 of 9 masks were left out: i0_0.png" in ended.err[-1]
    assert json.loads((out / "results.json").read_text())["means"]["box"]["masks"] == 8
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/part-1-of-2.answers").write_bytes(b"mine")
    ended = test_py(*words, "--save_path", tmp_path / "mine", *flags, "1/2", "--on_bad_image", "skip")
    assert ended.status == 2 and "part-1-of-2.answers exists, and this project did not write it" in ended.err[-1]
    assert contents(tmp_path / "mine") == {"part-1-of-2.answers": b"mine"}


def test_a_share_with_predicted_masks_does_not_use_answers_without(words, test_py, tmp_path):
    flags = ("--save_path", tmp_path / "out", "--boxes_prompt", "--shard")
    assert words[-1] == "--save_pred" and test_py(*words[:-1], *flags, "1/2").status == 0
    again = test_py(*words, *flags, "1/2")
    assert again.status == 0 and "has the answers of an earlier run" not in again.out
    assert test_py(*words, *flags, "2/2").status == 0
    assert len([*(tmp_path / "out/boxes_prompt").glob("*.png")]) == 9


def test_more_shares_than_images(words, test_py, tmp_path):
    for number in range(1, 6):
        ended = test_py(*words, "--save_path", tmp_path / "out", "--shard", f"{number}/5", "--boxes_prompt")
        assert ended.status == 0, ended.err
    assert json.loads((tmp_path / "out/results.json").read_text())["means"]["box"]["masks"] == 9


@pytest.mark.parametrize("limit", [None, 1, 2, 4])
def test_groups_are_those_of_a_dictionary(limit, lists):
    pairs = random.Random(1).choices(flat(lists), k=40)
    indices = random.Random(2).sample(range(40), k=30)
    expected = {}
    for index in indices:
        expected.setdefault(pairs[index].image, []).append(index)
    groups = group_by_image(pairs, indices, limit)
    size = limit or 40
    assert list(groups) == [g[i : i + size] for g in expected.values() for i in range(0, len(g), size)]
    assert list(group_by_image([])) == [] and groups[1::2] == list(groups)[1::2]


def test_files_of_prompts_are_the_text_of_json(tmp_path, lists):
    entries = {'a "ü"\n.png': {"boxes": [[0.1, 2.0]], "x": []}, "\udcff": [1, -1]}
    for part in (entries, {}):
        write_entries(tmp_path / "a.json", part.items())
        assert (tmp_path / "a.json").read_text() == json.dumps(part, indent=2)
    masks = [pair.mask for pair in flat(lists)]
    assert list(make_unique_names([*masks, masks[2].parent / "x/i0_0.png"]))[::3] == [
        masks[0].as_posix(),
        *(mask.name for mask in masks[3::3]),
        (masks[2].parent / "x/i0_0.png").as_posix(),
    ]


def test_of_a_long_list_a_sample_is_checked_and_a_bad_mask_is_left_out_alone(
    words, lists, test_py, tmp_path, monkeypatch
):
    monkeypatch.setattr(check, "SAMPLE", 2)
    bad = lists[1].masks[1]
    Image.fromarray(np.zeros_like(Image.open(bad))).save(bad)
    ended = test_py(*words, "--save_path", tmp_path / "out", "--boxes_prompt", "--on_bad_image", "skip")
    assert "check: 2 of 9 pairs now, the others when they are read" in ended.out
    assert ended.status == 1 and ended.err[-1] == "error: 1 of 9 masks were left out: i1_1.png"
    assert f"warning: left out: {bad} is empty, so there is nothing to point at" in ended.err[0]
    monkeypatch.undo()
    again = test_py(*words, "--save_path", tmp_path / "again", "--boxes_prompt", "--on_bad_image", "skip")
    assert again.status == 1 and contents(tmp_path / "again") == contents(tmp_path / "out")
