"""Models for prompts as ONNX: the released decoder's answers, what is in the files, and masks made with them."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import checker, load, save
from PIL import Image
from torch import nn

import sam2unet
from sam2unet.atomic import sha256
from sam2unet.data.reading import read_image
from sam2unet.export import prompts as prompt_export
from sam2unet.export.prompt_graphs import Decoder, GraphOptions, approximate_gelu_, to_size
from sam2unet.families.build import build_sam_med2d
from sam2unet.families.load import read_checkpoint
from sam2unet.families.settings import find_recipe
from sam2unet.families.shape import NetworkShape
from sam2unet.layers import sam_vit
from sam2unet.masks.open import open_predictor
from sam2unet.models.sam_med2d import SAMMed2D
from sam2unet.prompts.framing import SAM_MEAN, SAM_STD, Framing
from tests.conftest import ROOT

ALL = GraphOptions(return_all_masks=True)
OPTIONS = {"all": ALL, "longest": GraphOptions(return_all_masks=True, resize_longest_side=True)}


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "sammed2d_forward.npz")


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_vit.SIZES, "tiny", dict(dim=32, depth=2, heads=2, global_blocks=(1,)))
        patch.syspath_prepend(ROOT / "scripts")
        yield patch


@pytest.fixture(scope="module")
def model(fill, patched):
    """A small encoder; prompt encoder and decoder have the weights that made the stored answers."""
    model = sam2unet.create_model("sam_med2d", encoder="tiny")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    return model.eval()


@pytest.fixture(scope="module")
def embedding(fill, sam_med2d_b):
    """The released size's, of the generated image."""
    with torch.no_grad():
        return sam_med2d_b.image_encoder(fill.fill_input((1, 3, 256, 256), 0))


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "SAM-Med2D-1.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, patched, tmp_path_factory):
    """The folder of x_encoder.onnx and x_decoder.onnx, written by the script."""
    return export(checkpoint, tmp_path_factory.mktemp("exported"), "--output", "x", "--format", "onnx")


@pytest.fixture(scope="module")
def others(checkpoint, patched, tmp_path_factory):
    """With the options that change names and shapes."""
    flags = ("return_all_masks", "resize_longest_side", "return_extra_metrics", "use_preprocess")
    folder = tmp_path_factory.mktemp("others")
    return export(checkpoint, folder, "--output", "x.onnx", "--opset", 18, *(f"--{flag}" for flag in flags))


class ReleasedDecoder(nn.Module):
    """The graph that the released exporter writes: all four masks, or with `single` one of them."""

    outputs, options = ("masks", "iou_predictions", "low_res_masks"), GraphOptions(opset=18)

    def __init__(self, model, single=False):
        super().__init__()
        self.model, self.single = model, single

    def forward(self, image_embeddings, point_coords, point_labels, mask_input, has_mask_input, orig_im_size):
        prompts, labels = self.model.prompt_encoder, point_labels[..., None]
        code = prompts.pe_layer((point_coords + 0.5) / prompts.side)
        code = torch.where(labels == -1, prompts.not_a_point_embed.weight, code)
        for label, embedding in enumerate(prompts.point_embeddings):
            code = code + embedding.weight * (labels == label)
        without = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = has_mask_input * prompts.mask_downscaling(mask_input) + (1 - has_mask_input) * without
        low, quality = self.model.mask_decoder.predict_masks(image_embeddings, prompts.get_dense_pe(), code, dense)
        if self.single:
            untrained = torch.tensor([1000.0, 0, 0, 0])
            best = (quality + (point_labels.shape[1] - 2.5) * untrained).argmax(1)
            low, quality = low[:, best], quality[:, best]
        masks = F.interpolate(low, (self.model.side, self.model.side), mode="bilinear", align_corners=False)
        return F.interpolate(masks, to_size(orig_im_size), mode="bilinear", align_corners=False), quality, low


