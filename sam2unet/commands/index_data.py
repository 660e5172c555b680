"""Make an index of images and masks in folders and archives, which train.py and test.py read without unpacking.

An index lists every image with its masks, and says what is wrong with them. It opens in seconds, also with millions of
images. SOURCE is a folder, a .zip (of a split one, the part that ends in .zip), a .tar, or a list {image: [mask, ...]}
in a .json file. In folders and archives, images and masks are in folders with usual names, such as images/ and masks/.
The names of SA-Med2D-20M and IMed-361M are understood. A build that was stopped goes on with the same command.
"""

import argparse
from pathlib import Path

from ..cli import Parser


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="folders, archives, or lists")
    p.add_argument("--save_path", type=Path, required=True, metavar="DIR", help="new folder for the index")
    p.add_argument(
        "--sample",
        type=float,
        default=1.0,
        metavar="F",
        help="check only this fraction of the images; default: 1",
    )
    p.add_argument("--workers", type=int, help="number of processes that check files; default: one for each core")
    return p


def run(args: argparse.Namespace) -> None:
    from ..data.index.build import build_index, describe_index

    describe_index(build_index(args.sources, args.save_path, args.sample, args.workers))
