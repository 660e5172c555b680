"""Squares that a large photograph is cut into, and the map that they make together."""

import numpy as np
import pytest
import torch
from PIL import Image

from sam2unet.masks.prediction.predictor import Predictor
from sam2unet.masks.prediction.tiles import Tile, list_tiles

CPU = torch.device("cpu")


def pixels_seen(images: torch.Tensor) -> torch.Tensor:
    """Logits that are the red channel: a model whose answer depends on the pixel alone."""
    return images[:, :1]


def test_tiles_of_a_model_that_sees_single_pixels_are_the_whole_map():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (131, 200, 3), dtype=np.uint8))
    predictor = Predictor(pixels_seen, 64, CPU, tile=Tile(64, 16))
    found = predictor.predict_photo(photo)
    red = (np.asarray(photo)[..., 0] / 255 - 0.485) / 0.229
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-red)), atol=1e-5)


@pytest.mark.parametrize("side, overlap", [(32, 0), (32, 8), (33, 15), (64, 31)])
def test_tiles_cover_every_pixel_and_share_the_overlap(side, overlap):
    for width in (*range(20, 140), 500):
        for height in (20, side, side + 1, 97):
            boxes = list_tiles(width, height, Tile(side, overlap))
            seen = np.zeros((height, width), int)
            for left, top, right, bottom in boxes:
                assert 0 <= left < right <= width and 0 <= top < bottom <= height
                assert len(boxes) == 1 or (right - left, bottom - top) == (min(side, width), min(side, height))
                seen[top:bottom, left:right] += 1
            assert seen.min() >= 1
            starts = sorted({left for left, *_ in boxes})
            assert all(a + side - b >= overlap for a, b in zip(starts, starts[1:], strict=False))


def test_where_tiles_meet_the_map_has_no_step():
    ramp = np.repeat(np.linspace(0, 255, 240, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    photo = Image.fromarray(ramp)

    def one_value_per_tile(images):
        return images[:, :1].mean((2, 3), keepdim=True).expand(-1, 1, 64, 64)

    steps = {}
    for overlap in (0, 24):
        predictor = Predictor(one_value_per_tile, 64, CPU, tile=Tile(64, overlap))
        found = predictor.predict_photo(photo)
        steps[overlap] = np.abs(np.diff(found[32].numpy())).max()
    assert steps[24] < steps[0] / 10


def test_tiles_are_given_to_the_model_a_batch_at_a_time():
    photo, given = Image.new("RGB", (300, 300)), []

    def forward(images):
        given.append(len(images))
        return images[:, :1]

    predictor = Predictor(forward, 32, CPU, tile=Tile(64, 16))
    list(predictor.predict([predictor.prepare(photo)], batch_size=4))
    assert sum(given) == 36 and max(given) == 4
