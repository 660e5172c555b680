"""The steps of a study: checks before the training; then for each seed training, prediction and scoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.checks.check import check_masks
from ..data.pairs import Pair, list_images, match
from ..data.volumes.slices import Source
from ..data.volumes.write import name_map_file
from ..errors import UserError, print_line, shortlist, warn
from ..families.table import find_family
from ..recipe import ForegroundRule, Recipe, Study, to_foreground_flags
from ..run_command import run_command
from ..scoring.evaluate import ScoreOutputs
from ..scoring.expected import read_figures


@dataclass(frozen=True)
class StudyInputs:
    """The inputs that all seeds of a study share."""

    config: Path
    study: Study
    root: Path  # has a folder with images/ and masks/ for each data set
    rule: ForegroundRule
    # weights and device: flags of train.py and test.py; others: more flags of train.py
    weights: Sequence[object] = ()
    device: Sequence[str] = ()
    others: Sequence[str] = ()
    command: str = ""  # for the certificate

    @property
    def train(self) -> list[Path]:
        return [self.root / name for name in self.study.train]

    @property
    def test(self) -> list[Path]:
        return [self.root / name for name in self.study.test]


@dataclass(frozen=True)
class SeedRun:
    """A run with one seed that is complete."""

    folder: Path
    recipe: Recipe  # with the flags of train.py
    title: str  # of the model
    checkpoint: Path
    maps: Sequence[Path]  # the folder of maps of each test set


def check_study(inputs: StudyInputs) -> None:
    """Raises UserError for everything that would end the run after the training."""
    config, study, test = inputs.config, inputs.study, inputs.test
    if not study.train or not study.test:
        raise UserError(f"{config} does not name its data; add train: [NAME, ...] and test: [NAME, ...]")
    ScoreOutputs(study.protocol)
    if study.expect is not None:
        read_figures(study.expect)
    names = [path.name for path in test]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{config}: two data sets in test are called {twice[0]}, so one would overwrite the maps of the other; "
            "give one another name, for example with a symbolic link"
        )
    refuse_missing([*inputs.train, *test])
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
        check_masks([pair.mask for pair in pairs], inputs.rule)


def refuse_missing(folders: Sequence[Path]) -> None:
    """Raises UserError if data sets are missing or incomplete. The message names all of them."""
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


def run_seed(inputs: StudyInputs, folder: Path, seed: int) -> SeedRun:
    """Trains, predicts all test sets and scores them. Continues a run that stopped."""
    coding = to_foreground_flags(inputs.rule)
    sources = ["--train_image_path", *(path / "images" for path in inputs.train)]
    sources += ["--train_mask_path", *(path / "masks" for path in inputs.train)]
    resume = ["--save_path", folder, "--resume", "auto", "--seed", seed]
    flags = [*inputs.weights, *sources, *resume, *coding, *inputs.device, *inputs.others]
    run_command("train", "--config", inputs.config, *flags)
    trained, title, checkpoint, base = find_checkpoint(folder, inputs.weights)

    maps = [folder / "maps" / path.name for path in inputs.test]
    for path, target in zip(inputs.test, maps, strict=True):
        pairs = match(path / "images", path / "masks")
        if is_complete(pairs, target, checkpoint):
            print_line()
            print_line(f"{path.name}: all {len(pairs)} maps are in {target}")
            continue
        sources = ["--test_image_path", path / "images", "--test_gt_path", path / "masks"]
        run_command("test", "--checkpoint", checkpoint, *base, *sources, "--save_path", target, *inputs.device)

    study, masks = inputs.study, [path / "masks" for path in inputs.test]
    sources = ["--dataset_name", *study.test, "--pred_path", *maps, "--gt_path", *masks]
    columns = ["--protocol", study.protocol, *(["--expect", study.expect] if study.expect else [])]
    run_command("eval", *sources, *columns, "--method", title, "--save_dir", folder / "scores", *coding)
    return SeedRun(folder, trained, title, checkpoint, maps)


def find_checkpoint(folder: Path, weights: Sequence[object]) -> tuple[Recipe, str, Path, Sequence[object]]:
    """Returns what a complete run was: its recipe, the title of its model, its last checkpoint, and flags of weights.

    The flags are those of `weights` if the checkpoint does not have all weights itself.
    """
    trained = Recipe.read(folder / "recipe.yaml")  # includes the flags of train.py
    title = find_family(trained.model).title
    checkpoint = folder / f"{title}-{trained.epoch}.pth"
    if checkpoint.is_file():
        return trained, title, checkpoint, []
    return trained, title, checkpoint.with_suffix(".safetensors"), weights  # --save trainable


def is_complete(pairs: Sequence[Pair], maps: Path, checkpoint: Path) -> bool:
    """Returns whether each pair has a map that is newer than the checkpoint and its files.

    A map is written completely or not at all.
    """
    for pair in pairs:
        path = maps / name_map_file(pair.image)
        if not path.is_file() or modified_ns(path) < max(modified_ns(source) for source in (checkpoint, *pair)):
            return False
    return True


def modified_ns(path: Source) -> int:
    return path.stat().st_mtime_ns
