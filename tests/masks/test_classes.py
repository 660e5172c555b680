"""Prediction with several classes: averaging, and the files and arrays that test.py, Python and the demo give."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sam2unet.masks.predictor import Averaging, Predictor, pick_classes
from sam2unet.masks.tiles import Tile
from sam2unet.masks.transforms import image_bytes, normalise_image

CPU = torch.device("cpu")


def make_photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def forward(images: torch.Tensor) -> torch.Tensor:
    """Logits of four classes; not symmetric, so that a flip changes the map."""
    ramp = torch.linspace(-2, 2, images.shape[-1])
    return torch.cat([images, (images.mean(1, keepdim=True) + ramp)], dim=1) * 2


def softmax_map(photo: Image.Image, side: int, flip: bool = False) -> np.ndarray:
    """Probabilities (4, H, W) of a photograph, step by step."""
    images = normalise_image(image_bytes(photo, side)[None])
    logits = forward(images.flip(-1)).flip(-1) if flip else forward(images)
    logits = F.interpolate(logits, size=(photo.height, photo.width), mode="bilinear", align_corners=False)
    return logits.softmax(1)[0].numpy()


def test_flips_and_scales_are_means_of_probabilities():
    photo = make_photo(90, 70)
    predictor = Predictor(forward, 128, CPU, averaging=Averaging.read("flip,scale"))
    probability = predictor.predict_photo(photo)
    wanted = np.mean([softmax_map(photo, side, flip) for side in (96, 128, 160) for flip in (False, True)], axis=0)
    np.testing.assert_allclose(probability, wanted, atol=1e-5)
    assert np.abs(probability.numpy() - softmax_map(photo, 128)).max() > 0.05
    assert np.array_equal(pick_classes(probability), wanted.argmax(0))
    assert pick_classes(probability).dtype == np.uint8


def test_tiles_are_weighted_means_of_probabilities():
    photo = make_photo(100, 64)
    probability = Predictor(forward, 64, CPU, tile=Tile(64, 28)).predict_photo(photo)
    left, right = (softmax_map(photo.crop((start, 0, start + 64, 64)), 64) for start in (0, 36))
    center = np.arange(64) + 0.5
    fade = np.minimum(np.minimum(center, 64 - center) / 28, 1)
    total, weight = np.zeros((4, 64, 100)), np.zeros(100)
    for start, part in ((0, left), (36, right)):
        total[:, :, start : start + 64] += part * fade
        weight[start : start + 64] += fade
    np.testing.assert_allclose(probability, total / weight, atol=1e-5)
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-5)
