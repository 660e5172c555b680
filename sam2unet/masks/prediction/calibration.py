"""Temperature scaling (Guo et al., ICML 2017): one number divides the logits, so that probabilities are calibrated.

The temperature of a checkpoint is in `calibration.yaml` beside it, with the SHA-256 of its file.
Legend: N pixels, C classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from ...atomic import read_text, read_yaml, sha256, write_atomic
from ...classes import IGNORED, Classes
from ...data.images.masks import FOREGROUND, read_mask
from ...data.images.reading import read_image
from ...data.pairs import Pair
from ...errors import UserError
from ...recipe import MaskRule
from ..transforms import mask_bytes
from .predictor import Predictor

NAME = "calibration.yaml"
DIGESTS = "sha256"  # the key of the digests in this file
HEADER = "# Temperatures of checkpoints, from scripts/calibrate.py"
PIXELS = 2_000_000  # are drawn from all images together
PER_IMAGE = 20_000  # are drawn from one image, at most
LOWEST, HIGHEST = 0.05, 20.0  # temperatures


class Calibration(NamedTuple):
    """The temperature, and the mean negative log-likelihood of a pixel without it and with it, in nats."""

    temperature: float
    before: float
    after: float


def fit_temperature(predictor: Predictor, pairs: Sequence[Pair], rule: MaskRule = None, seed: int = 0) -> Calibration:
    """Returns the temperature with the lowest negative log-likelihood on random pixels of `pairs`.

    Images and masks have the input side of the model, as in training. Raises UserError for a file that cannot be read,
    or if all pixels are ignored.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = collect_pixels(predictor, pairs, rule, np.random.default_rng(seed))
    if not len(labels):
        raise UserError("the classes ignore all pixels of the masks, so no temperature fits best; give other masks")

    def measure(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    fit = minimize_scalar(measure, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return Calibration(math.exp(fit.x), measure(0.0), float(fit.fun))


def collect_pixels(
    predictor: Predictor, pairs: Sequence[Pair], rule: MaskRule, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Returns float64 logits (N, C) and labels (N,) of random pixels. For two values, C is 2: background is 0."""
    count, logits, labels = max(1, min(PER_IMAGE, PIXELS // len(pairs))), [], []
    side = predictor.sides[0]
    for pair in pairs:
        photo = predictor.prepare(read_image(pair.image))
        with torch.inference_mode():
            values = predictor.predict_logits(photo.crops[0])[0, 0].flatten(1).T.cpu().double()  # (S * S, C)
        label = mask_bytes(read_mask(pair.mask, rule), side, rule).flatten()
        if not isinstance(rule, Classes):
            values, label = F.pad(values, (1, 0)), (label > FOREGROUND).to(torch.uint8)
        known = np.flatnonzero(label.numpy() != IGNORED) if isinstance(rule, Classes) else np.arange(len(label))
        chosen = torch.from_numpy(rng.permutation(known)[:count])
        logits.append(values[chosen])
        labels.append(label[chosen].long())
    return torch.cat(logits), torch.cat(labels)


def write_temperature(checkpoint: Path, calibration: Calibration, images: int) -> Path:
    """Writes the temperature beside the checkpoint, and keeps those of other checkpoints. Returns the path.

    Raises UserError if another program wrote the file.
    """
    path = checkpoint.with_name(NAME)
    if path.exists() and not read_text(path).startswith(HEADER):
        raise UserError(f"{path} is not from sam2unet calibrate; move it away")
    values = read_yaml(path) if path.exists() else {}
    digests = values.pop(DIGESTS, None)
    digests = (digests if isinstance(digests, dict) else {}) | {checkpoint.name: sha256(checkpoint)}
    options: dict[str, Any] = {"default_style": '"', "width": math.inf}

    def format_lines(values: dict[str, str], indent: str = "") -> str:
        return "".join(f"{indent}{yaml.safe_dump(k, **options).strip()}: {value}\n" for k, value in values.items())

    lines = format_lines(values | {checkpoint.name: f"{calibration.temperature:.6g}"})
    lines += f"{DIGESTS}:\n{format_lines(digests, '  ')}"
    with write_atomic(path) as file:
        file.write(f"{HEADER}, the last one from {images} images\n{lines}".encode())
    return path


def read_temperature(checkpoint: Path) -> float:
    """Returns the temperature of a checkpoint.

    Raises UserError if there is none, if it was fitted before the checkpoint was written again, or if the file is
    damaged.
    """
    path = checkpoint.with_name(NAME)
    values = read_yaml(path) if path.is_file() else {}
    text, digests = values.get(checkpoint.name), values.get(DIGESTS)
    if text is None:
        raise UserError(f"{checkpoint} has no temperature in {path}; sam2unet calibrate fits it on validation images")
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not LOWEST <= value <= HIGHEST:
        raise UserError(f"{path}: the temperature of {checkpoint.name} is {text}; wanted {LOWEST} to {HIGHEST}")
    digest = digests.get(checkpoint.name) if isinstance(digests, dict) else None  # older files have none
    if digest and digest != sha256(checkpoint):
        raise UserError(
            f"{path}: the temperature was fitted to other weights, because {checkpoint.name} has changed since "
            "then; run sam2unet calibrate again"
        )
    return value
