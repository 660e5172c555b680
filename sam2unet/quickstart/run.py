"""Trains, predicts and judges on the images of the user, in a time that the user chooses."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..atomic import claim_folder, make_folder, write_together
from ..data.images.masks import read_mask
from ..data.images.pictures import draw_overview, pick_evenly
from ..data.images.reading import read_image
from ..data.pairs import Pair, list_images, match
from ..data.volumes.open import is_volume
from ..errors import SomeFailed, UserError, print_line
from ..recipe import ForegroundRule, Recipe, to_foreground_flags
from ..run_command import run_command
from .judge import Judgement, advise, judge_maps
from .page import Story, write_overview_page
from .plan import ENCODER, RECIPES, TESTED, VALIDATION, Plan, make_plan
from .threshold import choose_level, draw_validation_pairs

TITLES = ("photograph", "mask", "map (white: object)")
FILES = (
    ("best.pth, SAM2-UNet-*.pth", "checkpoints: the weights for test.py --checkpoint"),
    ("maps/", "the maps of the held-out images, as probabilities: black is 0, white is 1"),
    ("overview.png", "some of these images with their masks and maps"),
    ("scores/", "the scores of eval.py, which stretches each map from black to white before it compares"),
    ("data/", "links to your images: those for training and those that are held out"),
    ("plan.json, recipe.yaml, run.json", "what the training did"),
    ("last.pt", "the state of the training; you can remove it, but then the training cannot continue"),
)


def run_on_folders(
    images: Path,
    masks: Path,
    folder: Path,
    minutes: float,
    weights: Path | None = None,
    rule: ForegroundRule = None,
    start: Path | None = None,
) -> None:
    """Trains on four fifths of the pairs, predicts every fifth pair, and writes the result as a page into `folder`.

    A second call with the same arguments continues. Raises UserError if it cannot run, and SomeFailed if the maps are
    not better than a constant map.

    Args:
        minutes: the time of the whole run.
        weights: a SAM 2 checkpoint. None: random weights.
        start: the folder that printed paths are relative to. None: the current folder.
    """
    if volume := next(filter(is_volume, list_images(images, volumes=True).values()), None):
        raise UserError(f"{volume} is a volume, and quickstart is for pictures; docs/medical.md has the commands")
    pairs = match(images, masks)
    if len(pairs) < 5:
        raise UserError(f"{len(pairs)} pairs are too few to hold out every fifth; give at least 5")
    if claim_folder(folder, f"a quickstart with {images} and {masks}"):
        print_line(f"{folder} is of an earlier quickstart, which goes on; its model is kept")
    plan = prepare_folder(pairs, folder, minutes, weights)
    for line in plan.describe():
        print_line(line)
    checkpoint = train_plan(plan, folder, weights, rule)
    maps, test = folder / "maps", folder / "data/test"
    inputs = ["--test_image_path", test / "images", "--test_gt_path", test / "masks"]
    run_command("test", "--checkpoint", checkpoint, *inputs, "--save_path", maps, "--no_minmax")
    scores = ["--dataset_name", "held-out", "--pred_path", maps, "--gt_path", test / "masks"]
    run_command("eval", *scores, "--save_dir", folder / "scores", *to_foreground_flags(rule))
    judgement = report_result(plan, folder, checkpoint, weights, rule)
    page, pictures = (os.path.relpath(folder / name, start) for name in ("overview.html", "overview.png"))
    print_line(f"page: {page}, pictures: {pictures}")
    if not judgement.is_better:
        raise SomeFailed(f"the maps are not better than {judgement.constant}; do not use them, see what to do now")


def prepare_folder(pairs: Sequence[Pair], folder: Path, minutes: float, weights: Path | None) -> Plan:
    """Returns the plan of an earlier call, or makes it, with the folders `data/train` and `data/test`."""
    path = folder / "plan.json"
    if path.exists():
        plan = Plan.read(path)
        if (plan.minutes, plan.pretrained) != (minutes, weights is not None):
            raise UserError(
                f"{path} is for --minutes {plan.minutes:g} {'with' if plan.pretrained else 'without'} --hiera_path; "
                "give the same again, or another --save_path"
            )
        return plan
    test = pairs[4::5]
    others = [pair for number, pair in enumerate(pairs, start=1) if number % 5]
    print_line(f"{len(pairs)} pairs, {len(test)} of them (every fifth) held out for the result")
    if weights is None:
        print_line(
            "no pretrained weights: the training starts from random ones. Pretrained weights usually help most: stop "
            "with Ctrl-C, and add --hiera_path sam2.1_hiera_tiny (a name downloads the file once) and another "
            "--save_path"
        )
    plan = make_plan(minutes, len(others), weights)
    with write_together(folder) as part:
        link_pairs(pick_evenly(others, plan.images), part / "data/train")
        link_pairs(pick_evenly(test, TESTED), part / "data/test")
        plan.write(part / "plan.json")
    return plan


def link_pairs(pairs: Sequence[Pair], folder: Path) -> None:
    """Makes links to the files of `pairs` in `images/` and `masks/` of `folder`."""
    for pair in pairs:
        for kind, path in zip(("images", "masks"), pair, strict=True):
            make_folder(folder / kind)
            (folder / kind / path.name).symlink_to(path.resolve())


def train_plan(plan: Plan, folder: Path, weights: Path | None, rule: ForegroundRule) -> Path:
    """Trains, or continues to train. Returns the best checkpoint, without validation the last one."""
    source = ["--hiera_path", weights] if weights else ["--encoder", ENCODER]
    data = folder / "data/train"
    inputs = ["--train_image_path", data / "images", "--train_mask_path", data / "masks", "--save_path", folder]
    flags = [*plan.to_flags(), "--resume", "auto", *to_foreground_flags(rule)]
    run_command("train", "--config", RECIPES[plan.pretrained], *source, *inputs, *flags)
    best = folder / "best.pth"
    return best if best.exists() else max(folder.glob("SAM2-UNet-*.pth"), key=lambda path: path.stat().st_mtime)


def report_result(plan: Plan, folder: Path, checkpoint: Path, weights: Path | None, rule: ForegroundRule) -> Judgement:
    """Prints the result in words, and writes overview.png and overview.html."""
    test, train = (
        match(folder / "data" / part / "images", folder / "data" / part / "masks") for part in ("test", "train")
    )
    seed = Recipe.read(folder / "recipe.yaml").seed
    validation = draw_validation_pairs(train, VALIDATION, seed) if plan.validation else []
    level = choose_level(checkpoint, validation, rule)
    judgement = judge_maps(test, folder / "maps", train, rule, level)
    advice = advise(plan, judgement, read_best_epoch(folder / "metrics.jsonl"))
    draw_maps(test, folder, rule)
    work = [*plan.describe()]
    if validation:
        work.append(f"The same images chose the threshold: above {judgement.threshold:.2f}, a pixel is the object.")
    work.append(f"The checkpoint {checkpoint.name} predicted {len(test)} images that were held out.")
    command = ["python", "test.py", "--checkpoint", checkpoint, "--test_image_path", "FOLDER", "--save_path", "MAPS"]
    story = Story(
        f"{len(train) + len(test)} images, {plan.minutes:g} minutes",
        judgement,
        advice,
        work if weights is None else [*work, f"The pretrained weights are {weights.name}."],
        shlex.join([*map(str, command), "--no_minmax", "--threshold", f"{judgement.threshold:.3f}"]),
        FILES,
    )
    write_overview_page(story, folder / "maps", rule, folder / "overview.html")
    print_result(judgement, advice)
    return judgement


def draw_maps(pairs: Sequence[Pair], folder: Path, rule: ForegroundRule) -> None:
    """Writes `overview.png`: some images with their masks and with their maps in `maps/`."""
    shown = pick_evenly(pairs)
    rows = (
        (read_image(pair.image), read_mask(pair.mask, rule), Image.open(folder / f"maps/{pair.image.stem}.png"))
        for pair in shown
    )
    draw_overview(rows, folder / "overview.png", titles=TITLES, names=[pair.image.name for pair in shown])


def print_result(judgement: Judgement, advice: Sequence[str]) -> None:
    ours, constant = judgement.mean("wrong"), judgement.mean("empty_error")
    print_line()
    ratio = ours / max(constant, 1e-9)
    print_line(f"held-out MAE of the masks {ours:.3f}, best constant map {constant:.3f}, ratio {ratio:.2f}")
    for line in judgement.describe():
        print_line(line)
    print_line("What to do now:")
    for number, line in enumerate(advice, start=1):
        print_line(f"{number}. {line}")


def read_best_epoch(path: Path) -> int | None:
    """Returns the epoch with the lowest MAE of validation in a `metrics.jsonl`; None without validation."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    scores = {line["epoch"]: line["MAE"] for line in lines if line["kind"] == "validation"}
    return min(scores, key=scores.__getitem__) if scores else None
