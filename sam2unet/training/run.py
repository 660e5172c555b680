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

from ..config import Recipe, Study
from ..data.batches import Batches
from ..errors import UserError, print_line, reader_killed
from ..families import Family, Source, check_size, find_family, options_of, own_names, save_checkpoint, start_model
from ..files import make_folder, sha256
from ..limits import check_numbers
from ..sources import NONE, Bases, Sources
from .log import Log
from .loop import Loop, Progress, Saving, Validation
from .mask_task import MaskTask
from .processes import Processes, another_failed
from .prompt_task import PromptTask
from .record import fingerprint, run_record, write_record
from .runstate import check_state, only_run_in, read_state, refuse_other_files
from .runtime import default_workers, keep_freed_memory, out_of_memory, pick_device, set_seed
from .signals import apart_from_signals
from .speed import Speed, chosen_for
from .task import Data, Task, metric_named
from .trainer import Trainer

TASKS: dict[str, Callable[[Family, Recipe, Data], Task]] = {"masks": MaskTask, "prompts": PromptTask}


@dataclass(frozen=True)
class Keeping:
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
class Machine:
    device: str | None = None
    workers: int | None = None
    deterministic: bool = False
    speed: Speed = Speed()
    fast: bool = False  # choose for the device what `speed` leaves off, and half precision


def run(
    recipe: Recipe,
    data: Data,
    keeping: Keeping,
    machine: Machine = Machine(),
    sources: Sources = NONE,
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
    with processes.one_voice():
        family = find_family(recipe.model)
        check_options(family, recipe, keeping, machine)
        task = TASKS[family.task](family, recipe, data)
        metric = metric_named(keeping.best_metric or task.best, task.metrics)
        if machine.speed.cache != "off" and not task.cached:
            raise UserError(f"--cache keeps resized pairs of images and masks, which {family.title} has no use for")
        model, bases = built(family, recipe, machine, sources, init_from)
        task.check(study)
        batches = task.batches(processes)
        if keeping.save == "trainable" and not bases:
            flags = " and ".join(f"--{source.flag}" for source in family.sources)
            raise UserError(f"--save trainable leaves out what is in {flags}; give what it starts from, or no --save")
        make_folder(keeping.folder)
        speed = machine.speed
        if machine.fast:
            count = len(task.pairs) if task.cached else None
            recipe, speed = chosen_for(device, recipe, speed, count, keeping.folder, processes.local_world)

    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(only_run_in(keeping.folder))
        facts = {
            "recipe": dataclasses.asdict(recipe),
            "data": fingerprint(task.pairs),
            "validation_set": fingerprint(task.held_out) if task.held_out else {},
            "base": {flag: f"{base.name}, {base.sha256}" for flag, base in bases.items()},
        }
        state = state_to_resume(keeping, facts)
        if state:
            whole = model.state_dict()
            weights = {name: whole[name] for name in own_names(model, bases)}
            check_state(keeping.state_file, state, weights, vars(Progress()).keys())
        elif processes.first:
            refuse_other_files(keeping.folder, family.title)
        if processes.first:
            processes.connect(device)
        stack.callback(processes.close)
        log = None
        if processes.first:
            weights = {path.name: sha256(path) for path in (*sources.values(), init_from) if path}
            record = run_record(keeping.arguments, recipe, device, task.pairs, weights, task.held_out, processes.world)
            write_record(keeping.folder, record, resumed=state is not None)
            recipe.write(keeping.folder / "recipe.yaml", without=task.unused)
            log = Log(keeping.folder, keeping.tensorboard, step=state["step"] if state else 0)
            stack.callback(log.close)
        dataset = task.dataset(speed.cache, keeping.folder, processes)
        loop = Loop(
            Trainer(family, model.to(device), recipe, speed, device, processes),
            batches,
            loader_of(dataset, batches, 0 if speed.cache != "off" else machine.workers, device),
            saving_of(keeping, model, bases, facts),
            Validation(task, keeping.val_every, metric) if task.held_out else None,
            log,
            processes,
        )
        if device.type == "cpu":
            keep_freed_memory()
        if state:
            restore(loop, keeping.state_file, state)
        if state and loop.progress.epoch <= recipe.epoch:
            print_line(f"resumed at {loop.place()}")
        print_line(f"data: {task.words()}, batch {recipe.batch_size}, on {device}")
        try:
            loop.run()
        except RuntimeError as e:
            raise out_of_memory(e, recipe, device) or another_failed(e) or reader_killed(e) or e from e


def check_options(family: Family, recipe: Recipe, keeping: Keeping, machine: Machine) -> None:
    check_size(family, recipe.size)
    check_numbers({"workers": machine.workers, "val_every": keeping.val_every, "save_minutes": keeping.save_minutes})
    if keeping.resume not in (None, "auto"):
        read_state(keeping.state_file)  # so that a wrong file ends the run before it makes a folder
    if keeping.save not in ("full", "trainable"):
        raise UserError(f"save is {keeping.save}; there are full, trainable")


def built(
    family: Family, recipe: Recipe, machine: Machine, sources: Sources, init_from: Path | None
) -> tuple[nn.Module, Bases]:
    """The model to train, what trains chosen, and the files that its frozen weights are from."""
    if machine.deterministic:
        make_deterministic()
    set_seed(recipe.seed)
    model, bases = start_model(recipe.model, options_of(recipe), sources, init_from)
    choose_trained(family, model, recipe, [s for s in family.sources if s.flag not in sources and init_from is None])
    print_parts(family, model)
    return model, bases


def choose_trained(family: Family, model: nn.Module, recipe: Recipe, random: list[Source]) -> None:
    """Freeze and free what `finetune` says; without it, the released choice, but for parts that are `random`."""
    frozen = {source.part for source in family.sources}
    if random and recipe.finetune is None:
        flags, parts = (" and ".join(names) for names in zip(*((f"--{s.flag}", s.part) for s in random), strict=True))
        what = "whole network" if len(random) == len(family.sources) else parts
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


def state_to_resume(keeping: Keeping, facts: Mapping[str, object]) -> dict[str, object] | None:
    """The state to go on from, of the same run; None to begin. UserError if that would overwrite a run."""
    last = keeping.folder / "last.pt"
    if keeping.resume is None:
        if last.is_file():
            raise UserError(f"{keeping.folder} holds a run; go on with --resume auto, or give another --save_path")
        return None
    path = keeping.state_file
    if keeping.resume == "auto" and not last.is_file():
        return None
    state = read_state(path)
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


def saving_of(keeping: Keeping, model: nn.Module, bases: Bases, facts: Mapping[str, object]) -> Saving:
    def write(stem: str) -> Path:
        path = keeping.folder / f"{stem}{'.pth' if keeping.save == 'full' else '.safetensors'}"
        save_checkpoint(model, path, bases)
        return path

    return Saving(keeping.folder, keeping.save_minutes, own_names(model, bases), facts, write)


def loader_of(dataset: Dataset, batches: Batches, workers: int | None, device: torch.device) -> DataLoader:
    workers = default_workers() if workers is None else workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=lambda batch: batch,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=apart_from_signals,
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
