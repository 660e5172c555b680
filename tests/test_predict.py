"""Prediction maps against the released steps written out, and test.py as a process."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_pairs
from PIL import Image
from torchvision import transforms

import sam2unet
from sam2unet.checkpoint import save_state


@pytest.fixture(scope="module")
def checkpoint(fill, tmp_path_factory):
    """Tiny, with generated weights whose maps use the whole grey range."""
    model = sam2unet.create_model("sam2unet", encoder="tiny")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    path = tmp_path_factory.mktemp("weights") / "SAM2-UNet-20.pth"
    save_state(model.state_dict(), path)
    return path


def released_map(model, photo, size, wanted):
    """The released test script's steps, from photograph to 8-bit map."""
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    steps = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalise])
    with torch.no_grad():
        logits, _, _ = model(steps(photo).unsqueeze(0))
        res = F.interpolate(logits, size=wanted, mode="bilinear", align_corners=False)
        res = res.sigmoid().data.cpu().numpy().squeeze()
    res = (res - res.min()) / (res.max() - res.min() + 1e-8)
    return (res * 255).astype(np.uint8)


def link(folder, files):
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    return folder


def test_pngs_are_the_released_system_s_bit_for_bit(script, checkpoint, polyps, tmp_path):
    photos = sorted((polyps / "images").iterdir())[:3]
    images = link(tmp_path / "images", photos)
    masks = tmp_path / "masks"
    masks.mkdir()
    for photo, width in zip(photos, (300, 301, 302), strict=True):  # masks of another size: maps take theirs
        Image.open(polyps / f"masks/{photo.stem}.png").resize((width, 200)).save(masks / f"{photo.stem}.png")
    flags = ["--checkpoint", checkpoint, "--test_image_path", images]
    with_masks = script("test.py", *flags, "--test_gt_path", masks, "--save_path", tmp_path / "a")
    without = script("test.py", *flags, "--save_path", tmp_path / "b")
    assert with_masks.returncode == 0 and without.returncode == 0, with_masks.stderr + without.stderr
    assert "3 maps in" in without.stdout and "images/s" in without.stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes: sums come out the same to the bit
    model = sam2unet.load_model(checkpoint, device="cpu")
    for photo, width in zip(photos, (300, 301, 302), strict=True):
        image = Image.open(photo).convert("RGB")
        for folder, wanted in (("a", (200, width)), ("b", (image.height, image.width))):
            written = iio.imread(tmp_path / folder / f"{photo.stem}.png")
            assert written.dtype == np.uint8 and np.array_equal(written, released_map(model, image, 352, wanted))
    torch.set_num_threads(threads)


def test_predict_gives_the_map_that_is_written(script, checkpoint, polyps, tmp_path):
    (photo,) = sorted((polyps / "images").iterdir())[:1]
    images = link(tmp_path / "images", [photo])
    model = sam2unet.load_model(checkpoint, device="cpu")
    stretched = sam2unet.predict(model, photo, size=64)
    plain = sam2unet.predict(model, Image.open(photo), size=64, minmax=False)
    assert stretched.dtype == np.float32 and stretched.shape == Image.open(photo).size[::-1]
    assert stretched.min() == 0 and stretched.max() == pytest.approx(1)
    np.testing.assert_allclose(stretched, (plain - plain.min()) / np.ptp(plain), atol=1e-6)
    flags = ["--checkpoint", checkpoint, "--test_image_path", images, "--size", 64, "--save_path"]
    script("test.py", *flags, tmp_path / "plain", "--no_minmax")
    script("test.py", *flags, tmp_path / "cut", "--threshold", 0.5)
    written = iio.imread(tmp_path / f"plain/{photo.stem}.png").astype(int)
    assert np.abs(written - plain * 255).max() <= 1.01  # truncated, and threads may differ in the last bits
    cut = iio.imread(tmp_path / f"cut/{photo.stem}.png")
    assert set(np.unique(cut)) == {0, 255} and np.mean((cut == 255) == (stretched > 0.5)) > 0.999


def test_predict_leaves_the_model_as_it_was(checkpoint, polyps):
    model = sam2unet.load_model(checkpoint, device="cpu").train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sam2unet.predict(model, next((polyps / "images").iterdir()), size=64)
    assert model.training and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_size_of_training_is_the_size_of_prediction(script, checkpoint, tmp_path):
    images, _ = write_pairs(tmp_path, count=1)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / checkpoint.name).symlink_to(checkpoint)
    flags = ["--checkpoint", folder / checkpoint.name, "--test_image_path", images, "--save_path", tmp_path / "maps"]
    assert "1 images at 352x352" in script("test.py", *flags).stdout
    (folder / "recipe.yaml").write_text("size: 96\n")
    assert "1 images at 96x96" in script("test.py", *flags).stdout
    assert "1 images at 64x64" in script("test.py", *flags, "--size", 64).stdout