@pytest.fixture(scope="module")
def released(model, exported, tmp_path_factory):
    """Files as the released exporter writes them, without metadata: the encoder, a decoder of four masks, one of one.

    That of one is ours. Up to two points it is the released one too.
    """
    folder = tmp_path_factory.mktemp("released")
    for target, source in (("x_encoder", "x_encoder"), ("single_decoder", "x_decoder")):
        content = load(exported / f"{source}.onnx")
        del content.metadata_props[:]
        save(content, folder / f"{target}.onnx")
    graph = ReleasedDecoder(model).eval()
    prompt = prompt_export.Case(torch.zeros(1), torch.randn(1, 256, 16, 16), [(example_prompt(), [])])
    with open(folder / "x_decoder.onnx", "wb") as file:
        prompt_export.write_decoder(graph, prompt, {}, file)
    return folder


def example_prompt():
    return {
        "point_coords": torch.rand(1, 5, 2),
        "point_labels": torch.randint(4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 64, 64),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([150.0, 90]),
    }


def export(checkpoint, folder, *flags):
    script = importlib.import_module("export")
    flags = script.parser().parse_args(["--checkpoint", str(checkpoint), *map(str, flags)])
    flags.output = folder / flags.output
    script.run(flags)
    assert sorted(file.name for file in folder.iterdir()) == ["x_decoder.onnx", "x_encoder.onnx"]
    return folder


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    """Larger than the square, equal to it on one side, and smaller with an odd rest."""
    folder = tmp_path_factory.mktemp("photos")
    (horse,) = sorted((shared / "data/horses/test/images").iterdir())[:1]
    photo = read_image(horse)
    photo.save(folder / "large.png")
    photo.resize((256, 120)).save(folder / "wide.png")
    photo.resize((201, 150)).save(folder / "small.png")
    return folder


