"""Finds known benchmarks in a folder of downloads, and makes the folders that sam2unet reproduce needs.

It searches folders and ZIP files for the layouts in which the benchmarks are published. It prints what it finds, and
makes NAME/images and NAME/masks in the data root, with the names of configs/. It changes nothing in the downloads. If
the command stops, run it again: it continues.

Exit status: 0 if all data sets in the downloads are ready; 1 if some are not; 2 for wrong arguments.
"""

import argparse
from pathlib import Path

from ..cli import Parser
from ..data.layouts.downloads import prepare_downloads
from ..errors import SomeFailed, shortlist


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("downloads", type=Path, metavar="DOWNLOADS", help="folder with ZIP files or unpacked folders")
    p.add_argument("--data_root", type=Path, required=True, help="folder for NAME/images and NAME/masks")
    kind = p.add_mutually_exclusive_group()
    kind.add_argument("--link", action="store_true", help="symbolic links to files on the disk; this is the default")
    kind.add_argument("--copy", action="store_true", help="copies of files on the disk instead")
    p.add_argument("--anyway", action="store_true", help="also accept another split than that of the papers")
    return p


def run(args: argparse.Namespace) -> None:
    if missing := prepare_downloads(args.downloads, args.data_root, copy=args.copy, anyway=args.anyway):
        raise SomeFailed(f"not ready: {shortlist(missing, 40)}; the table gives the reason")
