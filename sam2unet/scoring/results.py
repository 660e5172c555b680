"""The scores of one method on one data set."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class MethodResult:
    """The scores of one method on one data set. All lists and arrays are in the order of `images`.

    Attributes:
        images: names of the mask files without extension.
        predictions: the map files; None where one is missing.
        masks: the mask files.
        photographs: the image files for the gallery of the report; None where there is none.
        per_image: metric key of `columns.METRICS` -> (N,) float64; NaN where the metric is not defined.
        curves: name (E, F, F1, IoU, Dice, BER, precision, recall) -> (256,), means over images. Entry i belongs to the
            threshold "stretched 8-bit map >= 255 - i".
        table: metric key -> the number of the table, full precision.
    """

    dataset: str
    method: str
    images: list[str]
    predictions: list[Path | None]
    masks: list[Path]
    photographs: list[Path | None]
    per_image: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    table: dict[str, float] = field(default_factory=dict)