def session(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def stored(golden, embedding, case):
    """What the released decoder was given, by name, and what it made."""
    points = [0] if "1point" in case else [0, 1, 2]
    return {
        "image_embeddings": embedding,
        "point_coords": torch.from_numpy(golden["onnx.coords"])[:, points],
        "point_labels": torch.from_numpy(golden["onnx.labels"])[:, points],
        "mask_input": torch.from_numpy(golden["onnx.mask_input"]),
        "has_mask_input": torch.tensor([float(case.endswith("_mask"))]),
        "orig_im_size": torch.from_numpy(golden["onnx.orig_im_size"]),
    }


def same_as_stored(golden, case, found):
    places = {"masks": ("s16", 16), "iou_predictions": (None, 1), "low_res_masks": ("s4", 4)}
    seen = 0
    for name, (ending, step) in places.items():
        key = f"onnx.{case}.{name}_{ending}" if ending else f"onnx.{case}.{name}"
        if key in golden and name in found:
            ours = found[name] if step == 1 else found[name][..., ::step, ::step]
            np.testing.assert_allclose(ours, golden[key], rtol=0, atol=2e-5)
            seen += 1
    if f"onnx.{case}.masks_shape" in golden and "masks" in found:
        assert list(found["masks"].shape) == golden[f"onnx.{case}.masks_shape"].tolist()
    return seen


@pytest.mark.parametrize("case", ["all_nomask", "all_mask", "longest_side"])
def test_the_decoder_gives_the_released_ones_answers(case, model, embedding, golden):
    decoder = Decoder(model, OPTIONS[case.split("_")[0]]).eval()
    with torch.no_grad():
        found = decoder(**stored(golden, embedding, case))
    assert same_as_stored(golden, case, dict(zip(decoder.outputs, found, strict=True)))


@pytest.mark.parametrize("case", ["single_nomask", "single_mask", "single_1point"])
def test_the_released_single_mask_is_one_of_four_and_ours_is_always_the_best_of_three(case, model, embedding, golden):
    """The released graph switches to the untrained first mask for three points and more, and adds no last point."""
    given = stored(golden, embedding, case)
    decoder = Decoder(model, GraphOptions()).eval()
    with torch.no_grad():
        masks, quality, low = decoder(**given)
        released = ReleasedDecoder(model, single=True)(**given)
        every = Decoder(model, ALL)(**given)
    assert same_as_stored(golden, case, dict(zip(decoder.outputs, released, strict=True)))
    taken = 1 + int(every[1][0, 1:].argmax())
    for ours, four in zip((masks, quality, low), every, strict=True):
        assert torch.equal(ours, four[:, [taken]])
    assert "1point" in case or not torch.equal(low, released[2])


@pytest.mark.parametrize("case, compared", [("all_nomask", 2), ("all_mask", 2), ("longest_side", 1)])
def test_onnxruntime_gives_the_released_ones_answers(case, compared, others, embedding, golden):
    decoder = session(others / "x_decoder.onnx")
    given = {name: t.numpy() for name, t in stored(golden, embedding, case).items()}
    names = [put.name for put in decoder.get_outputs()]
    found = dict(zip(names, decoder.run(None, given), strict=True))
    if case != "longest_side":  # which this file is for
        del found["masks"]
    assert same_as_stored(golden, case, found) == compared


def test_a_box_as_two_points_and_every_mask_are_the_models(model):
    embedding, points = torch.randn(1, 256, 16, 16), torch.tensor([[[50.0, 60], [20, 30], [90, 100]]])
    mask, size = torch.rand(1, 1, 64, 64), torch.tensor([256.0, 256])
    decoder = Decoder(model, ALL).eval()
    with torch.no_grad():
        _, qualities, low = decoder(embedding, points, torch.tensor([[0.0, 2, 3]]), mask, torch.ones(1), size)
        prompt = {"points": (points[:, :1], torch.zeros(1, 1)), "boxes": torch.tensor([[20.0, 30, 90, 100]])}
        single, several = (model.decode(embedding, **prompt, masks=mask, multimask=many) for many in (False, True))
    for ours, first, others in zip((low, qualities), single, several, strict=True):
        torch.testing.assert_close(ours, torch.cat([first, others], dim=1), atol=1e-5, rtol=0)


def test_stability_and_areas_are_counted_and_empty_masks_have_none(model):
    options = GraphOptions(return_all_masks=True, use_stability_score=True, return_extra_metrics=True)
    decoder = Decoder(model, options).eval()
    low = torch.tensor([-3.0, -0.5, 0.5, 2]).repeat(1, 4, 64, 16)
    low[:, 2] = -3
    decoder.masks.predict_masks = lambda *given: (low, torch.zeros(1, 4))
    try:
        with torch.no_grad():
            found = decoder(
                torch.zeros(1, 256, 16, 16),
                torch.zeros(1, 1, 2),
                torch.zeros(1, 1),
                low[:, :1],
                torch.zeros(1),
                torch.tensor([256.0, 256]),
            )
    finally:
        del decoder.masks.predict_masks
    found = dict(zip(decoder.outputs, found, strict=True))
    torch.testing.assert_close(found["iou_predictions"], torch.tensor([[1 / 3, 1 / 3, 0, 1 / 3]]))
    assert list(found) == ["masks", "iou_predictions", "stability_scores", "areas", "low_res_masks"]
    assert (found["areas"] == (found["masks"] > 0).sum((2, 3))).all() and found["areas"][0, 2] == 0


def test_the_files_have_the_released_names_and_shapes_and_say_what_they_are(exported, checkpoint, model):
    puts = {}
    for part in ("encoder", "decoder"):
        path = exported / f"x_{part}.onnx"
        checker.check_model(path, full_check=True)
        found = session(path)
        puts[part] = [(put.name, put.shape) for put in found.get_inputs()], [put.name for put in found.get_outputs()]
        facts = found.get_modelmeta().custom_metadata_map
        assert (facts["part"], facts["model"], facts["size"]) == (part, "sam_med2d", "256")
        assert facts["checkpoint_sha256"] == sha256(checkpoint) and "blue green red" in facts["preprocessing"]
        assert str(ROOT).encode() not in path.read_bytes() and b"sam_vit.py" not in path.read_bytes()
    assert puts["encoder"] == ([("input_image", [1, 3, 256, 256])], ["image_embeddings"])
    wanted = {"image_embeddings": [1, 256, 16, 16], "point_coords": [1, "points", 2], "point_labels": [1, "points"]}
    wanted |= {"mask_input": [1, 1, 64, 64], "has_mask_input": [1], "orig_im_size": [2]}
    assert puts["decoder"] == (list(wanted.items()), ["masks", "iou_predictions", "low_res_masks"])
    with pytest.raises(
        sam2unet.UserError, match=r"is the encoder of a model for prompts; scripts/onnx_prompts.py runs"
    ):
        open_predictor(exported / "x_encoder.onnx", torch.device("cpu"))


@pytest.mark.parametrize("points", [1, 2, 3, 5])
def test_options_are_in_the_files_for_any_number_of_points(points, others, model):
    decoder = session(others / "x_decoder.onnx")
    assert load(others / "x_decoder.onnx").opset_import[0].version == 18
    options = GraphOptions(return_all_masks=True, resize_longest_side=True, return_extra_metrics=True)
    graph = Decoder(model, options).eval()
    assert [put.name for put in decoder.get_outputs()] == list(graph.outputs)
    torch.manual_seed(points)
    given = {
        "image_embeddings": torch.randn(1, 256, 16, 16),
        "point_coords": 256 * torch.rand(1, points, 2),
        "point_labels": torch.randint(-1, 4, (1, points)).float(),
        "mask_input": torch.rand(1, 1, 64, 64),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([150.0, 70 + points]),
    }
    with torch.no_grad():
        wanted = dict(zip(graph.outputs, graph(**given), strict=True))
    found = decoder.run(None, {name: t.numpy() for name, t in given.items()})
    for (name, ours), expected in zip(wanted.items(), found, strict=True):
        assert expected.shape == ours.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-3 if name in ("areas", "stability_scores") else 0, atol=2e-5)


