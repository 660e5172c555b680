"""Training: by default what the released script computes, AdamW with a cosine per epoch on every output's loss."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..atomic import make_folder, sha256
from ..data.batches import Batches
from ..errors import UserError, print_line, reader_killed
from ..families.load import get_network_shape, list_saved_names, save_checkpoint, start_model
from ..families.table import Family, WeightFlag, check_size, find_family
from ..limits import check_numbers
from ..masks.task import MaskTask
from ..prompts.task import PromptTask
from ..recipe import Recipe, Study
from ..runtime.device import is_out_of_memory, pick_device, set_seed, tune_malloc
from ..runtime.parallel import default_workers
from ..runtime.processes import Processes, another_failed
from ..runtime.signals import Signals, ignore_signals
from ..task import RunData, Task, find_metric
from ..weights.weight_files import NO_FILES, WeightFiles, WeightPaths
from .loop import CheckpointWriter, Loop, Progress, Validation
from .metrics_log import MetricsLog
from .run_record import build_run_record, fingerprint, write_run_record
from .speed import Speed, choose_speed
from .state import check_state, lock_run_folder, read_run_state, refuse_other_files
from .trainer import Trainer

TASKS: dict[str, Callable[[Family, Recipe, RunData], Task]] = {"masks": MaskTask, "prompts": PromptTask}


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves and how it goes on.

    Attributes:
        save: `full`, as released, or `trainable`, what differs from the weights that it began with.
        resume: `auto`, from the folder's last.pt if there is one; or such a file.
    """

    folder: Path
    save: str = "full"
    save_minutes: float = 10
    resume: str | None = None
    val_every: int = 1
    best_metric: str | None = None  # none: the task's
    tensorboard: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def state_file(self) -> Path:
        return self.folder / "last.pt" if self.resume in (None, "auto") else Path(self.resume)


@dataclass(frozen=True)
class Hardware:
    device: str | None = None
    workers: int | None = None
    deterministic: bool = False
    speed: Speed = Speed()
    fast: bool = False  # choose for the device what `speed` leaves off, and half precision


def train(
    recipe: Recipe,
    data: RunData,
    keeping: RunFolder,
    machine: Hardware = Hardware(),
    weight_paths: WeightPaths = NO_FILES,
    init_from: Path | None = None,
    study: Study | None = None,
) -> None:
    """Train and leave `<title>-<epoch>.pth` every five epochs and at the end, and what describes the run.

    Nothing is written before all that the user gave has been looked at. UserError where it cannot work.
    """
    processes = Processes.from_environment()
    device = pick_device(machine.device, processes.local_rank)
    if not processes.first:
        processes.connect(device)  # waits until the first process has found nothing wrong
    with processes.silence_other_ranks():
        family = find_family(recipe.model)
        check_run_options(family, recipe, keeping, machine)
        task = TASKS[family.task](family, recipe, data)
        metric = find_metric(keeping.best_metric or task.best, task.metrics)
        if machine.speed.cache != "off" and not task.cached:
            raise UserError(f"--cache keeps resized pairs of images and masks, which {family.title} has no use for")
        model, weight_files = build_model(family, recipe, machine, weight_paths, init_from)
        task.check(study)
        batches = task.batches(processes)
        if keeping.save == "trainable" and not weight_files:
            flags = " and ".join(f"--{source.flag}" for source in family.weight_flags)
            raise UserError(f"--save trainable leaves out what is in {flags}; give what it starts from, or no --save")
        make_folder(keeping.folder)
        speed = machine.speed
        if machine.fast:
            count = len(task.pairs) if task.cached else None
            recipe, speed = choose_speed(device, recipe, speed, count, keeping.folder, processes.local_world)

    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(lock_run_folder(keeping.folder))
        facts = {
            "recipe": dataclasses.asdict(recipe),
            "data": fingerprint(task.pairs),
            "validation_set": fingerprint(task.held_out) if task.held_out else {},
            "base": {flag: f"{base.name}, {base.sha256}" for flag, base in weight_files.items()},
        }
        state = find_resume_state(keeping, facts)
        if state:
            whole = model.state_dict()
            weights = {name: whole[name] for name in list_saved_names(model, weight_files)}
            check_state(keeping.state_file, state, weights, vars(Progress()).keys())
        elif processes.first:
            refuse_other_files(keeping.folder, family.title)
        if processes.first:
            processes.connect(device)
        stack.callback(processes.close)
        log = None
        if processes.first:
            weights = {path.name: sha256(path) for path in (*weight_paths.values(), init_from) if path}
            record = build_run_record(
                keeping.arguments, recipe, device, task.pairs, weights, task.held_out, processes.world
            )
            write_run_record(keeping.folder, record, resumed=state is not None)
            recipe.write(keeping.folder / "recipe.yaml", without=task.unused)
            log = MetricsLog(keeping.folder, keeping.tensorboard, step=state["step"] if state else 0)
            stack.callback(log.close)
        dataset = task.dataset(speed.cache, keeping.folder, processes)
        loop = Loop(
            Trainer(family, task.step, model.to(device), recipe, speed, device, processes),
            batches,
            make_loader(dataset, batches, 0 if speed.cache != "off" else machine.workers, device),
            make_checkpoint_writer(keeping, model, weight_files, facts),
            Validation(task, keeping.val_every, metric) if task.held_out else None,
            log,
            processes,
        )
        if device.type == "cpu":
            tune_malloc()
        if state:
            restore(loop, keeping.state_file, state)
        if state and loop.progress.epoch <= recipe.epoch:
            print_line(f"resumed at {loop.place()}")
        print_line(f"data: {task.words()}, batch {recipe.batch_size}, on {device}")
        try:
            with Signals() as loop.signals:
                loop.start()
                while loop.progress.epoch <= recipe.epoch:
                    loop.train_epoch()
                    loop.end_epoch()
        except RuntimeError as e:
            raise explain_training_memory(e, recipe, device) or another_failed(e) or reader_killed(e) or e from e
        loop.print_best()


