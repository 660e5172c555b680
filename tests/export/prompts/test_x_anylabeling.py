"""The files for X-AnyLabeling: a client that does what its model `sam_med2d` does gets the Prompter's masks.

What the client does was read from its repository at 87da339, anylabeling/services/auto_labeling/sam_med2d.py.
"""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from onnx import load
from PIL import Image

import sam2unet
from sam2unet.data.images.reading import read_image
from sam2unet.export import prompts as prompt_export
from sam2unet.export.prompt_graphs import GraphOptions
from sam2unet.families.load import read_checkpoint
from sam2unet.layers import sam_vit
from sam2unet.prompts.framing import Framing
from tests.export.prompts.files import session
from tests.export.prompts.test_clients import PROMPTS, example, flags_of

NANO = dict(dim=16, depth=1, heads=1, global_blocks=(0,))  # an encoder that is exported in seconds
SENT = {name: prompt for name, prompt in PROMPTS.items() if "mask" not in prompt}  # it never sends a mask


class Client:
    """Loads the YAML file, encodes an image, and asks for the mask of points and boxes."""

    def __init__(self, config: Path):
        facts = yaml.safe_load(config.read_text())
        assert facts["type"] == "sam_med2d" and facts["display_name"] and facts["input_size"] == 256
        assert re.fullmatch("[A-Za-z0-9._-]+", facts["name"])
        self.encoder, self.decoder = (
            session(config.parent / facts[f"{part}_model_path"]) for part in ("encoder", "decoder")
        )
        self.place = self.encoder.get_inputs()[0]
        self.side = self.place.shape[-1]

    def encode(self, rgb: np.ndarray) -> np.ndarray:
        """Normalises in float64, then resizes. It names the nearest neighbour, but in the place of another argument of
        cv2.resize, so that the resizing is bilinear."""
        pixels = (rgb - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
        pixels = cv2.resize(pixels, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        square = pixels.transpose(2, 0, 1)[None].astype(np.float32)
        embedding = self.encoder.run(None, {self.place.name: square})[0]
        assert embedding.shape == (1, 256, self.side // 16, self.side // 16)
        return embedding

    def predict(self, embedding: np.ndarray, size: tuple[int, int], prompt: dict) -> np.ndarray:
        """A box is two points with the labels 2 and 3. There is no last point and no mask. Returns bool (h, w)."""
        corners = np.reshape(prompt.get("box", []), (-1, 2))
        points = np.concatenate([np.reshape(prompt.get("points", []), (-1, 2)), corners])
        labels = [*prompt.get("labels", []), *([2, 3] if len(corners) else [])]
        masks, _, _ = self.decoder.run(  # fails with another number of outputs
            None,
            {
                "image_embeddings": embedding,
                "point_coords": (points * [self.side / size[1], self.side / size[0]]).astype(np.float32)[None],
                "point_labels": np.float32(labels)[None],
                "mask_input": np.zeros((1, 1, self.side // 4, self.side // 4), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array(size, dtype=np.float32),
            },
        )
        return masks[0][0] > 0


@pytest.fixture(scope="module")
def checkpoint(fill, tmp_path_factory):
    """The smallest encoder. Prompt encoder and decoder have the weights of the files of `exported`."""
    path = tmp_path_factory.mktemp("nano") / "SAM-Med2D-1.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_vit.SIZES, "nano", NANO)
        torch.save(fill.fill_state_dict(sam2unet.create_model("sam_med2d", encoder="nano").state_dict(), 0), path)
        yield path


@pytest.fixture(scope="module", params=["encoder", pytest.param("both", marks=pytest.mark.slow)])
def folder(request, checkpoint, photos, tmp_path_factory):
    """The folder of the three files. The decoder is the same for all encoders; its export takes most of the time."""

    exported = request.getfixturevalue("exported") if request.param == "encoder" else None

    def write_decoder(graph, case, facts, file):
        content = load(exported / "x_decoder.onnx")
        del content.metadata_props[:]
        for key, value in facts.items():
            content.metadata_props.add(key=key, value=value)
        file.write(content.SerializeToString())

    folder = tmp_path_factory.mktemp("client")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "encoder":
            patch.setattr(prompt_export, "write_decoder", write_decoder)
        pictures = [read_image(photos / name) for name in ("large.png", "small.png")]
        found = read_checkpoint(checkpoint)
        prompt_export.run(found, folder / "my liver.onnx", pictures, client="x-anylabeling")
    names = ["my liver.yaml", "my liver_decoder.onnx", "my liver_encoder.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == names
    return folder


@pytest.fixture(scope="module")
def client(folder):
    return Client(folder / "my liver.yaml")


@pytest.fixture(scope="module")
def nano(checkpoint):
    return sam2unet.load_model(checkpoint, "cpu")


def same_but_rounding(mask, wanted):
    assert np.abs(wanted.logits[0][mask != wanted.masks[0]]).max(initial=0) < 1e-4


def test_a_colour_image_of_the_models_size_gets_the_masks_of_the_prompter(client, nano, photos):
    """Such an image is not resized. The weights were trained with blue first, and the client sends red first."""
    rgb = np.asarray(read_image(photos / "large.png").resize((256, 256)))
    prompter, embedding = sam2unet.Prompter(nano).set_image(rgb), client.encode(rgb)
    np.testing.assert_allclose(embedding, prompter.embedding, atol=1e-4)
    assert np.abs(client.encode(rgb[..., ::-1]) - embedding).max() > 0.1  # the order of the colours counts
    for prompt in SENT.values():
        wanted = prompter.predict(**prompt)
        assert 0 < wanted.masks.mean() < 1
        same_but_rounding(client.predict(embedding, rgb.shape[:2], prompt), wanted)


@pytest.mark.parametrize("name", ["large", "wide", "small"])
def test_points_and_masks_are_in_pixels_of_images_of_any_size(name, client, nano, photos):
    rgb = np.asarray(read_image(photos / f"{name}.png"))
    prompter, embedding = sam2unet.Prompter(nano, Framing(padding=False)).set_image(rgb), client.encode(rgb)
    prompter.embedding = torch.from_numpy(embedding)
    for prompt in SENT.values():
        same_but_rounding(client.predict(embedding, rgb.shape[:2], prompt), prompter.predict(**prompt))


@pytest.mark.parametrize("name", ["large", "small"])
def test_the_example_makes_the_prompters_masks_from_these_files(name, folder, nano, photos, tmp_path):
    files = folder / "my liver_encoder.onnx", folder / "my liver_decoder.onnx", photos / f"{name}.png"
    found = example(*files, tmp_path, *flags_of(SENT["box and points"], None))
    wanted = sam2unet.Prompter(nano).set_image(photos / f"{name}.png").predict(**SENT["box and points"])
    same_but_rounding(found == 255, wanted)


def test_the_files_say_what_they_take(folder):
    facts = {entry.key: entry.value for entry in load(folder / "my liver_encoder.onnx").metadata_props}
    assert facts["preprocessing"].startswith("red green blue, stretched to 256x256") and facts["rgb"] == "yes"
    assert "the graph reverses the colours, because the weights were trained with" in facts["preprocessing"]
    decoder = load(folder / "my liver_decoder.onnx")
    assert [put.name for put in decoder.graph.output] == ["masks", "iou_predictions", "low_res_masks"]


def test_files_of_the_user_and_options_of_other_clients_are_refused(checkpoint, tmp_path):
    found, picture = read_checkpoint(checkpoint), [Image.new("RGB", (300, 300))]
    for name in ("x.yaml", "x_encoder.onnx", "x_decoder.onnx"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(sam2unet.UserError, match=f"{name} exists and is not overwritten"):
            prompt_export.run(found, tmp_path / "x.onnx", picture, client="x-anylabeling")
        (tmp_path / name).unlink()
    with pytest.raises(sam2unet.UserError, match="--for x-anylabeling fixes the inputs and outputs of the files"):
        options = GraphOptions(return_all_masks=True)
        prompt_export.run(found, tmp_path / "x.onnx", picture, options, client="x-anylabeling")
    assert not list(tmp_path.iterdir())


def test_the_flag_is_for_models_for_prompts(checkpoint, mask_checkpoint, run_py, tmp_path):
    flags = ("--output", tmp_path / "x.onnx", "--for", "x-anylabeling")
    end = run_py("scripts/export.py", "--checkpoint", mask_checkpoint, *flags)
    assert end.is_refusal("SAM2-UNet takes no prompts; leave out --for")
    end = run_py("scripts/export.py", "--checkpoint", checkpoint, *flags, "--use_preprocess")
    assert end.is_refusal("it takes only --opset and --gelu_approximate")
    assert not list(tmp_path.iterdir())