@pytest.mark.parametrize("name", ["large", "wide", "small"])
def test_the_encoder_prepares_images_of_any_size(name, others, model, photos):
    photo = read_image(photos / f"{name}.png")
    pixels = np.asarray(photo)[..., ::-1].astype(np.float32)
    (found,) = session(others / "x_encoder.onnx").run(None, {"input_image": pixels})
    prompter = sam2unet.Prompter(model, Framing(padding=False)).set_image(photo)
    np.testing.assert_allclose(found, prompter.embedding, rtol=0, atol=2e-5)


CLICKS = [[90, 60], [40, 80], [100, 100], [12, 30], [77, 91]]
BOX = [30, 20, 120, 110]
PROMPTS = {
    **{f"{n} points": {"points": CLICKS[:n], "labels": [1, 0, 1, 0, 1][:n]} for n in (1, 2, 3, 5)},
    "box": {"box": BOX},
    "box and points": {"points": CLICKS[:2], "labels": [1, 0], "box": BOX},
    "mask": {"mask": True},
    "mask and points": {"points": CLICKS[:3], "labels": [1, 0, 1], "mask": True},
    "mask and box": {"box": BOX, "mask": True},
}


def flags_of(prompt, mask):
    """Of onnx_prompts.py, for what `Prompter.predict` takes."""
    flags = ["--points", *(f"{x},{y}" for x, y in prompt["points"])] if "points" in prompt else []
    flags += ["--labels", *prompt["labels"]] if "labels" in prompt else []
    flags += ["--box", ",".join(map(str, prompt["box"]))] if "box" in prompt else []
    return flags + (["--mask", mask] if "mask" in prompt else [])


def same_mask(mask, wanted):
    """To the pixel, but for one whose logit is 0 within rounding."""
    different = mask != wanted.masks[0]
    assert different.sum() <= 1 and np.abs(wanted.logits[0][different]).max(initial=0) < 1e-6


@pytest.fixture(scope="module")
def first_answer(model, photos, tmp_path_factory):
    """For each photograph the Prompter, and its answer to one point as a file to correct."""
    found = {}
    for path in sorted(photos.iterdir()):
        prompter = sam2unet.Prompter(model).set_image(path)
        prompt = tmp_path_factory.mktemp("prompts") / f"{path.stem}.npy"
        np.save(prompt, prompter.predict([[70, 50]], [1]).prompt)
        found[path.stem] = prompter, prompt
    return found


@pytest.mark.parametrize("pair", ["exported", "released"])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("name", ["large", "wide", "small"])
def test_the_example_makes_the_prompters_masks(name, prompt, pair, request, first_answer, photos, tmp_path):
    folder, (prompter, mask) = request.getfixturevalue(pair), first_answer[name]
    given = prompt | ({"mask": np.load(mask)} if "mask" in prompt else {})
    wanted = prompter.predict(**given)
    files = folder / "x_encoder.onnx", folder / "x_decoder.onnx", photos / f"{name}.png"
    found = example(*files, tmp_path, *flags_of(prompt, mask), "--save_prompt", tmp_path / "next.npy")
    assert 0 < wanted.masks.mean() < 1 and set(np.unique(found)) == {0, 255}
    same_mask(found == 255, wanted)
    np.testing.assert_allclose(np.load(tmp_path / "next.npy"), wanted.prompt, atol=1e-5)


