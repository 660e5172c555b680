"""From the logits of a model to probabilities, and from probabilities to maps and to their uncertainty."""

import math

import numpy as np
import torch
from torch import Tensor


def to_probability_(logits: Tensor) -> Tensor:
    """Sigmoid of (1, 1, H, W) -> (H, W), or softmax of (1, C, H, W) -> (C, H, W). In place: maps may be large."""
    if logits.shape[1] == 1:
        return logits.sigmoid_()[0, 0]
    weights = logits[0]
    weights.sub_(weights.amax(0)).exp_()
    return weights.div_(weights.sum(0))


def stretch_range(probability: Tensor, limits: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Stretches a map to the full range [0, 1], as in the released test script.

    `limits` are its lowest and highest value, if `probability` is a part of it.
    """
    low, high = limits or (probability.min(), probability.max())
    return (probability - low).div_(high - low + 1e-8)


def to_uint8(probability: Tensor) -> np.ndarray:
    """Float map in [0, 1] -> 8 bits. Values are truncated, as in the released test script."""
    return (probability * 255).to(torch.uint8).cpu().numpy()


def pick_classes(probability: Tensor) -> np.ndarray:
    """Probabilities (C, H, W) -> uint8 (H, W), the index of the most probable class."""
    return probability.max(0).indices.to(torch.uint8).cpu().numpy()  # four times as fast as `argmax` on a CPU


def measure_entropy(probability: Tensor, axis: int | None) -> Tensor:
    """Returns the entropy in [0, 1], where 1 means that all classes are equally probable.

    `axis` is the axis of the classes; None: the values are probabilities of the foreground.
    """
    probability = probability.clamp(0, 1)  # blended tiles can exceed 1 by rounding
    if axis is None:
        return (torch.special.entr(probability) + torch.special.entr(1 - probability)) / math.log(2)
    return torch.special.entr(probability).sum(axis) / math.log(probability.shape[axis])


def measure_disagreement(logits: Tensor, models: int) -> float:
    """Logits (tiles, models * flips, C, S, S) -> a number in [0, 1]: how much the models differ, mean over pixels.

    This is the entropy of the mean probability minus the mean entropy of the models (mutual information). It is 0 if
    all models give the same probabilities, also if all are uncertain.
    """
    flat = logits.unflatten(1, (models, -1)).transpose(0, 1).flatten(0, 2)  # (models * tiles * flips, C, S, S)
    probability = torch.stack([to_probability_(part[None].clone()) for part in flat])
    by_model = probability.view(models, -1, *probability.shape[1:])  # (models, images, S, S) or (..., C, S, S)
    axis = 1 if probability.ndim == 4 else None
    mean = measure_entropy(by_model.mean(0), axis).mean()
    return max(0.0, (mean - measure_entropy(probability, axis).mean()).item())
