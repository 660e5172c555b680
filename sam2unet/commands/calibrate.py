"""Fit the temperature of a checkpoint on validation images, so that its maps are probabilities.

The temperature divides the logits of the model. It is written to calibration.yaml beside the checkpoint, and
test.py --calibrated uses it. The order of the pixels of a map does not change.
"""

import argparse
from pathlib import Path

from ..classes import Classes
from ..cli import Parser, add_mask_values
from ..data.pairs import match
from ..errors import UserError, print_line, shortlist, warn
from ..limits import check_numbers
from ..recipe import MaskRule, make_foreground_rule
from ..slice_view import DEFAULT_VIEW
from ..weights.weight_files import add_weight_flags, read_weight_flags


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", type=Path, required=True, help="<title>-<epoch>.pth, .safetensors or .onnx")
    p.add_argument("--image_path", type=Path, required=True, help="folder of images that were not used for training")
    p.add_argument("--mask_path", type=Path, required=True, help="folder of their masks, with the same names")
    p.add_argument("--classes", type=Path, metavar="FILE", help="the classes of the masks, for a model with classes")
    add_weight_flags(p)
    add_mask_values(p)
    p.add_argument("--seed", type=int, default=0, help="for the choice of pixels; default: 0")
    p.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    return p


def run(args: argparse.Namespace) -> None:
    from ..families.settings import find_recipe
    from ..masks.prediction.calibration import HIGHEST, LOWEST, fit_temperature, write_temperature
    from ..masks.prediction.open import open_predictor, read_model_file
    from ..runtime.device import pick_device

    check_numbers({"seed": args.seed})
    file = read_model_file(args.checkpoint)
    predictor = open_predictor(file, pick_device(args.device), read_weight_flags(args))
    rule: MaskRule = make_foreground_rule(args.mask_threshold, args.foreground)
    if args.classes:
        if rule is not None:
            raise UserError("--classes does not go with --mask_threshold and --foreground; leave them out")
        rule = Classes.read(args.classes)
    if (predictor.classes is not None) != isinstance(rule, Classes):
        kind = "classes; give --classes" if predictor.classes else "no classes; leave out --classes"
        raise UserError(f"{args.checkpoint} has {kind}")
    if predictor.classes and isinstance(rule, Classes) and predictor.classes.names != rule.names:
        raise UserError(f"the classes of {args.checkpoint} are {shortlist(predictor.classes.names)}; give these")
    view = DEFAULT_VIEW if isinstance(file, Path) else find_recipe(file).slice_view
    pairs = match(args.image_path, args.mask_path, view)
    calibration = fit_temperature(predictor, pairs, rule, args.seed)
    print_line(
        f"temperature {calibration.temperature:.3f}: negative log-likelihood of a pixel {calibration.before:.4f} -> "
        f"{calibration.after:.4f}, {len(pairs)} images"
    )
    if not 1.05 * LOWEST < calibration.temperature < 0.95 * HIGHEST:
        warn("the temperature is at its limit, so the maps say little about these masks; are they the right ones?")
    path = file if isinstance(file, Path) else file.path  # in a folder for the hub, this is the file in it
    print_line(f"in {write_temperature(path, calibration, len(pairs))}; test.py --calibrated uses it")
