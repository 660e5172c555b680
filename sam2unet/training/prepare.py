"""The first phase of a training run: check everything that the user gave, and build what the run needs."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..atomic import known_digests, make_digest_key, make_folder, sha256
from ..data.batches import Batches
from ..errors import UserError, print_line, warn
from ..families.load import get_network_shape, start_model
from ..families.table import Family, WeightFlag, check_size, find_family
from ..limits import check_numbers
from ..masks.class_task import ClassTask
from ..masks.task import MaskTask
from ..prompts.task import PromptTask
from ..recipe import Recipe, Study
from ..runtime.device import set_seed
from ..runtime.processes import Processes
from ..task import RunData, Task, find_metric
from ..weights.weight_files import WeightFiles, WeightPaths
from .run_record import fingerprint
from .speed import Speed, choose_speed
from .state import read_run_state

TASKS: dict[str, type[MaskTask] | type[PromptTask]] = {"masks": MaskTask, "prompts": PromptTask}


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and which files the run writes there."""

    folder: Path
    # "full" writes checkpoints with all weights, as the released code does. "trainable" leaves out the weights that
    # are unchanged in the files that the run starts from.
    save: str = "full"
    save_minutes: float = 10  # the longest time between two versions of `last.pt`
    keep: int | None = None  # number of numbered checkpoints, and of validation pictures, that stay. None keeps all.
    # "auto" continues from `last.pt` of this folder if it exists, a path from that file. None starts a new run.
    resume: str | None = None
    val_every: int = 1  # number of epochs between validations
    # key or title of the metric that selects the best epoch. None selects the default of the task.
    best_metric: str | None = None
    tensorboard: bool = False  # also write event files for TensorBoard
    arguments: Mapping[str, object] = field(default_factory=dict)  # the command line, for `run.json`

    @property
    def state_file(self) -> Path:
        return self.folder / "last.pt" if self.resume in (None, "auto") else Path(self.resume)


@dataclass(frozen=True)
class Hardware:
    """How a run uses the computer."""

    device: str | None = None  # name of a PyTorch device. None uses a GPU if there is one.
    workers: int | None = None  # number of processes that read images. None uses one per core, at most 8.
    deterministic: bool = False  # compute the same bits every time, also on a GPU
    speed: Speed = Speed()
    fast: bool = False  # turn on half precision and the options of `speed` that suit the device


@dataclass(frozen=True)
class PreparedRun:
    """A run whose inputs are checked and whose model is built. Nothing is written yet, but the folder exists."""

    recipe: Recipe
    run_folder: RunFolder
    hardware: Hardware
    processes: Processes
    device: torch.device
    family: Family
    task: Task
    metric: str  # key of the metric that selects the best epoch
    batches: Batches
    model: nn.Module  # on the CPU
    weight_files: WeightFiles  # the files that hold the frozen weights of `model`
    init_files: tuple[Path, ...]  # all files that weights were read from
    # recipe, data, metric and weight files by name. A run that resumes must have the same facts.
    facts: Mapping[str, object]


def prepare_run(
    recipe: Recipe,
    data: RunData,
    run_folder: RunFolder,
    hardware: Hardware,
    weight_paths: WeightPaths,
    init_from: Path | None,
    study: Study | None,
    processes: Processes,
    device: torch.device,
) -> PreparedRun:
    """Checks all inputs before anything is written. Raises UserError for an input that cannot work.

    The connected processes share the work: no process reads a file to check it, or hashes it, that another one reads.
    """
    with processes.silence_other_ranks():
        family = find_family(recipe.model)
        check_run_options(family, recipe, run_folder, hardware)
        task_type = ClassTask if recipe.classes and family.task == "masks" else TASKS[family.task]
        task: Task = task_type(family, recipe, data)
        metric = find_metric(run_folder.best_metric or task.best_metric, task.metrics)
        if run_folder.best_metric and not task.held_out:
            warn("there are no validation images, so --best_metric has no effect")
        init_files = tuple(path for path in (*weight_paths.values(), init_from) if path)
        share_digests(init_files, processes)
        model, weight_files = build_model(family, recipe, hardware, weight_paths, init_from)
        sizes = task.check(study, processes)
        recipe = task.recipe  # with the class weights that the masks give
        batches = task.batches(processes)
        if run_folder.save == "trainable" and not weight_files:
            flags = " and ".join(f"--{flag.flag}" for flag in family.weight_flags)
            raise UserError(f"--save trainable leaves out the weights of {flags}; give that flag, or no --save")
        make_folder(run_folder.folder)
        if hardware.fast:
            count = len(task.pairs) if task.has_cache else None
            folder, copies = run_folder.folder, processes.local_world
            choose = partial(choose_speed, device, recipe, hardware.speed, count, folder, copies)
            recipe, speed = processes.compute_once(choose)
            hardware = replace(hardware, speed=speed)
        is_split = bool(task.index_facts and task.index_facts["split"])
        has_validation_set = task.held_out and not is_split
        facts = {
            "recipe": dataclasses.asdict(recipe),
            "data": task.index_facts or fingerprint(task.pairs, sizes[0], processes),
            "validation_set": fingerprint(task.held_out, sizes[1], processes) if has_validation_set else {},
            "best_metric": {"--best_metric": task.metrics[metric].title} if task.held_out else {},
            "base": {flag: f"{file.name}, {file.sha256}" for flag, file in weight_files.items()},
        }
    parts = (family, task, metric, batches, model, weight_files, init_files, facts)
    return PreparedRun(recipe, run_folder, hardware, processes, device, *parts)


