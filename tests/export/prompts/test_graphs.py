"""Models for prompts as ONNX: the released decoder's answers, and what is in the files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import checker, load
from torch import nn

import sam2unet
from sam2unet.atomic import sha256
from sam2unet.data.images.reading import read_image
from sam2unet.export import prompts as prompt_export
from sam2unet.export.prompt_graphs import Decoder, GraphOptions, approximate_gelu_
from sam2unet.families.build import build_sam_med2d
from sam2unet.families.load import read_checkpoint
from sam2unet.families.settings import find_recipe
from sam2unet.families.shape import NetworkShape
from sam2unet.layers import sam_vit
from sam2unet.masks.prediction.open import open_predictor
from sam2unet.models.sam_med2d import SAMMed2D
from sam2unet.prompts.framing import Framing
from tests.conftest import ROOT
from tests.export.prompts.files import ReleasedDecoder, export, session

ALL = GraphOptions(return_all_masks=True)

OPTIONS = {"all": ALL, "longest": GraphOptions(return_all_masks=True, resize_longest_side=True)}


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "sammed2d_forward.npz")


@pytest.fixture(scope="module")
def embedding(fill, sam_med2d_b):
    """The released size's, of the generated image."""
    with torch.no_grad():
        return sam_med2d_b.image_encoder(fill.fill_input((1, 3, 256, 256), 0))


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
    with pytest.raises(sam2unet.UserError, match=r"is the encoder of a model for prompts; scripts/onnx_prompts.py"):
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
def test_what_cannot_be_exported(flags, words, checkpoint, tmp_path):
    with pytest.raises(sam2unet.UserError, match=words):
        export(checkpoint, tmp_path, *flags)
    assert not list(tmp_path.iterdir())


def test_options_for_prompts_are_refused_for_masks(tmp_path):
    path = tmp_path / "SAM2-UNet-20.pth"
    torch.save(sam2unet.create_model("sam2unet", encoder="micro").state_dict(), path)
    with pytest.raises(sam2unet.UserError, match="takes no prompts; leave out --use_preprocess, --return_single_mask"):
        export(path, tmp_path, "--output", "x.onnx", "--use_preprocess", "--return_single_mask")
