"""Scores folders of prediction maps against folders of masks."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..classes import Classes
from ..cli import Parser, add_mask_values, add_recipe_flags, list_arguments
from ..errors import UserError, print_lines, shortlist
from ..recipe import FIELDS, make_foreground_rule
from ..run_command import format_command
from ..runtime.shards import Shard
from ..scoring import evaluate
from ..scoring.classes import evaluate as evaluate_classes
from ..scoring.classes.columns import CLASS_PROTOCOLS, define_class_columns
from ..scoring.columns import METRICS, PROTOCOLS
from ..scoring.match import Entry, read_entry_file, read_entry_flags
from ..scoring.parts import Parts, list_part_files, read_header
from ..scoring.pixels.medical_scores import EMPTY_MASKS, SurfaceOptions
from ..scoring.tables.score_tables import format_legend
from ..slice_view import SliceView

# The flags that name folders, those that say how to score images, and those that do not go with classes.
FOLDERS = ("dataset_name", "pred_path", "gt_path", "method", "image_path")
SCORING = tuple("mask_threshold foreground missing resize slices axis backend verify".split())
SCORING += tuple("spacing nsd_tolerance empty_masks".split())
BINARY = ("mask_threshold", "foreground", "expect", "plots", "verify", "backend", "source")


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    what = p.add_argument_group("input", "one --pred_path and one --gt_path for each --dataset_name, in the same order")
    what.add_argument("--dataset_name", nargs="+", default=[], help="name of a data set in the table")
    what.add_argument("--pred_path", nargs="+", type=Path, default=[], help="folder of prediction maps")
    what.add_argument("--gt_path", nargs="+", type=Path, default=[], help="folder of masks")
    what.add_argument(
        "--method",
        nargs="+",
        default=[],
        help="name of a method: one for all, or one for each data set; "
        "default: none, or the names of the folders if a data set occurs several times",
    )
    what.add_argument("--image_path", nargs="+", type=Path, default=[], help="folder of photographs, for --report")
    what.add_argument("--config", type=Path, help="YAML file with data sets and methods, instead of the flags above")
    what.add_argument(
        "--from", dest="source", type=Path, metavar="CSV", help="per_image.csv of an earlier run, instead of images"
    )
    what.add_argument(
        "--merge",
        type=Path,
        metavar="DIR",
        help="the --save_dir of all shards: prints and writes what the command without --shard prints and writes",
    )
    how = p.add_argument_group("scoring")
    add_recipe_flags(how, "classes")
    add_mask_values(how)
    how.add_argument(
        "--missing",
        choices=("error", "zero", "skip"),
        default="error",
        help="if a mask has no prediction: stop (error), score a black map (zero), or leave it out (skip)",
    )
    how.add_argument(
        "--resize",
        action="store_true",
        help="resize maps to the size of their mask, bilinear, or with --classes nearest neighbour; default: error",
    )
    how.add_argument("--slices", action="store_true", help="score each slice of a volume by itself, not in 3D")
    how.add_argument("--axis", type=int, help="with --slices: " + FIELDS["axis"].metadata["help"])
    how.add_argument(
        "--backend",
        choices=("fast", "pysodmetrics"),
        default="fast",
        help="both give the same numbers; pysodmetrics is slow",
    )
    how.add_argument(
        "--verify", type=int, default=0, metavar="N", help="also score N random pairs with pysodmetrics and compare"
    )
    surface = p.add_argument_group("distances between surfaces", "for --protocol medical and surface")
    surface.add_argument(
        "--spacing",
        nargs="+",
        type=float,
        metavar="MM",
        help="distance of neighbouring rows and of neighbouring columns, for volumes first of neighbouring planes; or "
        "one number for all; default: that of the file (NIfTI, DICOM), or 1, so that distances are in pixels",
    )
    surface.add_argument(
        "--nsd_tolerance", type=float, metavar="MM", help="largest distance that NSD counts as equal; default: 1"
    )
    surface.add_argument(
        "--empty_masks",
        choices=EMPTY_MASKS,
        help="worst (default): if the mask or the map is empty, the scores are the worst; if both are, the pair is "
        "left out. skip: both cases are left out. perfect: as worst, but if both are empty, the scores are perfect",
    )
    how.add_argument("--workers", type=int, help="number of processes; default: one for each core")
    how.add_argument(
        "--shard", metavar="I/N", help="score only share I of N, and write its scores into --save_dir, for --merge"
    )
    out = p.add_argument_group("output")
    out.add_argument(
        "--protocol",
        help=f"columns that the papers of a task use: {', '.join(PROTOCOLS)}; default: released; "
        f"with --classes: {', '.join(CLASS_PROTOCOLS)}; default: semantic",
    )
    out.add_argument(
        "--expect", metavar="PAPER", help="also print the published figures of a paper: sam2-unet or sam2-unext"
    )
    out.add_argument("--legend", action="store_true", help="explain each number, and exit")
    out.add_argument("--save_dir", type=Path, help="folder for table.md, .tex, .csv, results.json and per_image.csv")
    out.add_argument("--plots", action="store_true", help="write precision-recall, F and E curves into --save_dir")
    out.add_argument(
        "--report", action="store_true", help="write a page with tables, curves and a gallery into --save_dir"
    )
    out.add_argument(
        "--report_images",
        type=int,
        metavar="N",
        help="the gallery of the report shows the N worst images; default: as many as 60 MB can hold",
    )
    return p


def run(args: argparse.Namespace) -> None:
    if args.legend:
        metrics = define_class_columns(["CLASS"], surfaces=True) if args.classes else METRICS
        print_lines(format_legend(list(metrics), metrics))
        return
    if args.merge is not None:
        args = repeat_flags(args)
    protocols = CLASS_PROTOCOLS if args.classes else PROTOCOLS
    args.protocol = args.protocol or next(iter(protocols))
    arguments = list_arguments(args, parser())
    files = (args.save_dir, args.plots, args.report, args.report_images)
    command = format_command(sys.argv)
    outputs = evaluate.ScoreOutputs(
        args.protocol, args.expect, *files, arguments, tuple(protocols), command, args.workers
    )
    if args.classes:
        refuse_flags(args, "--classes", BINARY, "which need masks of foreground and background")
    if sum((bool(args.dataset_name), args.config is not None, args.source is not None)) != 1:
        raise UserError("give --dataset_name with --pred_path and --gt_path, or --config, or --from, or --merge")
    if args.config is not None:
        refuse_flags(args, "--config", FOLDERS, "which are in its file")
    if args.source is not None:
        refuse_flags(args, "--from", (*FOLDERS, *SCORING, "shard"), "which need the images")
        evaluate.rerun(args.source, outputs)
        return
    entries, parts = read_entries(args), choose_parts(args)
    if args.classes:
        classes = Classes.read(args.classes)
        surfaces = read_surface_flags(args)
        evaluate_classes.run(entries, outputs, classes, args.missing, args.resize, args.workers, surfaces, parts)
        return
    evaluate.run(
        entries,
        outputs,
        mask_threshold=make_foreground_rule(args.mask_threshold, args.foreground),
        missing=args.missing,
        resize=args.resize,
        library=args.backend == "pysodmetrics",
        verify_count=args.verify,
        workers=args.workers,
        surfaces=read_surface_flags(args),
        parts=parts,
    )


def read_entries(args: argparse.Namespace) -> list[Entry]:
    """Returns the folders to score, from --config or from the flags."""
    if args.config is not None:
        entries = read_entry_file(args.config)
    else:
        folders = args.pred_path, args.gt_path, args.method, args.image_path
        entries = read_entry_flags(args.dataset_name, *folders)
    if args.axis is not None and not args.slices:
        raise UserError("--axis needs --slices")
    return [replace(entry, slices=SliceView(args.axis)) for entry in entries] if args.slices else entries


def choose_parts(args: argparse.Namespace) -> Parts | None:
    """Returns the parts that --shard writes or --merge joins; None without these flags."""
    if args.merge is not None:
        return Parts(args.merge, None, {})
    if args.shard is None:
        return None
    if args.save_dir is None:
        raise UserError("--shard needs --save_dir, the folder for the part")
    flags = {name: value for name, value in vars(args).items() if value not in (None, []) and value is not False}
    flags = {name: value for name, value in flags.items() if name not in ("shard", "save_dir", "workers")}
    return Parts(args.save_dir, Shard.read(args.shard), flags)


def repeat_flags(args: argparse.Namespace) -> argparse.Namespace:
    """Returns the flags of the parts in --merge. Flags of this call have priority."""
    if args.shard is not None:
        raise UserError("--shard does not go with --merge; first score all shards, then join them")
    words = []
    for name, value in read_header(list_part_files(args.merge)[0])["arguments"].items():
        values = value if isinstance(value, list) else [value] * (value is not True)
        words += [f"--{name}", *map(str, values)]
    defaults = vars(parser().parse_args([]))
    flags = {name: value for name, value in vars(args).items() if value != defaults[name]}
    return argparse.Namespace(**vars(parser().parse_args(words)) | flags)


def read_surface_flags(args: argparse.Namespace) -> SurfaceOptions | None:
    """Returns how surfaces are compared; None if no flag says so."""
    flags = {"spacing": args.spacing, "tolerance": args.nsd_tolerance, "empty_masks": args.empty_masks}
    flags = {name: value for name, value in flags.items() if value is not None}
    return SurfaceOptions(**flags) if flags else None


def refuse_flags(args: argparse.Namespace, flag: str, names: Sequence[str], reason: str) -> None:
    """Raises UserError if a flag of `names` does not have its default, because `flag` would ignore it."""
    defaults = parser().parse_args([])
    changed = [name for name in names if getattr(args, name) != getattr(defaults, name)]
    if flags := ["--from" if name == "source" else f"--{name}" for name in changed]:
        raise UserError(f"{flag} does not go with {shortlist(flags)}, {reason}")
