"""From maps of several classes to scores: the confusion matrix of an image, and the columns of a table.

Legend: N images, C classes, R weightings of the images. All columns need three numbers of each image and class:
`counts`, (N, 3, C), the pixels of the class in both mask and map, in the mask, and in the map. The first class is the
background.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ...classes import IGNORED
from ...errors import UserError
from ..pixels.histograms import EXACT_IN_FLOAT32
from .columns import define_class_columns


def count_confusion(prediction: np.ndarray, mask: np.ndarray, count: int, path: object = "the map") -> np.ndarray:
    """Counts the pixels of each pair of classes: int64 (C, C). Rows are the classes of the mask, columns of the map.

    Pixels whose mask is `IGNORED` count nowhere. Raises UserError, which names `path`, if the map has another index.

    Args:
        prediction, mask: (H, W) uint8, the index of the class of each pixel.
        count: C, the number of classes.
    """
    if (largest := int(prediction.max())) >= count:
        found = "of no class" if largest == IGNORED else f"of class index {largest}"
        raise UserError(f"{path} has a pixel {found}; a map has only the classes 0 to {count - 1}")
    confusion = np.zeros((count, count), np.int64)
    rows = max(1, EXACT_IN_FLOAT32 // mask.shape[1])  # OpenCV counts in float32
    for start in range(0, len(mask), rows):
        pair = [np.ascontiguousarray(array[start : start + rows]) for array in (mask, prediction)]
        # Values outside the ranges are left out: those are the ignored pixels.
        block = cv2.calcHist(pair, [0, 1], None, [count, count], [0, count, 0, count])
        confusion += block.astype(np.int64)
    return confusion


def count_pixels(confusion: np.ndarray) -> np.ndarray:
    """(..., C, C) -> (..., 3, C): the `counts` of an image, see the legend of this file."""
    diagonal = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([diagonal, confusion.sum(-1), confusion.sum(-2)], axis=-2)


def score_classes(
    counts: np.ndarray,
    names: Sequence[str],
    weights: np.ndarray | None = None,
    surfaces: np.ndarray | None = None,
) -> dict[str, Any]:
    """Returns the value of each column of `define_class_columns`, in its order. NaN means not defined.

    `weights` (R, N) says how often an image counts, as in a bootstrap; then each column is (R,). Without, each image
    counts once, and each column is a number. `surfaces` (N, K, C) has the K columns of `surface_scores`; with it, the
    result has their columns too.
    """
    each = np.ones((1, len(counts))) if weights is None else weights
    sums = (each @ counts.reshape(len(counts), -1).astype(float)).reshape(len(each), *counts.shape[1:])
    iou, dice = score_pixels(sums)
    image_iou, image_dice = (average_images(values, each) for values in score_pixels(counts))
    both, in_mask, _ = np.moveaxis(sums, -2, 0)
    frequency = divide(in_mask, in_mask.sum(-1, keepdims=True))
    summary = [iou, iou[:, 1:], dice[:, 1:], image_dice[:, 1:]]
    values = [*map(average_defined, summary), divide(both.sum(-1), in_mask.sum(-1))]
    # A class that is in no mask has the frequency 0. Without any pixel, all frequencies and the score are NaN.
    values += [average_defined(divide(both, in_mask)), np.where(frequency > 0, frequency * iou, frequency).sum(-1)]
    values += [column for group in (iou, dice, image_iou, image_dice) for column in group.T]
    for column in () if surfaces is None else np.moveaxis(surfaces, 1, 0):
        means = average_images(column, each)
        values += [average_defined(means[:, 1:]), *means.T]
    pairs = zip(define_class_columns(names, surfaces is not None), values, strict=True)
    return {key: float(value[0]) if weights is None else value for key, value in pairs}


def score_pixels(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 3, C) -> IoU and Dice of each class, (..., C) each; NaN for a class in neither mask nor map."""
    both, in_mask, in_map = np.moveaxis(counts, -2, 0)
    return divide(both, in_mask + in_map - both), divide(2 * both, in_mask + in_map)


def average_images(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, C) with NaN, weights (R, N) -> (R, C), the mean over the images where the value is defined."""
    return divide(weights @ np.nan_to_num(values), weights @ np.isfinite(values).astype(float))


def average_defined(values: np.ndarray) -> np.ndarray:
    """(R, C) -> (R,), the mean over the classes whose value is defined."""
    defined = np.isfinite(values)
    return divide(np.where(defined, values, 0).sum(-1), defined.sum(-1))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the ratio; NaN where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
