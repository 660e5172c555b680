"""Says in plain sentences what the scores of a report and the differences of its methods mean."""

import math
import re
from collections.abc import Sequence

from ..columns import Metric, is_better
from ..compare import Difference

PREFIX = r"(?:m|fw_|medical_|mirror_|dichotomous_)?"  # of the keys of columns
BALANCE = "the balance of two shares is {percent}: marked pixels that are right, and object pixels that are marked"
# The start of a key, and what its value says. `{percent}` and `{value}` stand for the value.
SENTENCES = {
    "S": "objects and regions of the maps are similar to those of the masks by {percent}",
    "E": "maps and masks agree by {percent} if their pixels are compared with the mean of the image",
    "F1?": BALANCE,
    "Fw": f"{BALANCE}; errors far from the object count more",
    "MAE": "a pixel of a map differs from its mask by {percent} of the range from black to white, on average",
    "IoU": "of the pixels that map or mask marks, both mark {percent}",
    "Dice": "the area in both map and mask is {percent} of the mean of the two areas",
    "BER": "{percent} of the pixels are wrong if object and background count the same",
    "precision": "{percent} of the pixels that the maps mark belong to the object",
    "recall": "the maps mark {percent} of the pixels of the object",
    "HCE": "a person needs about {value} clicks to correct a map",
    "HD": "the worst point of a border is {value} away from the other border, on average",
    "HD95": "95 % of the points of a border are at most {value} away from the other border",
    "ASSD": "the borders of map and mask are {value} apart, on average",
    "NSD": "{percent} of the borders of map and mask are within the tolerance",
    "BoundaryIoU": "the bands along the borders of map and mask overlap by {percent}",
    "ECE": "the stored maps miss the true share of the object by {percent}, on average",
    "Brier": "the squared difference between map and mask is {value}, on average",
    "mirror_accuracy": "the maps mark {percent} of the pixels of the mirror",
    "accuracy": "{percent} of the pixels are right",
    "mean_accuracy": "{percent} of the pixels of a class are found",
}


def describe_scores(key: str, metric: Metric, methods: Sequence[str], values: Sequence[float]) -> str:
    """Returns a sentence for a column of the table. Of several methods, it describes the best."""
    best = -1
    for i, value in enumerate(values):
        if is_better(metric, value, values[best] if best >= 0 else None):
            best = i
    if best < 0:
        return f"{metric.title} is not defined for these images."
    direction = "Higher" if metric.higher else "Lower"
    who = f" {methods[best]} is best;" if len(values) > 1 else ""
    return f"{metric.title}:{who} {describe_value(key, values[best])}. {direction} is better."


def describe_value(key: str, value: float) -> str:
    """Returns what a value says. An unknown key gives only the value."""
    text = next((text for name, text in SENTENCES.items() if re.match(f"{PREFIX}{name}(_|$)", key)), "{value}")
    return text.format(percent=f"{100 * value:.1f} %", value=f"{value:.3g}")


def judge_difference(d: Difference) -> str:
    """Returns whether the method is better or worse than the baseline, and whether that may be chance."""
    if math.isnan(d.low):
        return "too few images"
    if not d.verdict:
        return "may be chance: the interval contains 0"
    if d.p_holm > 0.05:
        return f"{d.verdict}, but may be chance among so many metrics: p is above 0.05"
    return d.verdict
