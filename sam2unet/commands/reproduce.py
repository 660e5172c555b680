"""Reproduces a published result of configs/: trains, predicts all test sets, scores them and writes a certificate.

The data root has a folder with images/ and masks/ for each data set that the file names. Symbolic links work. The
training part of a data set has its own name: COD10K-train beside COD10K. With --downloads, the script makes these
folders from downloaded archives, as sam2unet prepare does. If the command stops, run it again: it continues.

--check compares a certificate with the files on this disk. The exit status is 1 if something differs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..classes import Classes
from ..cli import PassThroughParser, add_mask_values, locate_recipe_file
from ..data.layouts.downloads import prepare_downloads
from ..errors import UserError, print_line, print_lines, shortlist
from ..recipe import Recipe, Study, make_foreground_rule
from ..run_command import format_command
from ..weights.weight_files import WEIGHT_FLAGS, add_weight_flags, read_weight_flags, to_flags


def parser() -> argparse.ArgumentParser:
    p = PassThroughParser(
        description=__doc__,
        usage="%(prog)s CONFIG --data_root DIR|--downloads DIR [--seeds N] [--save_path DIR] [--hiera_path FILE|NAME] "
        "[flags of train.py]\n       %(prog)s --check certificate.json [--data_root DIR] [--hiera_path FILE|NAME]",
        epilog="train.py gets all other flags, for example --epoch 20 or --batch_size 4.",
    )
    p.add_argument(
        "config",
        type=locate_recipe_file,
        nargs="?",
        metavar="CONFIG",
        help="recipe that names its data sets, for example configs/polyp.yaml, or only polyp",
    )
    data = p.add_mutually_exclusive_group()
    data.add_argument("--data_root", type=Path, help="folder with NAME/images and NAME/masks for each data set")
    data.add_argument("--downloads", type=Path, metavar="DIR", help="folder with the data sets as they are downloaded")
    p.add_argument(
        "--save_path", type=Path, help="folder for checkpoints, maps/ and scores/; default: runs/<name of CONFIG>"
    )
    p.add_argument("--seed", type=int, help="seed of the training, or the first of --seeds; default: that of CONFIG")
    p.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="number of trainings, with the next N seeds; default: 1"
    )
    p.add_argument(
        "--check", type=Path, metavar="FILE", help="compare this certificate.json with the files here; train nothing"
    )
    add_weight_flags(p, " to start from; the published models start from large weights, not from SAM 2.1")
    add_mask_values(p)
    p.add_argument("--device", help="device for training and prediction; default: a GPU if there is one")
    return p


def run(args: argparse.Namespace) -> None:
    from ..reproduce import run as study_run
    from ..reproduce.study import StudyInputs

    if args.check is not None:
        check(args)
        return
    if args.config is None or not (args.data_root or args.downloads):
        raise UserError("give CONFIG and --data_root or --downloads, or --check certificate.json")
    study = Study.read(args.config)
    values = make_foreground_rule(args.mask_threshold, args.foreground)
    mask_values = {"foreground": values} if args.foreground else {"mask_threshold": values}
    rule = Recipe.read(args.config, **dict[str, Any](mask_values)).mask_rule
    if isinstance(rule, Classes):
        raise UserError(f"{args.config} has classes, which reproduce cannot score; train, test and eval it by hand")
    seeds = study_run.choose_seeds(args.config, args.seed, args.seeds)
    folder = args.save_path or Path("runs", args.config.stem)
    root, names = args.data_root or folder / "data", (*study.train, *study.test)
    if args.downloads and names:
        prepare_downloads(args.downloads, root, names)
    device = [] if args.device is None else ["--device", args.device]
    weights = to_flags(read_weight_flags(args))
    command = format_command(sys.argv)
    inputs = StudyInputs(args.config, study, root, rule, weights, device, args.others, command)
    study_run.run(inputs, folder, seeds)


def check(args: argparse.Namespace) -> None:
    """Prints a table of the parts of the certificate. Exits with 1 if one differs."""
    from ..reproduce.verify import ABSENT, DIFFERS, check_certificate, format_rows

    defaults, allowed = parser().parse_args([]), ("check", "data_root", "weights_from", *WEIGHT_FLAGS)
    changed = [name for name, value in vars(args).items() if value != getattr(defaults, name) and name != "others"]
    if others := [*args.others, *(name for name in changed if name not in allowed)]:
        raise UserError(f"--check goes only with --data_root and the flags of weights; leave out {shortlist(others)}")
    rows = list(check_certificate(args.check, args.data_root, read_weight_flags(args)))
    print_lines(format_rows(rows))
    different, absent = (sum(row.verdict == verdict for row in rows) for verdict in (DIFFERS, ABSENT))
    print_line()
    print_line(f"{different} of {len(rows)} parts differ, {absent} are not here")
    if different:
        sys.exit(1)
