"""A cross-validation: each fold is predicted by a model that was trained on the others. All are scored together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..atomic import claim_folder, read_json, write_atomic
from ..classes import Classes
from ..data.folds import assign_folds
from ..data.pairs import Pair, list_files, match, read_path_list
from ..data.volumes.open import is_volume
from ..data.volumes.slices import Slice, find_file
from ..data.volumes.write import name_map_file
from ..errors import UserError, print_line, print_lines
from ..recipe import MaskRule, Recipe, to_foreground_flags
from ..run_command import run_command
from ..scoring.aggregate import MethodResult
from ..scoring.classes.columns import CLASS_PROTOCOLS, define_class_columns, list_columns
from ..scoring.columns import METRICS, PROTOCOLS
from ..scoring.evaluate import ScoreOutputs, choose_surfaces
from ..scoring.pixels.medical_scores import SurfaceOptions
from ..scoring.tables import csv_files
from ..scoring.tables import score_tables as tables
from ..task import MAX_FOLDS
from .study import find_checkpoint, is_complete

CONTENT = "a cross-validation"  # the marker of the folder
ALL = "all folds"
SURFACE_PROTOCOLS = ("medical", "surface")  # which eval.py can score in 3D


@dataclass(frozen=True)
class CrossValidation:
    """What the user gives.

    Attributes:
        images, masks: the folders.
        folds, group: see `data.folds.assign_folds`.
        classes: the file with the classes, or None.
        protocol: the columns of the table; None: the first of eval.py, and for volumes `medical`.
        weights, device: flags of train.py and test.py.
        training, scoring: more flags of train.py, and of eval.py for `surfaces`.
        surfaces: how eval.py compares surfaces; None if no flag says so.
        report: also write the report.
    """

    images: Path
    masks: Path
    folds: int
    group: str | None = None
    classes: Path | None = None
    protocol: str | None = None
    weights: Sequence[object] = ()
    device: Sequence[str] = ()
    training: Sequence[str] = ()
    scoring: Sequence[object] = ()
    surfaces: SurfaceOptions | None = None
    report: bool = False


def run(study: CrossValidation, folder: Path) -> None:
    """Trains and predicts each fold, or continues; scores all maps, and prints a table with a row for each fold.

    Writes `folds.md` and `folds.csv` into `folder`, and the files of eval.py into `folder`/scores.
    """
    study = check_scoring(study)
    claim_folder(folder, CONTENT)
    folders = [folder / f"fold_{fold}" for fold in range(1, study.folds + 1)]
    for fold, fold_folder in enumerate(folders, start=1):
        print_line()
        print_line(f"fold {fold} of {study.folds}, in {fold_folder}")
        run_fold(study, fold_folder, fold)
    recipe, title, *_ = find_checkpoint(folders[0], study.weights)
    lists = [[path / f"{kind}.txt" for path in folders] for kind in ("map", "mask")]
    for kind in lists:
        write_list(folder / kind[0].name, [file for path in kind for file in read_path_list(path)])
    maps, masks = ([*kind, folder / kind[0].name] for kind in lists)
    names = [*(f"fold {fold}" for fold in range(1, study.folds + 1)), ALL]
    sources = ["--dataset_name", *names, "--pred_path", *maps, "--gt_path", *masks, "--method", title]
    coding = list_mask_flags(recipe.mask_rule, study.classes or folder / "classes.yaml")
    columns = ["--protocol", study.protocol] if study.protocol else []
    columns += ["--report"] * study.report
    run_command("eval", *sources, *coding, *columns, *study.scoring, "--save_dir", folder / "scores")
    write_table(folder, names, title, recipe, study.protocol)


def check_scoring(study: CrossValidation) -> CrossValidation:
    """Returns the study, with a protocol for volumes. Raises UserError for what would end the run after training."""
    if not 2 <= study.folds <= MAX_FOLDS:
        raise UserError(f"--folds is {study.folds}; it must be from 2 to {MAX_FOLDS}")
    protocols = tuple(CLASS_PROTOCOLS if study.classes else PROTOCOLS)
    are_volumes = any(map(is_volume, list_files(study.images, volumes=True)))
    if study.protocol is None and are_volumes:
        study = replace(study, protocol="medical")  # volumes are scored in 3D
    protocol = study.protocol or protocols[0]
    ScoreOutputs(protocol, protocols=protocols)  # refuses an unknown protocol
    choose_surfaces(study.surfaces, protocol in SURFACE_PROTOCOLS)
    if are_volumes and study.report:
        raise UserError("--report shows images; leave it out for volumes")
    if are_volumes and not study.classes and protocol not in SURFACE_PROTOCOLS:
        raise UserError(f"volumes need --protocol {' or '.join(SURFACE_PROTOCOLS)}, not {protocol}")
    return study


def list_mask_flags(rule: MaskRule, file: Path) -> list[object]:
    """Returns the flags of eval.py for the values of the masks. Writes classes into `file` if it does not exist."""
    if not isinstance(rule, Classes):
        return [*to_foreground_flags(rule)]
    if not file.exists():  # the classes are in the file of --config
        with write_atomic(file) as target:
            target.write(rule.to_yaml().encode())
    return ["--classes", file]


def run_fold(study: CrossValidation, folder: Path, fold: int) -> None:
    """Trains on all folds but one, and predicts that fold with the last checkpoint. Continues a run that stopped.

    Writes lists of the images, the masks and the maps of the fold.
    """
    sources = ["--train_image_path", study.images, "--train_mask_path", study.masks]
    split = ["--folds", study.folds, "--fold", fold, *([] if study.group is None else ["--group", study.group])]
    split += ["--classes", study.classes] if study.classes else []
    resume = ["--save_path", folder, "--resume", "auto"]
    run_command("train", *sources, *split, *resume, *study.weights, *study.device, *study.training)
    recipe, _, checkpoint, weights = find_checkpoint(folder, study.weights)
    pairs = match(study.images, study.masks, recipe.slice_view)
    places = assign_folds(pairs, study.folds, recipe.seed, study.group, recipe.mask_rule)
    pairs = [pair for pair, place in zip(pairs, places, strict=True) if place == fold]
    maps = folder / "maps"
    for kind in Pair._fields:
        write_list(folder / f"{kind}.txt", [find_file(getattr(pair, kind)) for pair in pairs])
    if is_complete(pairs, maps, checkpoint):
        print_line()
        print_line(f"all {len(pairs)} maps are in {maps}")
    else:
        sources = ["--test_image_path", folder / "image.txt"]
        if not has_volumes(pairs):  # the maps of volumes keep their size
            sources += ["--test_gt_path", folder / "mask.txt"]
        run_command("test", "--checkpoint", checkpoint, *weights, *sources, "--save_path", maps, *study.device)
    write_list(folder / "map.txt", [maps / name_map_file(pair.image) for pair in pairs])


def write_list(file: Path, paths: Sequence[Path]) -> None:
    with write_atomic(file) as stream:
        lines = dict.fromkeys(f"{path.absolute()}\n" for path in paths)  # the slices of a volume have one file
        stream.write("".join(lines).encode(errors="surrogateescape"))


def has_volumes(pairs: Sequence[Pair]) -> bool:
    return any(isinstance(pair.image, Slice) and pair.image.index is not None for pair in pairs)


def write_table(folder: Path, names: Sequence[str], title: str, recipe: Recipe, protocol: str | None) -> None:
    """Prints and writes a table with each fold, the mean and the standard deviation of the folds, and all folds."""
    metrics, columns = METRICS, list(PROTOCOLS[protocol or "released"])
    if recipe.classes:
        metrics = define_class_columns(recipe.classes.names, surfaces=True)
        columns = list_columns(protocol or next(iter(CLASS_PROTOCOLS)), recipe.classes.names)
    results = read_json(folder / "scores/results.json")
    counts = {name: results["files"][name][title]["images"] for name in names}
    scores = {name: results["datasets"][name][title] for name in names}
    values = np.array([[scores[name][key] for key in columns] for name in names], float)  # None becomes NaN
    rows = dict(zip(names[:-1], values, strict=False))
    mean, std = np.nanmean(values[:-1], axis=0), np.nanstd(values[:-1], axis=0, ddof=1)
    rows |= {"mean of folds": mean, "standard deviation": std, ALL: values[-1]}
    table = [
        MethodResult(name, title, [""] * counts.get(name, counts[ALL]), table=dict(zip(columns, row, strict=True)))
        for name, row in rows.items()
    ]
    for name, content in (
        ("folds.md", tables.format_markdown(table, columns, metrics)),
        ("folds.csv", csv_files.csv_table(table, columns)),
    ):
        with write_atomic(folder / name) as file:
            file.write(content.encode())
    print_line()
    print_lines(tables.format_table(table, columns, metrics=metrics))
    print_line()
    print_line(f"in {folder}: folds.md, folds.csv, scores/")
