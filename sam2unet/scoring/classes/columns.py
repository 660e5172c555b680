"""The columns of tables for several classes, under the names and with the definitions of the literature."""

from collections.abc import Sequence

from ...errors import UserError
from ..columns import SURFACES, Metric

OCCUR = "mean over the classes that occur in masks or maps"
PRESENT = "mean over the images in which the class is in the mask or the map"
SUMMARY = {
    "mIoU": f"IoU of each class over all pixels of the data set; {OCCUR}",
    "mIoU_fg": f"IoU of each class over all pixels of the data set; {OCCUR}, without the first, the background",
    "mDice_fg": f"Dice of each class over all pixels of the data set; {OCCUR}, without the background",
    "mDice_image_fg": f"Dice of each image and class; {PRESENT}, then over classes without the background",
    "accuracy": "share of the pixels whose class is right",
    "mean_accuracy": "recall of each class over all pixels of the data set; mean over the classes in the masks",
    "fw_IoU": "IoU of each class, weighted by the share of the class in the pixels of the masks",
}
PER_CLASS = {
    "IoU_{}": "intersection over union of the class, over all pixels of the data set",
    "Dice_{}": "Dice of the class, over all pixels of the data set",
    "IoU_{}_image": f"intersection over union of the class; {PRESENT}",
    "Dice_{}_image": f"Dice of the class; {PRESENT}",
}
# `{}` stands for the key of a column of `SURFACES`, and then for a class.
SURFACE_SUMMARY, SURFACE_CLASS = "m{}_fg", "{}_{}"
# The columns that papers report; `{}` stands for each class.
CLASS_PROTOCOLS = {
    "semantic": ("mIoU", "mIoU_fg", "accuracy", "mean_accuracy", "fw_IoU", "IoU_{}"),
    "medical": (
        *("mDice_fg", "mDice_image_fg", "mIoU_fg", "mHD95_fg", "mASSD_fg", "mNSD_fg"),
        *("Dice_{}", "Dice_{}_image", "HD95_{}", "ASSD_{}", "NSD_{}"),
    ),
}


def define_class_columns(names: Sequence[str], surfaces: bool = False) -> dict[str, Metric]:
    """Returns all columns by key, with `surfaces` also those of distances between surfaces.

    Raises UserError if two have the same key, as for the classes `a` and `a_image`, or `a` and `surface_a`.
    """
    patterns = [*PER_CLASS, *(SURFACE_CLASS.format(key, "{}") for key in (SURFACES if surfaces else ()))]
    owners: dict[str, list[str]] = {}
    for name in names:
        for pattern in patterns:
            owners.setdefault(pattern.format(name), []).append(name)
    if twice := next((pair for pair in owners.values() if len(pair) > 1), None):
        raise UserError(f"the classes {' and '.join(twice)} give columns of the same name; rename one")
    meanings = SUMMARY | {key.format(name): text for key, text in PER_CLASS.items() for name in names}
    columns = {key: Metric(key, text) for key, text in meanings.items()}
    for key, metric in SURFACES.items() if surfaces else ():
        title = SURFACE_SUMMARY.format(key)
        columns[title] = metric._replace(title=title, legend=f"mean of {key}_... over classes without the background")
        for title in (SURFACE_CLASS.format(key, name) for name in names):
            columns[title] = metric._replace(title=title, legend=f"{metric.legend}; mean over images")
    return columns


def list_columns(protocol: str, names: Sequence[str]) -> list[str]:
    """Returns the keys of a protocol, those of classes for each class."""
    keys = CLASS_PROTOCOLS[protocol]
    return [column for key in keys for column in ([key.format(name) for name in names] if "{}" in key else [key])]
