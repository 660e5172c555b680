"""Converts a .pth with all weights to a .safetensors with only the trained weights, or back. Nothing is lost.

With --hub, it makes a folder for the Hugging Face hub with all weights, their sizes, and a model card.
With --trust_pickle, it keeps only the weights of a .pth that also contains Python objects, such as an optimizer.
"""

import argparse
from pathlib import Path

from ..atomic import refuse_existing
from ..cli import Parser
from ..errors import UserError, print_line, warn
from ..weights.weight_files import WeightPaths, add_weight_flags, read_weight_flags


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, metavar="SOURCE", help="the file to convert: a .pth or a .safetensors")
    p.add_argument(
        "target", type=Path, metavar="TARGET", nargs="?", help="the file to write: the other one of the two formats"
    )
    add_weight_flags(p, " that SOURCE was trained from; its weights are compared with SOURCE")
    p.add_argument("--hub", type=Path, metavar="DIR", help="a new folder for the hub, instead of TARGET")
    p.add_argument(
        "--trust_pickle",
        action="store_true",
        help="also read a SOURCE with Python objects. This can run any code in the file, so use it only for files that "
        "you trust. TARGET may also be a .pth then",
    )
    p.add_argument("--scores", type=Path, metavar="FILE", help="results.json of eval.py, for the model card of --hub")
    return p


def run(args: argparse.Namespace) -> None:
    from ..export.hub_folder import write_folder
    from ..families.load import assemble, read_checkpoint

    if (args.target is None) == (args.hub is None):
        raise UserError("give either TARGET or --hub DIR")
    if args.trust_pickle:
        warn(f"--trust_pickle: reading {args.source} runs any code in the file")
    if args.hub is not None:
        print_line(f"reading {args.source}")
        found = read_checkpoint(args.source, args.trust_pickle)
        model, weight_files = assemble(found, read_weight_flags(args))
        print_line(f"writing {args.hub}")
        write_folder(args.hub, found, model, weight_files, args.scores)
        print_line(f"{args.hub}: {', '.join(sorted(file.name for file in args.hub.iterdir()))}")
        return
    if args.scores is not None:
        raise UserError("--scores goes with --hub, whose model card shows them")
    convert_file(args.source, args.target, read_weight_flags(args), args.trust_pickle)


def convert_file(source: Path, target: Path, weight_paths: WeightPaths, trust_pickle: bool = False) -> None:
    from ..families.load import assemble, read_checkpoint, save_checkpoint
    from ..families.settings import get_settings, locate_recipe
    from ..weights.formats import is_safetensors

    kind = ".safetensors" if is_safetensors(source) else ".pth"
    if {kind, target.suffix} != {".pth", ".safetensors"} and not (trust_pickle and target.suffix == ".pth"):
        raise UserError(f"{source.name} to {target.name}: one must be a .pth, the other a .safetensors")
    if target.exists() and any(p.exists() and p.samefile(target) for p in (source, *weight_paths.values())):
        raise UserError(f"{target} is the file to read from; give another name to write to")
    refuse_existing(target)
    print_line(f"reading {source}")
    found = read_checkpoint(source, trust_pickle)
    if target.suffix == ".safetensors" and not weight_paths:
        flags = " and ".join(f"--{source.flag} FILE" for source in found.family.weight_flags)
        raise UserError(f"give {flags}, the weights that {source} was trained from, to leave them out")
    model, weight_files = assemble(found, weight_paths)
    print_line(f"writing {target}")
    save_checkpoint(model, target, weight_files, recipe=get_settings(model) if locate_recipe(found) else None)
    print_line(f"{target}: {target.stat().st_size:,} bytes; {source}: {source.stat().st_size:,}")