def test_a_released_single_mask_is_taken_where_it_is_the_models(released, first_answer, photos, tmp_path):
    files = released / "x_encoder.onnx", released / "single_decoder.onnx", photos / "large.png"
    for kind in ("1 points", "box", "mask"):
        found = example(*files, tmp_path, *flags_of(PROMPTS[kind], first_answer["large"][1]))
        given = PROMPTS[kind] | ({"mask": np.load(first_answer["large"][1])} if kind == "mask" else {})
        same_mask(found == 255, first_answer["large"][0].predict(**given))
        (tmp_path / "mask.png").unlink()
    for kind in ("2 points", "box and points"):
        with pytest.raises(sam2unet.UserError, match="single_decoder.onnx returns an untrained mask for more than"):
            example(*files, tmp_path, *flags_of(PROMPTS[kind], None))
    assert not list(tmp_path.iterdir())


def test_calls_of_the_released_clients_get_the_prompters_mask(exported, model, photos):
    """They read three outputs, prepare every image in one way, and send points without a last one."""
    encoder, decoder = (session(exported / f"x_{part}.onnx") for part in ("encoder", "decoder"))
    pixels = np.asarray(read_image(photos / "large.png"))
    square = cv2.resize((pixels - np.array(SAM_MEAN)) / np.array(SAM_STD), (256, 256)).transpose(2, 0, 1)[None]
    (embedding,) = encoder.run(None, {encoder.get_inputs()[0].name: square.astype(np.float32)})
    assert list(embedding.shape) == encoder.get_outputs()[0].shape
    prompter = sam2unet.Prompter(model, Framing(padding=False)).set_image(photos / "large.png")
    prompter.embedding = torch.from_numpy(embedding)

    height, width = pixels.shape[:2]
    mask = np.zeros((1, 1, 64, 64), np.float32)
    for prompt in [*list(PROMPTS.values())[:6], {**PROMPTS["2 points"], "mask": True}]:
        corners = np.reshape(prompt.get("box", []), (-1, 2))
        places = np.concatenate([np.reshape(prompt.get("points", []), (-1, 2)), corners])
        places = (places * [256 / width, 256 / height]).astype(np.float32)
        labels = np.float32([*prompt.get("labels", []), *([2, 3] if len(corners) else [])])
        masks, qualities, low = decoder.run(
            None,
            {
                "image_embeddings": embedding,
                "point_coords": places[None],
                "point_labels": labels[None],
                "mask_input": mask,
                "has_mask_input": np.float32([mask.any()]),
                "orig_im_size": np.array((height, width), dtype=np.float32),
            },
        )
        assert masks.shape == (1, 1, height, width) and low[0].shape == (1, 64, 64)
        wanted = prompter.predict(**prompt | ({"mask": mask} if "mask" in prompt else {}))
        same_mask(masks[0][0] > 0, wanted)
        np.testing.assert_allclose(qualities[0], wanted.quality, atol=1e-5)
        mask = 1 / (1 + np.exp(-low)) if prompt is PROMPTS["box and points"] else mask


def test_a_model_trained_without_three_masks_returns_the_fourth(model, fill):
    torch.manual_seed(0)
    given = (torch.randn(1, 256, 16, 16), 256 * torch.rand(1, 3, 2), torch.tensor([[1.0, 0, 1]]))
    given += (torch.rand(1, 1, 64, 64), torch.zeros(1), torch.tensor([100.0, 80]))
    with torch.no_grad():
        _, quality, low = Decoder(model, GraphOptions(), multimask=False)(*given)
        wanted = model.decode(given[0], given[1:3], multimask=False)
    assert torch.equal(low, wanted[0]) and torch.equal(quality, wanted[1])


