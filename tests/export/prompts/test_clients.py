"""Programs that run the exported files of a model for prompts: scripts/onnx_prompts.py, and the released clients."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.data.images.reading import read_image
from sam2unet.prompts.framing import SAM_MEAN, SAM_STD, Framing
from tests.conftest import ROOT, load_script
from tests.export.prompts.files import session

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
    script = load_script("scripts/onnx_prompts.py")
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
