"""Chooses the probability above which a pixel is the object, on the validation images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images.masks import FOREGROUND, read_mask
from ..data.pairs import Pair
from ..data.volumes.slices import find_file
from ..families.load import load_model
from ..masks.api import predict_many
from ..recipe import ForegroundRule
from ..task import draw_held_out

HALF = 127  # a pixel with a probability above 0.5 has a higher grey level
SLACK = 0.05  # share of the lowest share of wrong pixels


def draw_validation_pairs(train: Sequence[Pair], fraction: float, seed: int) -> list[Pair]:
    """Returns the pairs that `train.py --val_fraction` takes for validation."""
    return [train[i] for i in draw_held_out(len(train), fraction, seed)]


def choose_level(checkpoint: Path, pairs: Sequence[Pair], rule: ForegroundRule) -> int:
    """Returns the grey level of a map, 0 to 254, above which a pixel is the object.

    The structure loss rewards overlap with the mask. A network that is little trained therefore draws objects too
    large at 0.5. At the highest levels, few pixels are wrong, but small objects disappear. So the function allows every
    level at which few more pixels are wrong than at the best level: at most the share `SLACK` more, and at most half as
    many more as predicting nothing has. Of these levels, it returns the one nearest to 0.5. The share of wrong pixels
    is a mean over all images. Without `pairs`, returns the level of 0.5.
    """
    if not pairs:
        return HALF
    wrong = np.zeros(256)
    maps = predict_many(load_model(checkpoint), [find_file(pair.image) for pair in pairs], minmax=False)
    for pair, (_, probability) in zip(pairs, maps, strict=True):
        mask = read_mask(pair.mask, rule).resize(probability.shape[::-1], Image.Resampling.NEAREST)
        truth, grey = np.asarray(mask) > FOREGROUND, np.rint(probability * 255).astype(np.uint8)
        inside, outside = (np.bincount(grey[part], minlength=256) for part in (truth, ~truth))
        wrong += (inside.cumsum() + outside.sum() - outside.cumsum()) / grey.size  # object at or below, rest above
    lowest, empty = wrong[:255].min(), wrong[255]
    limit = lowest + max(0, min(SLACK * lowest, (empty - lowest) / 2))
    return int(min(np.flatnonzero(wrong[:255] <= limit), key=lambda level: abs(level - HALF)))
