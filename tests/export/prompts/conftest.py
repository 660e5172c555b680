"""One small model for prompts and its exported files, for all tests of this folder."""

from pathlib import Path

import pytest
import torch

import sam2unet
from sam2unet.data.images.reading import read_image
from tests.export.prompts.files import export, write_released


@pytest.fixture(scope="session")
def checkpoint(prompt_checkpoint) -> Path:
    return prompt_checkpoint


@pytest.fixture(scope="session")
def model(checkpoint):
    model = sam2unet.create_model("sam_med2d", encoder="micro")
    model.load_state_dict(torch.load(checkpoint))
    return model.eval()


@pytest.fixture(scope="session")
def photos(shared, tmp_path_factory):
    """Larger than the square, equal to it on one side, and smaller with an odd rest."""
    folder = tmp_path_factory.mktemp("photos")
    (horse,) = sorted((shared / "data/horses/test/images").iterdir())[:1]
    photo = read_image(horse)
    photo.save(folder / "large.png")
    photo.resize((256, 120)).save(folder / "wide.png")
    photo.resize((201, 150)).save(folder / "small.png")
    return folder


@pytest.fixture(scope="session")
def exported(exported_prompts) -> Path:
    return exported_prompts


@pytest.fixture(scope="session")
def others(checkpoint, make_once) -> Path:
    """With the options that change names and shapes."""
    names = ("return_all_masks", "resize_longest_side", "return_extra_metrics", "use_preprocess")
    flags = ("--output", "x.onnx", "--opset", 18, *(f"--{name}" for name in names))
    return make_once("others", lambda folder: export(checkpoint, folder, *flags))


@pytest.fixture(scope="session")
def released(model, exported, make_once) -> Path:
    """Files as the released exporter writes them."""
    return make_once("released", lambda folder: write_released(model, exported, folder))
