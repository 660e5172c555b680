"""Scores of one method on one data set: per image, as curves, and as the table's numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class MethodResult:
    """One method on one data set. Images are in the order of `images` everywhere.

    Attributes:
        images: stems of the mask files.
        predictions, masks: the files scored; None in `predictions` where one was missing.
        photographs: files for the report's gallery, None where there are none.
        per_image: by metric key of `columns.METRICS`, (N,) float64; NaN where the metric is not defined.
        curves: by name (E, F, F1, IoU, Dice, BER, precision, recall), (256,) means over images; entry i belongs to the
            cut "stretched 8-bit map >= 255 - i".
        table: the numbers of the table by metric key, full precision.
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