def check_run_options(family: Family, recipe: Recipe, keeping: RunFolder, machine: Hardware) -> None:
    check_size(family, recipe.size)
    check_numbers({"workers": machine.workers, "val_every": keeping.val_every, "save_minutes": keeping.save_minutes})
    if keeping.resume not in (None, "auto"):
        read_run_state(keeping.state_file)  # so that a wrong file ends the run before it makes a folder
    if keeping.save not in ("full", "trainable"):
        raise UserError(f"save is {keeping.save}; there are full, trainable")


def build_model(
    family: Family, recipe: Recipe, machine: Hardware, weight_paths: WeightPaths, init_from: Path | None
) -> tuple[nn.Module, WeightFiles]:
    """The model to train, what trains chosen, and the files that its frozen weights are from."""
    if machine.deterministic:
        make_deterministic()
    set_seed(recipe.seed)
    model, weight_files = start_model(recipe.model, get_network_shape(recipe), weight_paths, init_from)
    choose_trained(
        family, model, recipe, [s for s in family.weight_flags if s.flag not in weight_paths and init_from is None]
    )
    print_parts(family, model)
    return model, weight_files


def choose_trained(family: Family, model: nn.Module, recipe: Recipe, random: list[WeightFlag]) -> None:
    """Freeze and free what `finetune` says; without it, the released choice, but for parts that are `random`."""
    frozen = {source.part for source in family.weight_flags}
    if random and recipe.finetune is None:
        flags, parts = (" and ".join(names) for names in zip(*((f"--{s.flag}", s.part) for s in random), strict=True))
        what = "whole network" if len(random) == len(family.weight_flags) else parts
        print_line(f"weights: none given ({flags}), so the {what} trains from random ones")
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


def find_resume_state(keeping: RunFolder, facts: Mapping[str, object]) -> dict[str, object] | None:
    """The state to go on from, of the same run; None to begin. UserError if that would overwrite a run."""
    last = keeping.folder / "last.pt"
    if keeping.resume is None:
        if last.is_file():
            raise UserError(f"{keeping.folder} holds a run; go on with --resume auto, or give another --save_path")
        return None
    path = keeping.state_file
    if keeping.resume == "auto" and not last.is_file():
        return None
    state = read_run_state(path)
    if isinstance(state.get("recipe"), dict):  # written before a field was there: a run did what is its default now
        state["recipe"] = dataclasses.asdict(Recipe()) | state["recipe"]
    for name, now in facts.items():
        if name == "validation_set" and name not in state:  # written before the field was there
            continue
        then = state.get(name) or {}
        if then != now:
            comparable = now and then and isinstance(then, dict)
            keys = [key for key in now if then.get(key) != now[key]] if comparable else []
            differ = ", ".join(f"{key} {then.get(key)} there, {now[key]} now" for key in keys)
            raise UserError(
                f"{path} is of a run with another {name.replace('_', ' ')} ({differ or 'given only once'}); "
                "resume with its own flags, or start anew from a checkpoint of it with --init_from"
            )
    return state


def restore(loop: Loop, path: Path, state: Mapping[str, object]) -> None:
    try:
        loop.restore(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise UserError(
            f"{path} does not fit this run ({type(e).__name__}); start anew, or from a checkpoint with --init_from"
        ) from e


def make_checkpoint_writer(
    keeping: RunFolder, model: nn.Module, weight_files: WeightFiles, facts: Mapping[str, object]
) -> CheckpointWriter:
    def write(stem: str) -> Path:
        path = keeping.folder / f"{stem}{'.pth' if keeping.save == 'full' else '.safetensors'}"
        save_checkpoint(model, path, weight_files)
        return path

    return CheckpointWriter(keeping.folder, keeping.save_minutes, list_saved_names(model, weight_files), facts, write)


def make_loader(dataset: Dataset, batches: Batches, workers: int | None, device: torch.device) -> DataLoader:
    workers = default_workers() if workers is None else workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=lambda batch: batch,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=ignore_signals,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # else each epoch would draw from the process's own
    )


def make_deterministic() -> None:
    """Only operations that give the same bits every time, also on a GPU; some are slower there."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def print_parts(family: Family, model: nn.Module) -> None:
    """A row per part: parameters, and whether they train."""
    print_line(f"{'part':<10}{'parameters':>14}")
    trained = 0
    for part, parameters in family.parts(model).items():
        count = sum(p.numel() for p in parameters)
        trains = any(p.requires_grad for p in parameters)
        trained += count if trains else 0
        print_line(f"{part:<10}{count:>14,}  {'trained' if trains else 'frozen'}")
    total = sum(p.numel() for p in model.parameters())
    print_line(f"{'trained':<10}{trained:>14,}  of {total:,}")


def explain_training_memory(error: RuntimeError, recipe: Recipe, device: torch.device) -> UserError | None:
    """What helps, and what it costs, where memory did not suffice; None for any other error."""
    if not is_out_of_memory(error):
        return None
    half, twice = max(1, recipe.batch_size // 2), 2 * recipe.accumulate
    return UserError(
        f"out of memory on {device} with batches of {recipe.batch_size} at {recipe.size}x{recipe.size}. What helps: "
        "--grad_checkpointing (the trunk is computed twice; same result), --amp bf16 (half precision; close to the "
        f"same), --batch_size {half} --accumulate {twice} (as many images per step; BatchNorm sees {half})"
    )
