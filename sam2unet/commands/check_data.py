"""Checks a data set before training: reads every file and lists everything that is wrong or unusual.

Exit status: 0 if you can train on it, even with warnings; 1 if training would be wrong; 2 for wrong arguments.
"""

import argparse
import sys
from pathlib import Path

from ..atomic import make_folder, refuse_existing, write_atomic
from ..classes import Classes
from ..cli import Parser, add_mask_values, add_recipe_flags
from ..data.checks.audit import Audit, audit_folders, find_classes
from ..data.checks.contact_sheet import SHEET, refuse_other_picture, write_contact_sheet
from ..data.checks.findings import PROBLEM, WARNING, describe_shares
from ..errors import UserError, print_line, printable
from ..recipe import MaskRule, make_foreground_rule
from ..slice_view import SliceView


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images to train on")
    p.add_argument("masks", type=Path, metavar="MASKS", help="folder of their masks")
    p.add_argument(
        "--other", type=Path, metavar="TEST_IMAGES", help="folder of test images, which should not occur in IMAGES"
    )
    add_mask_values(p)
    p.add_argument(
        "--classes", metavar="FILE|auto", help="YAML file with the classes of the masks; auto: find them in the masks"
    )
    add_recipe_flags(p, "volumes")
    p.add_argument("--write_classes", type=Path, metavar="FILE", help="with --classes auto: new file for the classes")
    p.add_argument(
        "--save_path", type=Path, metavar="DIR", help="folder for contact_sheet.png, which shows odd pairs first"
    )
    return p


def run(args: argparse.Namespace) -> None:
    if args.save_path is not None:
        if args.save_path.resolve() in {folder.resolve() for folder in (args.images, args.masks, args.other) if folder}:
            raise UserError(f"--save_path {args.save_path} is a folder of inputs; give another folder")
        make_folder(args.save_path)
        refuse_other_picture(args.save_path / SHEET)
    rule = choose_rule(args)
    view = SliceView(args.axis, args.window, args.context or 0)
    audit = audit_folders(args.images, args.masks, args.other, rule, view)
    for finding in audit.findings:
        print_line(f"{finding.level:<9}{finding.title:<17}{finding.text}")
    if args.write_classes:
        assert isinstance(rule, Classes)
        write_classes(args.write_classes, rule, audit, args.masks)
        print_line(f"{'':<9}{'classes file':<17}{args.write_classes}: change the names in it")
    if args.save_path is not None:
        write_contact_sheet(args.save_path / SHEET, audit, rule)
        print_line(f"{'':<9}{'contact sheet':<17}{args.save_path / SHEET}")
    problems, warnings = audit.count(PROBLEM), audit.count(WARNING)
    print_line()
    print_line(
        f"problems {problems}, warnings {warnings}: {'do not train on this yet' if problems else 'fit to train on'}"
    )
    if problems:
        sys.exit(1)


def choose_rule(args: argparse.Namespace) -> MaskRule:
    """Returns what the values of the masks mean. Raises UserError for flags that do not go together."""
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    if args.classes is not None and rule is not None:
        raise UserError("--classes and --mask_threshold or --foreground both say what mask values mean; give one")
    if args.write_classes:
        if args.classes != "auto":
            raise UserError("--write_classes writes the classes that --classes auto finds; give both")
        refuse_existing(args.write_classes)
        if not args.write_classes.parent.is_dir():
            raise UserError(f"no such folder: {args.write_classes.parent}; make it, or give another --write_classes")
    if args.classes is None:
        return rule
    return find_classes(args.masks) if args.classes == "auto" else Classes.read(Path(args.classes))


def write_classes(path: Path, classes: Classes, audit: Audit, mask_folder: Path) -> None:
    """Writes the classes, each with its share of the pixels and its number of masks in a comment."""
    shares = describe_shares(audit.masks.values()) if audit.masks else []
    lines = classes.to_yaml().splitlines()
    notes = [f"in {mask_folder}; change the names; the first class is the background", *map(str.strip, shares)]
    lines = [f"{line}  # {printable(note)}" for line, note in zip(lines, notes, strict=False)]
    with write_atomic(path) as file:
        file.write("\n".join([*lines, ""]).encode())