def test_what_the_recipe_says_of_masks_is_in_the_files(checkpoint, model, tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: sam_med2d\nmultimask: false\nmask_prompt: logits\nrgb: true\n")
    path = shutil.copy(checkpoint, tmp_path)
    found = read_checkpoint(Path(path))
    recipe = find_recipe(found)
    facts = prompt_export.describe_prompt_export(
        found, {}, model, Decoder(model, GraphOptions(), recipe.multimask), recipe, "decoder"
    )
    assert (facts["multimask"], facts["mask_prompt"], facts["rgb"]) == ("no", "logits", "yes")
    assert "(1, 1, 64, 64) logits" in facts["input"]


def test_the_example_leaves_preparing_to_an_encoder_that_does_it(others, exported, model, photos, tmp_path):
    prompter = sam2unet.Prompter(model, Framing(padding=False)).set_image(photos / "small.png")
    found = example(
        others / "x_encoder.onnx",
        exported / "x_decoder.onnx",
        photos / "small.png",
        tmp_path,
        *flags_of(PROMPTS["2 points"], None),
    )
    same_mask(found == 255, prompter.predict(**PROMPTS["2 points"]))


def example(encoder, decoder, image, folder, *flags):
    script = importlib.import_module("onnx_prompts")
    words = ["--encoder", encoder, "--decoder", decoder, "--image", image, "--output", folder / "mask.png", *flags]
    script.run(script.parser().parse_args([str(word) for word in words]))
    with pytest.raises(sam2unet.UserError, match="mask.png exists and is not overwritten"):
        script.run(script.parser().parse_args([str(word) for word in words]))
    return np.asarray(Image.open(folder / "mask.png"))


def test_the_example_needs_no_torch(exported, photos, tmp_path):
    """In a process of its own, in which importing it fails."""
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    flags = ["--encoder", exported / "x_encoder.onnx", "--decoder", exported / "x_decoder.onnx", "--box", "3,4,50,60"]
    flags += ["--image", photos / "small.png", "--output", tmp_path / "mask.png"]
    command = [sys.executable, "-c", code.replace("sys.argv[1]", "sys.argv.pop(1)"), ROOT / "scripts/onnx_prompts.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command), *map(str, flags)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "of 30,150 pixels, quality" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        ((), "there is no prompt; give --points, --box or --mask"),
        (("--box", "1,2,nan,4"), "--points or --box has a value that is not a number"),
        (("--points", "1,1e39"), "--points or --box has a value that is not a number"),
        (("--mask", "{photos}/small.png"), "cannot read .*small.png; give a .npy file from --save_prompt"),
        (("--points", "1,2", "--labels", 1, 0), "1 points have 2 labels"),
        (("--box", "1,2,3"), "a point must be X,Y and a box X0,Y0,X1,Y1"),
        (("--box", "1,2,3,4", "--encoder", "no.onnx"), "no such file: no.onnx"),
        (
            ("--box", "1,2,3,4", "--encoder", "{exported}/x_decoder.onnx"),
            "x_decoder.onnx is not the encoder of a SAM-Med2D",
        ),
        (("--box", "1,2,3,4", "--decoder", "{others}/x_decoder.onnx"), "export it without --resize_longest_side"),
        (("--box", "1,2,3,4", "--encoder", "{photos}/small.png"), "small.png is not a complete ONNX file"),
        (("--box", "1,2,3,4", "--image", "none.png"), "no such file: none.png"),
    ],
)
def test_the_example_says_what_is_wrong(flags, words, exported, others, photos, tmp_path):
    flags = [str(flag).format(exported=exported, others=others, photos=photos) for flag in flags]
    with pytest.raises(sam2unet.UserError, match=words):
        example(exported / "x_encoder.onnx", exported / "x_decoder.onnx", photos / "small.png", tmp_path, *flags)
    assert not list(tmp_path.iterdir())


