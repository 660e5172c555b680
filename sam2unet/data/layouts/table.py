"""The layouts in which benchmarks are downloaded: one table. A new data set is a count and one or two rows."""

import re
from typing import NamedTuple

# The accepted names of folders. Upper and lower case are the same. `*` is any text.
IMAGE_NAMES = ("images", "image", "imgs", "img", "im", "*-image", "*-images")
MASK_NAMES = (
    *("masks", "mask", "gt", "gt_object", "label", "labels", "segmentations", "ground_truth_mask"),
    *("*-mask", "*-labels"),
)
IMAGES, MASKS = (f"{{{','.join(names)}}}" for names in (IMAGE_NAMES, MASK_NAMES))

# Name of the folder in a data root, as in configs/ -> the published numbers of pairs. Sources can differ.
COUNTS: dict[str, tuple[int, ...]] = {
    "COD10K-train": (3040,),
    "CAMO-train": (1000,),
    "CAMO": (250,),
    "CHAMELEON": (76,),
    "COD10K": (2026,),
    "NC4K": (4121,),
    "DUTS-TR": (10553,),
    "DUTS-TE": (5019,),
    "DUT-OMRON": (5168,),
    "HKU-IS": (4447,),
    "ECSSD": (1000,),
    "PASCAL-S": (850,),
    "MAS3K-train": (1769,),
    "MAS3K": (1141,),
    "RMAS-train": (2514,),
    "RMAS": (500,),
    "MSD-train": (3063,),
    "MSD": (955,),
    "PMD-train": (5095, 5096),
    "PMD": (571,),
    "PraNet-train": (1450,),
    "Kvasir": (100,),
    "CVC-ClinicDB": (62,),
    "CVC-ColonDB": (380,),
    "CVC-300": (60,),
    "ETIS": (196,),
    "DIS-TR": (3000,),
    "DIS-VD": (470,),
    "DIS-TE1": (500,),
    "DIS-TE2": (500,),
    "DIS-TE3": (500,),
    "DIS-TE4": (500,),
    "EORSSD-train": (1400,),
    "EORSSD": (600,),
    "ORSI-4199-train": (2000,),
    "ORSI-4199": (2199,),
}
# For these sets the count differs between sources, so another count is a warning and not an error.
VARYING = ("MAS3K-train", "MAS3K", "RMAS-train", "RMAS", "MSD-train", "MSD", "PMD-train", "PMD")
# The masks of these sets must have only 0 and 255, but copies with grey edges exist.
EXACT = ("MSD-train", "MSD", "PMD-train", "PMD", "ORSI-4199-train", "ORSI-4199")
# Other splits by their number of pairs, in words.
OTHER_SPLITS: dict[str, dict[int, str]] = {
    "COD10K-train": {6000: "all training images of COD10K-v3, also those without a camouflaged object"},
    "COD10K": {4000: "all test images of COD10K-v3, also those without a camouflaged object"},
    "PraNet-train": {
        900: "only the part from Kvasir-SEG",
        550: "only the part from CVC-ClinicDB",
        1612: "all of Kvasir-SEG and CVC-ClinicDB",
    },
    "Kvasir": {1000: "all of Kvasir-SEG, which includes the training images"},
    "CVC-ClinicDB": {612: "all of CVC-ClinicDB, which includes the training images"},
    "CVC-ColonDB": {300: "the older CVC-ColonDB"},
    "HKU-IS": {1447: "only the test part of HKU-IS"},
}


class Layout(NamedTuple):
    """One row: where the images and the masks of a data set are, and which files belong to it.

    Patterns apply to the last parts of a path. `*` is any text, `{a,b}` is a or b. `**` is any number of folders: if
    the name before it is missing in the path, the count must be the published one.
    """

    name: str  # a key of `COUNTS`
    folder: str  # the folder that contains both; empty: any folder
    images: str = IMAGES
    masks: str = MASKS
    # The stems that belong to the set: a pattern; `!` and a pattern that they do not fit; or `train.txt`, a list of
    # stems beside the image folder or one folder above. Without the list, all files belong to the set.
    stems: str = "*"


