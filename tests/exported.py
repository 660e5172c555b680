"""Small weight files, and exported files that are made once for all tests, because an export takes long."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sam2unet
from sam2unet.weights.formats import save_state
from tests.networks import DINO

SIDE = 96


@pytest.fixture(scope="session")
def dino_micro(fill, tmp_path_factory) -> Path:
    """A file of the smallest DINOv2 with generated weights, as timm publishes DINOv2: at 518x518."""
    import timm

    with torch.device("meta"):
        shapes = timm.create_model(DINO, num_classes=0).state_dict()
    path = tmp_path_factory.mktemp("dino") / "model.safetensors"
    save_file(fill.fill_state_dict(shapes, 1), path)
    return path


@pytest.fixture(scope="session")
def trained(start, sam2_micro, convert, make_once) -> dict[str, Path]:
    """One small model that train.py trained at 96, in three forms: form -> checkpoint."""

    from tests.conftest import write_pairs

    def write(folder: Path) -> None:
        images, masks = write_pairs(folder, count=2)
        flags = ("--train_image_path", images, "--train_mask_path", masks, "--hiera_path", sam2_micro, "--size", SIDE)
        flags += ("--epoch", 1, "--batch_size", 2, "--save_path", folder / "run", "--save", "trainable")
        result = start("train.py", *flags, "--device", "cpu").finish()
        assert result.returncode == 0, result.stderr
        (written,) = (folder / "run").glob("SAM2-UNet-*.safetensors")
        base = ("--hiera_path", sam2_micro)
        convert(written, folder / "run/SAM2-UNet-1.pth", *base)
        convert(written, "--hub", folder / "hub", *base)
        (folder / "elsewhere").mkdir()
        written.rename(folder / "elsewhere/trained.safetensors")  # away from recipe.yaml

    folder = make_once("trained", write)
    forms = {"file": "run/SAM2-UNet-1.pth", "hub": "hub", "trainable": "elsewhere/trained.safetensors"}
    return {form: folder / name for form, name in forms.items()}


@pytest.fixture(scope="session")
def exported_onnx(trained, sam2_micro, script, make_once) -> Path:
    """model.onnx, written by the script from trained weights alone, and checked on pictures of its own."""

    def write(folder: Path) -> None:
        flags = ("--checkpoint", trained["trainable"], "--hiera_path", sam2_micro, "--output", folder / "model.onnx")
        result = script("scripts/export.py", *flags)
        assert result.returncode == 0, result.stderr
        steps = [line.split()[0] for line in result.stdout.splitlines()]  # before each step that can take long
        assert steps[:4] == ["reading", "weights:", "exporting", "comparing"]
        shapes = f"image float32 (batch, 3, {SIDE}, {SIDE}) -> logits float32 (batch, 1, {SIDE}, {SIDE})"
        assert shapes in result.stdout
        difference = float(result.stdout.splitlines()[-1].rsplit(": ")[1])
        assert "over 4 images, in batches of one and two" in result.stdout and 0 < difference < 1e-4
        assert [file.name for file in folder.iterdir()] == ["model.onnx"] and "arning" not in result.stderr

    return make_once("exported_onnx", write) / "model.onnx"


@pytest.fixture(scope="session")
def mask_checkpoint(fill, tmp_path_factory) -> Path:
    """The smallest network, with generated weights whose probabilities have another range on each image."""
    state = fill.fill_state_dict(sam2unet.create_model("sam2unet", encoder="micro").state_dict(), 0)
    path = tmp_path_factory.mktemp("weights") / "SAM2-UNet-20.pth"
    save_state(state | {"head.weight": state["head.weight"] / 10}, path)
    return path


@pytest.fixture(scope="session")
def prompt_checkpoint(fill, tmp_path_factory) -> Path:
    """A small encoder; prompt encoder and decoder have the weights that made the stored answers."""
    path = tmp_path_factory.mktemp("weights") / "SAM-Med2D-1.pth"
    torch.save(fill.fill_state_dict(sam2unet.create_model("sam_med2d", encoder="micro").state_dict(), 0), path)
    return path


@pytest.fixture(scope="session")
def exported_prompts(prompt_checkpoint, make_once) -> Path:
    """The folder of x_encoder.onnx and x_decoder.onnx, written by the script."""
    from tests.export.prompts.files import export

    flags = ("--output", "x", "--format", "onnx")
    return make_once("exported_prompts", lambda folder: export(prompt_checkpoint, folder, *flags))
