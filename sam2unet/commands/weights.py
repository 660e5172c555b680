"""Lists, downloads and checks published weights. A name from the list replaces the path of a weight file.

SAM2UNET_CACHE sets the folder of the files. SAM2UNET_WEIGHTS_SERVER=http://HOST:PORT replaces the server, and
HF_ENDPOINT replaces the Hugging Face hub. Exit status of verify: 0 if no file is damaged, else 1.
"""

import argparse

from ..atomic import PART, sha256
from ..cli import Parser
from ..errors import SomeFailed, print_line
from ..weights.download import get_weights
from ..weights.named import DRIVE, PUBLISHED, SAM2UNET_DRIVE, get_cache_folder, get_published
from ..weights.weight_files import add_source_flag


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True, metavar="list|get|verify")
    commands.add_parser("list", help="print all names, their sizes and their places in the cache")
    get = commands.add_parser("get", help="download files into the cache")
    get.add_argument("names", nargs="+", metavar="NAME", help="a name from the list")
    add_source_flag(get)
    commands.add_parser("verify", help="compare the files in the cache with their SHA-256")
    return p


def run(args: argparse.Namespace) -> None:
    COMMANDS[args.command](args)


def print_list(args: argparse.Namespace) -> None:
    print_line(f"{'name':<34}{'flag':<18}{'bytes':>13}  {'state':<14}file")
    for weights in PUBLISHED.values():
        state = "not cached"
        if weights.path.is_file():
            state = "cached"
        elif weights.address.startswith(DRIVE):
            state = "Google Drive"
        elif weights.path.with_name(f".{weights.file}{PART}").is_file():
            state = "unfinished"
        size = "" if weights.size is None else f"{weights.size:,}"
        print_line(f"{weights.name:<34}--{weights.flag:<16}{size:>13}  {state:<14}{weights.path}")
    print_line(f"The checkpoints and maps of SAM2-UNet are on Google Drive: {SAM2UNET_DRIVE}")


def get_files(args: argparse.Namespace) -> None:
    for weights in [get_published(name) for name in args.names]:
        print_line(f"{weights.name}: {get_weights(weights, args.weights_from)}")


def verify_files(args: argparse.Namespace) -> None:
    cached = [weights for weights in PUBLISHED.values() if weights.path.is_file()]
    damaged = []
    for weights in cached:
        digest, expected = sha256(weights.path), weights.get_sha256()
        state = "correct" if digest == expected else f"damaged, the SHA-256 must be {expected}"
        print_line(f"{weights.path}: SHA-256 {digest}, {state if expected else 'nothing to compare it with'}")
        if expected not in (digest, ""):
            damaged.append(weights)
    print_line(f"{len(cached)} files in {get_cache_folder()}, {len(damaged)} damaged")
    if damaged:
        files, names = (" ".join(map(str, column)) for column in zip(*((w.path, w.name) for w in damaged), strict=True))
        raise SomeFailed(f"damaged: {files}; remove these files, then run: sam2unet weights get {names}")


COMMANDS = {"list": print_list, "get": get_files, "verify": verify_files}
