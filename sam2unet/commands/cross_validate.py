"""Cross-validation: trains a model for each fold, predicts the fold that it did not see, and scores all folds once.

The folds are similar in their number of images and in their shares of foreground, or in their classes. --group keeps
images of one patient, video or place together. The last checkpoint of each fold predicts, because the best one was
chosen with the images of the fold. If the command stops, run it again: it continues.
"""

import argparse
from pathlib import Path

from ..cli import PassThroughParser
from ..scoring.pixels.medical_scores import EMPTY_MASKS
from ..weights.weight_files import add_weight_flags, read_weight_flags, to_flags
from .eval import read_surface_flags


def parser() -> argparse.ArgumentParser:
    p = PassThroughParser(
        description=__doc__,
        usage="%(prog)s --train_image_path DIR --train_mask_path DIR --save_path DIR [--folds N] [--group REGEX] "
        "[flags of train.py]",
        epilog="train.py gets all other flags, for example --epoch 20 or --mask_threshold 0.",
    )
    p.add_argument("--train_image_path", type=Path, required=True, help="folder of images")
    p.add_argument("--train_mask_path", type=Path, required=True, help="folder of their masks, with the same names")
    p.add_argument("--save_path", type=Path, required=True, help="folder for fold_1/, fold_2/, ... and the tables")
    p.add_argument("--folds", type=int, default=5, metavar="N", help="number of folds; default: 5")
    p.add_argument("--group", metavar="REGEX", help="keeps images together, see train.py; e.g. '^[^_]+'")
    p.add_argument("--classes", type=Path, metavar="FILE", help="YAML file with several classes")
    p.add_argument("--device", help="device for training and prediction; default: a GPU if there is one")
    add_weight_flags(p, " to start from")
    scoring = p.add_argument_group("scoring", "see eval.py")
    scoring.add_argument("--protocol", help="the columns of the table")
    scoring.add_argument("--spacing", nargs="+", type=float, metavar="MM")
    scoring.add_argument("--nsd_tolerance", type=float, metavar="MM")
    scoring.add_argument("--empty_masks", choices=EMPTY_MASKS)
    scoring.add_argument("--report", action="store_true", help="write a page with all images into scores/")
    return p


def run(args: argparse.Namespace) -> None:
    from ..reproduce import cross_validation

    scoring: list[object] = []
    for name in ("spacing", "nsd_tolerance", "empty_masks"):
        if (value := getattr(args, name)) is not None:
            scoring += [f"--{name}", *(value if isinstance(value, list) else [value])]
    study = cross_validation.CrossValidation(
        args.train_image_path,
        args.train_mask_path,
        args.folds,
        args.group,
        args.classes,
        args.protocol,
        weights=to_flags(read_weight_flags(args)),
        device=[] if args.device is None else ["--device", args.device],
        training=args.others,
        scoring=scoring,
        surfaces=read_surface_flags(args),
        report=args.report,
    )
    cross_validation.run(study, args.save_path)
