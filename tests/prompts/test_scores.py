"""The test of SAM-Med2D: the released numbers, what an answer depends on, and what test.py writes and refuses."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sam2unet.data.pairs import Pair
from sam2unet.families.build import build_sam_med2d
from sam2unet.families.load import open_model, read_checkpoint, resize_checkpoint, save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import find_family
from sam2unet.prompts.files.results import list_mask_paths
from sam2unet.prompts.framing import Framing
from sam2unet.prompts.lists import make_unique_names, read_prompts, read_test_list, write_test_list, write_train_list
from sam2unet.prompts.modes import BOX, PAPER, PromptMode, PromptTestFlags
from sam2unet.prompts.scores import PromptTestOptions, answer_all, compute_means, format_means
from sam2unet.prompts.task import PromptTask
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.task import RunData
from sam2unet.weights.formats import save_state
from tests.conftest import flat, same, save, tiny_sam_med2d

FRAMING = Framing(64)
P1, P3, P5, CLICKS = PromptMode(points=1), PromptMode(points=3), PromptMode(points=5), PromptMode(rounds=4)


@pytest.fixture(scope="module")
def small():
    """Its answers are neither empty nor full."""
    return tiny_sam_med2d().eval()


@pytest.fixture
def weights(small, tmp_path):
    """A file of it, which is of a size that is known."""
    path = tmp_path / "weights/small.pth"
    path.parent.mkdir()
    save_state(small.state_dict(), path)
    return path


@pytest.fixture
def scored(weights, lists, test_py, tmp_path):
    """test.py on the small lists: `scored("out", "--point_num", 3)`."""
    write_test_list(tmp_path, flat(lists))

    def call(target, *flags, checkpoint=weights):
        words = ("--checkpoint", checkpoint, "--data_path", tmp_path, "--save_path", tmp_path / target)
        return test_py(*words, "--device", "cpu", *flags)

    return call


def answer_lists(model, lists, modes, options=PromptTestOptions(), **more):  # noqa: B008
    """{(index, mode): answer}"""
    return {(one.index, one.mode): one for one in answer_all(model, flat(lists), modes, FRAMING, options, **more)}


def numbers(folder):
    with open(folder / "per_mask.csv") as file:
        return list(csv.DictReader(file))


def table(ended):
    """{prompt: (Dice, IoU, loss)} as printed."""
    rows = [line.rsplit(maxsplit=4) for line in ended.out.split("prompt   ")[1].split("\n\n")[0].splitlines()[1:]]
    return {name.strip(): tuple(map(float, scores)) for name, _, *scores in rows}


# Against the released code


def test_the_released_test_gives_its_numbers(sam_med2d_b, reference, demo):
    """vit_b with generated weights, boxes, the 11 masks of two images."""
    golden = np.load(reference / "sammed2d_procedures.npz")
    pairs = read_test_list(demo)
    names = make_unique_names([pair.mask for pair in pairs])
    prompts = read_prompts(reference / "sammed2d_prompts.json", names)
    ours = list(
        answer_all(sam_med2d_b, pairs, [BOX], Framing(), PromptTestOptions(prompts={BOX: dict(enumerate(prompts))}))
    )
    assert [names[one.index] for one in ours] == golden["eval.box.names"].tolist()
    np.testing.assert_allclose([one.loss for one in ours], golden["eval.box.losses"], rtol=1e-5)
    # A pixel whose logit is 0 but for rounding moves a score by less than this.
    np.testing.assert_allclose([(one.iou, one.dice) for one in ours], golden["eval.box.iou_dice"], rtol=2e-3)
    positive = [int((one.logits > 0).sum()) for one in ours]
    np.testing.assert_allclose(positive, golden["eval.box.positive_pixels"], rtol=2e-3)
    for one in ours:
        expected = golden[f"eval.box.logits_s16.{pairs[one.index].mask.stem}"]
        np.testing.assert_allclose(one.logits[0, ::16, ::16], expected, rtol=0, atol=1e-5)
    means = compute_means(ours)
    loss, iou, dice = (f"{means[BOX][key]:.4f}" for key in ("loss", "IoU", "Dice"))
    assert f"Test loss: {loss}, metrics: {{'iou': '{iou}', 'dice': '{dice}'}}" == golden["eval.box.printed"].item()
    assert format_means(means).splitlines()[1].split() == ["box", "11", dice, iou, loss]


# What an answer depends on


def test_an_answer_depends_on_neither_the_batch_nor_other_modes_nor_other_masks(small, lists):
    modes = (BOX, P1, P3, CLICKS)
    together = answer_lists(small, lists, modes)
    assert len(together) == 9 * 4
    for other in (
        answer_lists(small, lists, modes, PromptTestOptions(masks_per_batch=1)),
        answer_lists(small, lists, modes, PromptTestOptions(masks_per_batch=2)),
        answer_lists(small, lists, [CLICKS, P3]),
        answer_lists(small, lists, [BOX], indices=[7, 2]),
    ):
        for key, one in other.items():
            assert same(one.prompts, together[key].prompts)
            torch.testing.assert_close(one.logits, together[key].logits, rtol=0, atol=1e-5)
            assert (one.loss, one.quality) == pytest.approx((together[key].loss, together[key].quality), abs=1e-5)
    assert {one.logits.shape for one in together.values()} == {(1, 50, 41), (1, 50, 90), (1, 128, 100)}


def test_an_image_is_encoded_once(small, lists):
    seen = []
    hook = small.image_encoder.register_forward_hook(lambda part, given, made: seen.append(made))
    answer_lists(small, lists, PAPER, PromptTestOptions(masks_per_batch=2))
    hook.remove()
    assert len(seen) == 3


def test_another_seed_draws_other_points_and_the_same_boxes(small, lists):
    one, two = (answer_lists(small, lists, [BOX, P3], PromptTestOptions(seed)) for seed in (0, 1))
    assert all(torch.equal(one[key].logits, two[key].logits) == (key[1] == BOX) for key in one)


def test_clicks_add_up_and_see_the_answer_before(small, lists, monkeypatch):
    calls, decode = [], small.decode
    monkeypatch.setattr(small, "decode", lambda *args, **given: calls.append((args, given)) or decode(*args, **given))
    answer_lists(small, lists[:1], [CLICKS])
    first, *later = calls
    (_, points, boxes, masks), _ = first
    assert points.labels.shape == (3, 1) and boxes is masks is None
    coords = points.coords
    for number, ((_, points, boxes, masks), _) in enumerate(later, 2):
        assert points.coords.shape == (3, number, 2) and torch.equal(points.coords[:, :-1], coords)
        assert masks.shape == (3, 1, 16, 16) and 0 <= masks.min() < masks.max() <= 1 and boxes is None
        coords = points.coords
    assert len(later) == 3


def test_options_change_the_answers_they_are_for(small, lists):
    plain = answer_lists(small, lists, [BOX, CLICKS])
    for options, changed in (
        (PromptTestOptions(multimask=False), {BOX, CLICKS}),
        (PromptTestOptions(mask_prompt="logits"), {CLICKS}),
    ):
        other = answer_lists(small, lists, [BOX, CLICKS], options)
        assert {key[1] for key in plain if not torch.equal(plain[key].logits, other[key].logits)} == changed


# What is asked for


@pytest.mark.parametrize(
    "flags, modes",
    [
        (PromptTestFlags(), PAPER),
        (PromptTestFlags(boxes_prompt=True), (BOX,)),
        (PromptTestFlags(boxes_prompt=False), (P1,)),
        (PromptTestFlags(boxes_prompt=False, point_num=[3]), (P3,)),
        (PromptTestFlags(point_num=[3, 5]), (BOX, P3, P5)),
        (PromptTestFlags(iter_point=[8]), (BOX, PromptMode(rounds=8))),
        (PromptTestFlags(False, [1, 3], [1, 8]), (P1, P3, PromptMode(rounds=8))),
    ],
)
def test_modes_are_those_of_the_flags(flags, modes):
    assert flags.choose_modes() == modes


def test_titles_and_folders_of_modes_differ():
    modes = (BOX, P1, P3, PromptMode(rounds=3))
    assert [mode.title for mode in modes] == ["box", "1 pt", "3 pts", "3 clicks"]
    assert [mode.folder for mode in modes] == ["boxes_prompt", "points1_prompt", "points3_prompt", "iter3_prompt"]


# Through test.py


def test_the_paper_s_columns_are_one_run_and_come_again_from_their_prompts(small, lists, scored, tmp_path):
    ended = scored("out")
    assert ended.status == 0, ended.err
    assert "9 masks on 3 images at 64x64 on cpu" in ended.out
    means = json.loads((tmp_path / "out/results.json").read_text())["means"]
    assert list(means) == ["box", "1 pt", "3 pts", "5 pts"] == list(table(ended))
    rows = numbers(tmp_path / "out")
    assert list(rows[0]) == ["image", "mask", "prompt", "dice", "iou", "quality", "loss"] and len(rows) == 36
    for title, row in means.items():
        own = [float(r["dice"]) for r in rows if r["prompt"] == title]
        assert row["masks"] == 9 and row["Dice"] == pytest.approx(np.mean(np.round(own, 4)))
        assert table(ended)[title] == tuple(round(row[key], 4) for key in ("Dice", "IoU", "loss"))
    direct = answer_lists(small, lists, [P3], PromptTestOptions(seed=1024))
    assert [r["dice"] for r in rows if r["prompt"] == "3 pts"] == [repr(one.dice) for one in direct.values()]
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    prompts = ["64_prompt.json", "64_prompt_3pts.json", "64_prompt_5pts.json"]
    assert files == [*prompts, "per_mask.csv", "results.json"]
    entry = json.loads((tmp_path / "out/64_prompt_3pts.json").read_text())["i0_0.png"]
    assert np.shape(entry["point_coords"]) == (3, 2)

    paths = [tmp_path / "out" / name for name in prompts]
    again = scored("again", "--seed", 5, "--prompt_path", *paths)
    assert table(again) == table(ended) and numbers(tmp_path / "again") == rows
    assert not list((tmp_path / "again").glob("*prompt*"))
    alone = scored("alone", "--seed", 5, "--prompt_path", paths[1], "--boxes_prompt", "False")
    assert table(alone) == {"3 pts": table(ended)["3 pts"]}


def test_validation_in_training_gives_the_same_numbers(small, lists, scored, tmp_path):
    recipe = Recipe.read(model="sam_med2d", size=64)
    write_train_list(tmp_path, lists)
    task = PromptTask(find_family("sam_med2d"), recipe, RunData(lists=tmp_path, val_lists=tmp_path))
    scores = task.validate(small, Processes())
    printed = table(scored("out"))
    for way in ("box", "1 pt"):
        assert printed[way][:2] == tuple(round(scores[f"{way} {name}"], 4) for name in ("Dice", "IoU"))


def test_clicks_come_again_from_prompts_and_the_seed(scored, tmp_path):
    flags = ("--boxes_prompt", "False", "--iter_point", 3)
    first = scored("a", *flags, "--seed", 7)
    again = scored("b", *flags, "--seed", 7, "--prompt_path", tmp_path / "a/64_prompt.json")
    assert list(table(first)) == list(table(again)) == ["3 clicks"]
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")


@pytest.mark.parametrize("count", [1, 3])
def test_one_kind_of_point_has_the_released_file(count, scored, tmp_path):
    assert scored("out", "--boxes_prompt", "False", "--point_num", count).status == 0
    entry = json.loads((tmp_path / "out/64_prompt.json").read_text())["i1_2.png"]
    assert np.shape(entry["boxes"]) == (1, 4) and np.shape(entry["point_labels"]) == (count,)


def test_predicted_masks_are_pictures_of_the_original_size(small, lists, scored, tmp_path):
    ended = scored("out", "--save_pred", "--iter_point", 2)
    assert ended.status == 0 and "boxes_prompt, iter2_prompt" in ended.out
    expected = answer_lists(small, lists, [BOX, PromptMode(rounds=2)], PromptTestOptions(seed=1024))
    assert len(list((tmp_path / "out").rglob("*.png"))) == 18
    for (index, mode), one in expected.items():
        path = tmp_path / "out" / mode.folder / flat(lists)[index].mask.name
        pixels = np.asarray(Image.open(path))
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, (one.logits[0] > 0).numpy() * 255)
    assert 0 < pixels.mean() < 255


def test_masks_whose_names_are_paths_are_written_inside_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks = ["../a/m.png", "/b/c/m.png", "../a/x/m.png", "n.tif"]
    target = tmp_path / "out"
    pairs = [Pair(tmp_path / "i.png", tmp_path.joinpath(mask)) for mask in masks]
    found = list_mask_paths(pairs, [BOX], target)
    assert len(set(found.values())) == 4
    assert all((target / "boxes_prompt").resolve() in path.resolve().parents for path in found.values())
    assert found[BOX, 3] == target / "boxes_prompt/n.png"


def test_adapters_can_be_left_out_and_the_size_be_another(weights, lists, scored, tmp_path):
    """As training starts from the same file: SAM-Med2D* of the paper, SAM at 256."""
    assert scored("out", "--encoder_adapter", "False", "--image_size", 128, "--boxes_prompt", "True").status == 0
    settings = json.loads((tmp_path / "out/results.json").read_text())["settings"]
    assert settings["size"] == "128" and settings["encoder_adapter"] == "False"
    options = NetworkShape(size=128, encoder_adapter=False)
    expected, _ = start_model("sam_med2d", options, {"sam_checkpoint": weights})
    ours = open_model(resize_checkpoint(read_checkpoint(weights), size=128, encoder_adapter=False), {}, "cpu")
    assert same(tuple(ours.state_dict().items()), tuple(expected.state_dict().items()))
    (one, *_) = answer_all(expected, flat(lists), [BOX], Framing(128))
    assert numbers(tmp_path / "out")[0]["dice"] == repr(one.dice)
    path = tmp_path / "plain.pth"
    save_state(ours.state_dict(), path)
    assert "128x128" in scored("plain", checkpoint=path).out
    ended = scored("refused", "--encoder_adapter", "True", checkpoint=path)
    assert ended.status == 2 and ended.err == [f"error: {path} has no adapters; leave --encoder_adapter out"]


def test_trained_weights_alone_are_tested_at_another_size_too(weights, scored, tmp_path):
    model, weight_files = start_model("sam_med2d", NetworkShape(size=64), {"sam_checkpoint": weights})
    save_checkpoint(model, tmp_path / "t.safetensors", weight_files)
    flags = ("--sam_checkpoint", weights, "--boxes_prompt", "--image_size", 96)
    assert scored("a", *flags, checkpoint=tmp_path / "t.safetensors").status == 0
    assert scored("b", "--boxes_prompt", "--image_size", 96).status == 0
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")


def test_the_recipe_beside_a_checkpoint_is_the_default_and_flags_win(weights, scored, tmp_path):
    plain, rgb = (scored(name, "--rgb", value, "--boxes_prompt") for name, value in (("a", False), ("b", True)))
    (weights.parent / "recipe.yaml").write_text("model: sam_med2d\nrgb: true\nseed: 3\nsize: 64\n")
    assert table(scored("c", "--boxes_prompt")) == table(rgb) != table(plain)
    assert table(scored("d", "--boxes_prompt", "--rgb", "False")) == table(plain)
    settings = json.loads((tmp_path / "d/results.json").read_text())["settings"]
    assert (settings["seed"], settings["size"]) == (3, "64")


def test_bad_files_are_left_out_if_so_wished(lists, scored, tmp_path):
    whole = scored("whole", "--boxes_prompt")
    save(lists[0].masks[1], np.zeros((50, 41), np.uint8))
    image = lists[2].image
    Image.open(image).save(image, format="JPEG")
    image.write_bytes(image.read_bytes()[:-300])  # its head can be read
    stopped = scored("out", "--boxes_prompt")
    assert stopped.status == 2 and "1 of 9 masks cannot be used: i0_1.png" in stopped.err[-1]
    assert not (tmp_path / "out").exists()
    ended = scored("out", "--boxes_prompt", "--on_bad_image", "skip")
    assert ended.status == 1 and "error: 4 of 9 masks were left out: i0_1.png, i2_0.png" in ended.err[-1]
    kept = [row for row in numbers(tmp_path / "whole") if "i2" not in row["mask"] and "i0_1" not in row["mask"]]
    assert numbers(tmp_path / "out") == kept and whole.status == 0
    for item in lists:
        item.image.write_bytes(b"")
    ended = scored("none", "--on_bad_image", "skip")
    assert ended.status == 2 and "none of 9 masks" in ended.err[-1] and not (tmp_path / "none").exists()


REFUSED = {
    "a flag of maps": (["--threshold", "0.5", "--overlay"], "SAM-Med2D has no use for --threshold --overlay"),
    "no points": (["--point_num", "0"], "point_num is 0; it must be from 1 to 10000"),
    "a batch of none": (["--batch_size", "0"], "batch_size is 0"),
    "a size that no grid fits": (["--image_size", "100"], "size 100 is not a multiple of 32; give 96 or 128"),
    "no prompts": (["--prompt_path", "no.json"], "no such file: no.json"),
    "prompts of one point for three": (["--prompt_path", "64_prompt.json", "--point_num", "3"], "no --prompt_path for"),
    "prompts of other masks": (["--prompt_path", "other.json"], "other.json has no prompts for 9 of 9 masks"),
    "prompts of another size": (
        ["--prompt_path", "256_prompt.json"],
        "is for images of 256x256, but the model takes 64",
    ),
    "prompts outside": (["--prompt_path", "far.json"], "is for images of at least 200 pixels"),
    "prompts twice": (["--prompt_path", "64_prompt.json", "64_prompt.json"], "is the second --prompt_path with 1"),
    "a folder without list": (["--data_path", "."], "no such file: label2image_test.json"),
    "a word for a switch": (["--multimask", "maybe"], "'maybe' is not True or False"),
    "answers onto masks": (
        ["--save_pred", "--save_path", "onto"],
        "would overwrite onto/boxes_prompt/m.png",
    ),
    "prompts of the user": (["--save_path", "."], "holds 64_prompt.json, which this project did not write"),
    "another part's file": (["--hiera_path", "x.pt"], "SAM-Med2D takes no --hiera_path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(case, scored, lists, tmp_path, monkeypatch):
    flags, words = REFUSED[case]
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    entry = {"boxes": [[1, 2, 3, 4]], "point_coords": [[5, 6]], "point_labels": [1]}
    names = [pair.mask.name for pair in flat(lists)]
    for name in ("64_prompt.json", "256_prompt.json"):
        (folder / name).write_text(json.dumps(dict.fromkeys(names, entry)))
    (folder / "other.json").write_text(json.dumps({"a.png": entry}))
    (folder / "far.json").write_text(json.dumps(dict.fromkeys(names, entry | {"boxes": [[1, 2, 3, 200]]})))
    if "onto" in flags:
        save(folder / "onto/boxes_prompt/m.png", np.asarray(Image.open(lists[0].masks[0])))
        write_test_list(tmp_path, [Pair(lists[0].image, folder / "onto/boxes_prompt/m.png")])
    ended = scored("out", *flags)
    assert ended.is_refusal(words), ended
    assert not (tmp_path / "out").exists()


def test_each_kind_of_model_says_what_it_takes(weights, checkpoint, test_py, tmp_path):
    for path, flags, words in (
        (weights, [], "--data_path, which SAM-Med2D takes, is missing"),
        (weights, ["--test_image_path", tmp_path], "SAM-Med2D has no use for --test_image_path; it takes --data_path"),
        (checkpoint, [], "--test_image_path, which SAM2-UNet takes, is missing"),
        (checkpoint, ["--boxes_prompt", "False", "--seed", 0], "SAM2-UNet has no use for --boxes_prompt --seed"),
    ):
        ended = test_py("--checkpoint", path, "--save_path", tmp_path / "out", *flags)
        assert ended.is_refusal(words), ended


def test_the_script_scores_a_file_of_sam(lists, script, tmp_path):
    """A real vit_b without adapters, by name and shape alone."""
    with torch.device("meta"):
        model = build_sam_med2d(NetworkShape(size=64, encoder_adapter=False), {})[0]
    path = tmp_path / "sam_vit_b.pth"
    torch.save({name: torch.zeros(1).expand(t.shape) for name, t in model.state_dict().items()}, path)  # kilobytes
    write_test_list(tmp_path, flat(lists))
    flags = ("--checkpoint", path, "--data_path", tmp_path, "--save_path", tmp_path / "out", "--device", "cpu")
    result = script("test.py", *flags, "--image_size", 32, "--save_pred", "True")
    assert result.returncode == 0, result.stderr
    assert "9 masks on 3 images at 32x32 on cpu" in result.stdout and "36 answers" in result.stdout
    assert len(list((tmp_path / "out").rglob("*.png"))) == 36