def test_files_that_differ_are_not_written(checkpoint, model, exported, photos, monkeypatch, tmp_path, capsys):
    picture = read_image(photos / "small.png")
    cases = prompt_export.make_cases(model, Decoder(model, GraphOptions()).eval(), [picture], "probability")
    files = exported / "x_encoder.onnx", exported / "x_decoder.onnx"
    assert 0 < prompt_export.find_largest_error(*files, cases, GraphOptions()) < 1e-5
    for name in ("masks", "low_res_masks", "iou_predictions"):
        (wrong,) = cases[0].prompts[-1][1]
        kept, wrong[name] = wrong[name], wrong[name] + 0.1
        assert prompt_export.find_largest_error(*files, cases, GraphOptions()) > prompt_export.LIMIT
        wrong[name] = kept
    wrong["masks"] = wrong["masks"] * torch.nan
    assert np.isnan(prompt_export.find_largest_error(*files, cases, GraphOptions()))

    monkeypatch.setattr(prompt_export, "write_graph", lambda graph, *given: given[-2].write(b"x"))
    (tmp_path / "x_decoder.onnx").write_bytes(b"before")
    with pytest.raises(sam2unet.UserError, match="x_decoder.onnx exists and is not overwritten"):
        prompt_export.run(read_checkpoint(checkpoint), tmp_path / "x.onnx", [picture])
    (tmp_path / "x_decoder.onnx").unlink()
    for difference in (0.0011, float("nan")):
        monkeypatch.setattr(prompt_export, "find_largest_error", lambda *given, found=difference: found)
        with pytest.raises(
            sam2unet.UserError, match="differs from torch by (0.0011|nan) in probability, more than 0.001"
        ):
            prompt_export.run(read_checkpoint(checkpoint), tmp_path / "x.onnx", [picture])
        assert not list(tmp_path.iterdir()) and "bytes;" not in capsys.readouterr().out
    monkeypatch.setattr(prompt_export, "find_largest_error", lambda *given: 1e-3)
    prompt_export.run(read_checkpoint(checkpoint), tmp_path / "x.onnx", [picture])
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"x"] * 2


def test_gelu_by_tanh_is_everywhere_and_changes_little(fill):
    torch.manual_seed(0)
    model = SAMMed2D(sam_vit.SamViT(dim=32, depth=2, heads=2, global_blocks=(1,), side=64, adapters=True)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.image_encoder(image)
        approximate_gelu_(model)
        difference = (model.image_encoder(image) - before).abs().max()
    assert 1e-6 < difference < 1e-2
    assert {module.approximate for module in model.modules() if isinstance(module, nn.GELU)} == {"tanh"}


def test_an_encoder_beyond_what_a_file_holds_is_refused(reference, monkeypatch):
    with torch.device("meta"):
        large, released = (build_sam_med2d(NetworkShape(size), {})[0] for size in ("vit_l", "vit_b"))
    found = prompt_export.Checkpoint(
        "x.pth", sam2unet.families.table.FAMILIES["sam_med2d"], NetworkShape("vit_l"), {}, {}
    )
    prompt_export.check_bytes(found, released)
    with pytest.raises(sam2unet.UserError, match="SAM-Med2D vit_l has .* bytes of weights; an ONNX file holds at most"):
        prompt_export.check_bytes(found, large)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--output", "x.pt2"), "x.pt2: SAM-Med2D is exported only as .onnx"),
        (("--output", "x", "--format", "pt2"), "x.pt2: SAM-Med2D is exported only as .onnx"),
        (("--output", "x"), "x: the name of an exported model ends in .onnx or .pt2"),
        (("--output", "x.onnx", "--whole"), "two files; --use_preprocess takes photographs in place of --whole"),
        (("--output", "x.onnx", "--size", "512"), "takes images of 256 alone; leave out --size 512"),
        (("--output", "x.onnx", "--opset", "17"), "opset is 17; .* 18"),
        (("--output", "x.onnx", "--opset", "99"), "opset is 99; .* 18"),
    ],
)
def test_what_cannot_be_exported(flags, words, checkpoint, patched, tmp_path):
    with pytest.raises(sam2unet.UserError, match=words):
        export(checkpoint, tmp_path, *flags)
    assert not list(tmp_path.iterdir())


def test_options_for_prompts_are_refused_for_masks(patched, tmp_path):
    path = tmp_path / "SAM2-UNet-20.pth"
    torch.save(sam2unet.create_model("sam2unet", encoder="tiny").state_dict(), path)
    with pytest.raises(sam2unet.UserError, match="takes no prompts; leave out --return_single_mask, --use_preprocess"):
        export(path, tmp_path, "--output", "x.onnx", "--use_preprocess", "--return_single_mask")
