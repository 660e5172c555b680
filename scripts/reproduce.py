"""Reproduces a published result of configs/: trains, predicts all test sets and scores them.

The data root has a folder with images/ and masks/ for each data set that the file names. Symbolic links work. The
training part of a data set has its own name: COD10K-train beside COD10K. If the command stops, run it again: it
continues.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sam2unet.cli import Parser, add_mask_values, main
from sam2unet.data.check import check_masks
from sam2unet.data.pairs import Pair, list_images, match
from sam2unet.errors import UserError, print_line, shortlist, warn
from sam2unet.families.table import find_family
from sam2unet.recipe import ForegroundRule, Recipe, Study, make_foreground_rule, to_foreground_flags
from sam2unet.run_script import run_script
from sam2unet.scoring.evaluate import ScoreOutputs
from sam2unet.scoring.expected import read_figures
from sam2unet.weights.weight_files import add_weight_flags, read_weight_flags, to_flags


class PassThroughParser(Parser):
    """A parser that collects unknown flags in `others`."""

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        known, others = self.parse_known_args(args, namespace)
        known.others = others
        return known


def parser() -> argparse.ArgumentParser:
    p = PassThroughParser(
        description=__doc__,
        usage="%(prog)s CONFIG --data_root DIR [--save_path DIR] [--hiera_path FILE ...] [flags of train.py]",
        epilog="train.py gets all other flags, for example --epoch 20 or --batch_size 4.",
    )
    p.add_argument(
        "config", type=Path, metavar="CONFIG", help="recipe that names its data sets, for example configs/polyp.yaml"
    )
    p.add_argument(
        "--data_root", type=Path, required=True, help="folder with NAME/images and NAME/masks for each data set"
    )
    p.add_argument(
        "--save_path", type=Path, help="folder for checkpoints, maps/ and scores/; default: runs/<name of CONFIG>"
    )
    add_weight_flags(p, " to start from; the published models start from large weights, not from SAM 2.1")
    add_mask_values(p)
    p.add_argument("--device", help="device for training and prediction; default: a GPU if there is one")
    return p


def run(args: argparse.Namespace) -> None:
    study = Study.read(args.config)
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    mask_values = {"foreground": rule} if args.foreground else {"mask_threshold": rule}
    rule = Recipe.read(args.config, **mask_values).mask_rule
    folder = args.save_path or Path("runs", args.config.stem)
    train, test = ([args.data_root / name for name in names] for names in (study.train, study.test))
    sets = check(args.config, study, train, test, rule)

    coding = to_foreground_flags(rule)
    device = [] if args.device is None else ["--device", args.device]
    weights = to_flags(read_weight_flags(args))
    inputs = ["--train_image_path", *(path / "images" for path in train)]
    inputs += ["--train_mask_path", *(path / "masks" for path in train)]
    resume = ["--save_path", folder, "--resume", "auto"]
    run_script("train.py", "--config", args.config, *weights, *inputs, *resume, *coding, *device, *args.others)
    trained = Recipe.read(folder / "recipe.yaml")  # includes the flags of train.py
    title = find_family(trained.model).title
    checkpoint, base = folder / f"{title}-{trained.epoch}.pth", []
    if not checkpoint.is_file():  # --save trainable: the other weights are in the file that the training started from
        checkpoint, base = checkpoint.with_suffix(".safetensors"), weights

    maps = [folder / "maps" / path.name for path in test]
    for path, pairs, target in zip(test, sets, maps, strict=True):
        if is_complete(pairs, target, checkpoint):
            print_line()
            print_line(f"{path.name}: all {len(pairs)} maps are in {target}")
            continue
        inputs = ["--test_image_path", path / "images", "--test_gt_path", path / "masks"]
        run_script("test.py", "--checkpoint", checkpoint, *base, *inputs, "--save_path", target, *device)

    inputs = ["--dataset_name", *study.test, "--pred_path", *maps, "--gt_path", *(path / "masks" for path in test)]
    columns = ["--protocol", study.protocol, *(["--expect", study.expect] if study.expect else [])]
    run_script("eval.py", *inputs, *columns, "--method", title, "--save_dir", folder / "scores", *coding)


def check(
    config: Path, study: Study, train: Sequence[Path], test: Sequence[Path], mask_threshold: ForegroundRule
) -> list[list[Pair]]:
    """Returns the pairs of each test set.

    Raises:
        UserError: something would end the run after the training.
    """
    if not train or not test:
        raise UserError(f"{config} does not name its data; add train: [NAME, ...] and test: [NAME, ...]")
    ScoreOutputs(study.protocol)
    if study.expect is not None:
        read_figures(study.expect)
    refuse_missing([*train, *test])
    sets = [match(path / "images", path / "masks") for path in test]
    for path, pairs in zip(test, sets, strict=True):
        if spare := set(list_images(path / "masks")) - {pair.image.stem for pair in pairs}:
            raise UserError(
                f"{len(spare)} masks in {path / 'masks'} have no image, and a score needs every mask's map: "
                f"{shortlist(sorted(spare))}; add the images or remove the masks"
            )
    for path, pairs, count in zip(test, sets, study.test_count or [None] * len(test), strict=True):
        if count not in (None, len(pairs)):
            warn(f"{path.name} has {len(pairs)} pairs; {count} were published")
    for pairs in sets:
        check_masks([pair.mask for pair in pairs], mask_threshold)
    return sets


def refuse_missing(folders: Sequence[Path]) -> None:
    """UserError if data sets are missing or incomplete. The message names all of them."""
    missing = []
    for folder in folders:
        absent = [kind for kind in ("images", "masks") if not (folder / kind).is_dir()]
        if absent:
            missing.append(folder.name if len(absent) == 2 else f"{folder.name}/{absent[0]}")
    if missing:
        root = folders[0].parent
        raise UserError(
            f"not in {root}: {', '.join(missing)}; wanted are NAME/images and NAME/masks for "
            f"{', '.join(folder.name for folder in folders)}"
        )


def is_complete(pairs: Sequence[Pair], maps: Path, checkpoint: Path) -> bool:
    """Returns whether each pair has a map that is newer than the checkpoint and its files.

    A map is written completely or not at all.
    """
    for pair in pairs:
        path = maps / f"{pair.image.stem}.png"
        if not path.is_file() or modified_ns(path) < max(modified_ns(source) for source in (checkpoint, *pair)):
            return False
    return True


def modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


if __name__ == "__main__":
    main(parser, run)