def share_digests(files: Sequence[Path], processes: Processes) -> None:
    """Computes the SHA-256 of each file in one of the processes. After that `sha256` knows it in all processes."""
    digests = {}
    for path in files[processes.rank :: processes.world]:
        with suppress(OSError):  # reading the weights tells the reason
            digests[make_digest_key(path)] = sha256(path)
    for part in processes.gather(digests):
        known_digests.update(part)


def check_run_options(family: Family, recipe: Recipe, run_folder: RunFolder, hardware: Hardware) -> None:
    check_size(family, recipe.size)
    check_numbers(vars(run_folder) | vars(hardware))
    if run_folder.resume not in (None, "auto"):
        read_run_state(run_folder.state_file)  # a wrong file ends the run before the run makes a folder
    if run_folder.save not in ("full", "trainable"):
        raise UserError(f"save is {run_folder.save}; there are full, trainable")
    if hardware.speed.cache != "off" and not TASKS[family.task].has_cache:
        raise UserError(f"--cache keeps resized pairs of images and masks, which {family.title} does not use")


def build_model(
    family: Family, recipe: Recipe, hardware: Hardware, weight_paths: WeightPaths, init_from: Path | None
) -> tuple[nn.Module, WeightFiles]:
    """Returns the model, in which only the trained parts need gradients, and the files with its frozen weights."""
    if hardware.deterministic:  # use only operations that give the same bits every time; on a GPU some are slower
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    set_seed(recipe.seed)
    model, weight_files = start_model(recipe.model, get_network_shape(family, recipe), weight_paths, init_from, recipe)
    random = [flag for flag in family.weight_flags if flag.flag not in weight_paths and init_from is None]
    choose_trained(family, model, recipe, random)
    print_parts(family, model)
    return model, weight_files


def choose_trained(family: Family, model: nn.Module, recipe: Recipe, random: list[WeightFlag]) -> None:
    """Sets which parts of the model are trained: those of `recipe.finetune`.

    Without `finetune`, these are the released parts, and the parts in `random`, which have no weights yet.
    """
    frozen = {source.part for source in family.weight_flags}
    if random and recipe.finetune is None:
        flags, parts = (" and ".join(names) for names in zip(*((f"--{s.flag}", s.part) for s in random), strict=True))
        what = "whole network" if len(random) == len(family.weight_flags) else parts
        print_line(f"weights: no file given ({flags}), so the {what} trains from random weights")
        frozen -= {source.part for source in random}
    elif recipe.finetune == "full":
        frozen = set()
    elif recipe.finetune == "decoder":
        frozen.add("adapters")
    if not recipe.train_points:
        frozen.add("points")
    for part, parameters in family.parts(model).items():
        for parameter in parameters:
            parameter.requires_grad_(part not in frozen)


def print_parts(family: Family, model: nn.Module) -> None:
    """Prints one line per part: its number of parameters, and whether it is trained."""
    print_line(f"{'part':<10}{'parameters':>14}")
    trained = 0
    for part, parameters in family.parts(model).items():
        count = sum(p.numel() for p in parameters)
        trains = any(p.requires_grad for p in parameters)
        trained += count if trains else 0
        print_line(f"{part:<10}{count:>14,}  {'trained' if trains else 'frozen'}")
    total = sum(p.numel() for p in model.parameters())
    print_line(f"{'trained':<10}{trained:>14,}  of {total:,}")