def list_split_rows(name: str, folder: str, train: str = "train", test: str = "test") -> tuple[Layout, Layout]:
    """Returns the rows of a data set with a folder for training and a folder for testing."""
    return (
        Layout(f"{name}-train", f"{folder}/**/{train}", stems="train.txt"),
        Layout(name, f"{folder}/**/{test}", stems="test.txt"),
    )


def list_joined_rows(name: str, folder: str) -> tuple[Layout, Layout]:
    """Returns the rows of a data set with the folders train-images, train-labels, test-images and test-labels."""
    return (
        Layout(f"{name}-train", f"{folder}/**", "train-images", "train-labels"),
        Layout(name, f"{folder}/**", "test-images", "test-labels"),
    )


LAYOUTS: tuple[Layout, ...] = (
    # Camouflaged objects: the prepared sets, COD10K-v3 and CAMO as their authors published them.
    Layout("COD10K-train", "{TrainDataset,TrainValDataset}", masks="GT", stems="COD10K-CAM-*"),
    Layout("CAMO-train", "{TrainDataset,TrainValDataset}", masks="GT", stems="!COD10K-*"),
    Layout("COD10K-train", "COD10K*/Train", stems="COD10K-CAM-*"),
    Layout("COD10K", "COD10K*/Test", stems="COD10K-CAM-*"),
    Layout("CAMO-train", "CAMO*", "Images/Train", "GT"),
    Layout("CAMO", "CAMO*", "Images/Test", "GT"),
    # Salient objects
    Layout("DUTS-TR", "", "DUTS-TR-Image", "DUTS-TR-Mask"),
    Layout("DUTS-TE", "", "DUTS-TE-Image", "DUTS-TE-Mask"),
    Layout("DUT-OMRON", "", "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    Layout("HKU-IS", "HKU-IS*/**", "imgs", "gt"),
    Layout("ECSSD", "ECSSD*/**", "images", "ground_truth_mask"),
    Layout("PASCAL-S", "", "imgs/pascal", "masks/pascal"),
    # Marine animals, mirrors, polyps, remote sensing
    *list_split_rows("MAS3K", "MAS3K*"),
    *list_split_rows("RMAS", "RMAS*"),
    *list_split_rows("MSD", "MSD*"),
    *list_split_rows("PMD", "PMD*"),
    Layout("PraNet-train", "TrainDataset", masks="{mask,masks}"),
    *list_joined_rows("EORSSD", "EORSSD*"),
    *list_split_rows("EORSSD", "EORSSD*"),
    *list_joined_rows("ORSI-4199", "ORSI*4199*"),
    *list_split_rows("ORSI-4199", "ORSI*4199*", "{train,trainset}", "{test,testset}"),
    # NAME/{images,masks}, also in TestDataset and in repackaged copies
    *(
        Layout(name, folder, stems="train.txt")
        for name, folder in {
            **{name: name for name in COUNTS if not name.startswith(("MAS3K", "RMAS", "MSD", "PMD", "EOR", "ORSI"))},
            "DUT-OMRON": "{DUT-OMRON,DUTOMRON,DUT-O}",
            "PASCAL-S": "{PASCAL-S,PASCALS,PASCAL}",
            "Kvasir": "{Kvasir,Kvasir-SEG}",
            "ETIS": "{ETIS,ETIS-LaribPolypDB}",
        }.items()
    ),
)


def to_expression(pattern: str) -> re.Pattern[str]:
    """Returns the regular expression for the last parts of a path in lower case. Its group `above` is what is before.

    Of several positions that fit, `above` is the longest.
    """
    tokens = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "{": "(?:", "}": ")", ",": "|"}
    words = re.split(r"(\*\*/|[*{},])", pattern.casefold())
    expression = "".join(tokens.get(word, re.escape(word)) for word in words)
    return re.compile(f"(?P<above>(?:.*/)?){expression}", re.DOTALL)  # the names of folders can contain line breaks
