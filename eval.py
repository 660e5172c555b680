"""Score a folder of prediction maps against a folder of masks."""

import argparse
from pathlib import Path

from sam2unet.cli import Parser, main
from sam2unet.engine import evaluate


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument("--dataset_name", required=True, help="what to call it in the table")
    p.add_argument("--pred_path", type=Path, required=True, help="folder of prediction maps")
    p.add_argument("--gt_path", type=Path, required=True, help="folder of masks; each must have a map of its name")
    p.add_argument("--mask_threshold", type=int, metavar="N", help="mask values above N are foreground")
    return p


def run(args: argparse.Namespace) -> None:
    evaluate.run(args.dataset_name, args.pred_path, args.gt_path, args.mask_threshold)


if __name__ == "__main__":
    main(parser, run)
