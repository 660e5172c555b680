"""A training run. By default it computes what the released script computes: AdamW, and a cosine schedule per epoch."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from ..atomic import sha256
from ..errors import UserError, print_line
from ..families.load import list_saved_names, save_checkpoint
from ..recipe import Recipe, Study
from ..runtime.device import is_out_of_memory, pick_device, tune_malloc
from ..runtime.processes import Processes, another_failed, is_under_torchrun
from ..runtime.signals import Signals
from ..task import RunData
from ..weights.weight_files import NO_FILES, WeightPaths
from .loop import CheckpointWriter, Loop, Progress, Validation
from .metrics_log import MetricsLog
from .numbered_files import NumberedFiles
from .prepare import Hardware, PreparedRun, RunFolder, prepare_run
from .readers import make_loader, watch_readers
from .run_record import build_run_record, find_differences, write_run_record
from .speed import Speed
from .state import NEWER, check_state, lock_run_folder, read_run_state, refuse_other_files, restart_old_epoch_
from .trainer import Trainer

DIGEST = 64  # characters of a SHA-256
ENDING = 60  # seconds that a process of an earlier attempt of torchrun may need to end


def train(
    recipe: Recipe,
    data: RunData,
    run_folder: RunFolder,
    hardware: Hardware = Hardware(),
    weight_paths: WeightPaths = NO_FILES,
    init_from: Path | None = None,
    study: Study | None = None,
) -> None:
    """Trains a model. Writes `<title>-<epoch>.pth` every five epochs and at the end, and files that describe the run.

    Nothing is written before all inputs are checked. Raises UserError if an input cannot work, the loss is not finite,
    or the memory is too small.

    Args:
        weight_paths: pretrained weights of frozen parts, by the name of their flag.
        init_from: a checkpoint of the same model. The training starts from all of its weights.
        study: the published numbers that the recipe reproduces.
    """
    processes = Processes.from_environment()
    with ExitStack() as stack:
        with processes.end_together():
            device = pick_device(hardware.device, processes.local_rank)
            with explain_errors(recipe, hardware.speed, device):
                processes.connect(device)
                stack.callback(processes.close)
                inputs = (recipe, data, run_folder, hardware, weight_paths, init_from, study)
                run = prepare_run(*inputs, processes, device)
                state = open_run_folder(run, stack)
                loop = build_loop(run, state, stack)
        with explain_errors(run.recipe, run.hardware.speed, device), Signals() as loop.signals:
            loop.start()
            while loop.progress.epoch <= recipe.epoch:
                loop.train_epoch()
                loop.end_epoch()
        loop.print_best()


@contextmanager
def explain_errors(recipe: Recipe, speed: Speed, device: torch.device) -> Iterator[None]:
    """A context in which errors of PyTorch for too little memory, or for another rank that failed, become UserError."""
    try:
        yield
    except RuntimeError as e:
        memory = explain_training_memory(e, recipe, speed, device)
        raise (memory or another_failed(e) or e) from e


def open_run_folder(run: PreparedRun, stack: ExitStack) -> dict[str, Any] | None:
    """Locks the folder until `stack` is closed. Writes `run.json` and `recipe.yaml`.

    Returns the state that the run continues from, or None for a new run.
    """
    processes, run_folder = run.processes, run.run_folder
    if processes.first:
        stack.enter_context(lock_run_folder(run_folder.folder, seconds=ENDING if is_under_torchrun() else 0))
    processes.wait()  # from here on, no other process writes `last.pt`
    state = find_resume_state(run_folder, run.facts)
    if state:
        weights = run.model.state_dict()
        saved = {name: weights[name] for name in list_saved_names(run.family, run.model, run.weight_files)}
        check_state(run_folder.state_file, state, saved, vars(Progress()).keys())
    elif processes.first:
        refuse_other_files(run_folder.folder, run.family.title)
    if len(set(processes.gather(state is None))) > 1:
        raise UserError(f"not every process finds {run_folder.state_file}; give a --save_path that all machines share")
    if processes.first:
        hashes = {path.name: sha256(path) for path in run.init_files}
        record = build_run_record(run_folder.arguments, run.facts, run.device, hashes, processes.world)
        write_run_record(run_folder.folder, record, resumed=state is not None)
        run.recipe.write(run_folder.folder / "recipe.yaml", without=run.task.unused_fields)
    return state


def build_loop(run: PreparedRun, state: dict[str, Any] | None, stack: ExitStack) -> Loop:
    """Returns the loop over epochs, at the position of `state`. Opens the log until `stack` is closed."""
    run_folder, task, processes, device = run.run_folder, run.task, run.processes, run.device
    log = None
    if processes.first:
        log = MetricsLog(run_folder.folder, run_folder.tensorboard, step=state["step"] if state else 0)
        stack.callback(log.close)
    speed = run.hardware.speed
    dataset = task.dataset(speed.cache, run_folder.folder, processes)
    loader = make_loader(dataset, run.batches, 0 if speed.cache != "off" else run.hardware.workers, device)
    stack.enter_context(watch_readers(loader))
    loop = Loop(
        Trainer(run.family, task.step, run.model.to(device), run.recipe, speed, device, processes),
        run.batches,
        loader,
        make_checkpoint_writer(run),
        Validation(task, run_folder.val_every, run.metric) if task.held_out else None,
        log,
        processes,
    )
    if device.type == "cpu":
        tune_malloc()
    if state:
        restore(loop, run_folder.state_file, state)
        if loop.progress.epoch <= run.recipe.epoch:
            print_line(f"resumed at {loop.describe_position()}")
    print_line(f"data: {task.describe()}, batch {run.recipe.batch_size}, on {device}")
    return loop


def find_resume_state(run_folder: RunFolder, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the state that the run continues from, or None for a new run.

    Raises UserError if a new run would overwrite another run, or the state belongs to a run with other `facts`.
    """
    last = run_folder.folder / "last.pt"
    if run_folder.resume is None:
        if last.is_file():
            raise UserError(
                f"{run_folder.folder} holds a run; continue it with --resume auto, or give another --save_path"
            )
        return None
    if run_folder.resume == "auto" and not last.is_file():
        return None
    path = run_folder.state_file
    state = read_run_state(path)
    advice = "resume with the flags of that run, or start a new run from its checkpoint with --init_from"
    check_facts(path, state, facts, advice)
    if last.is_file() and not last.samefile(path):  # the run will overwrite it
        check_facts(last, read_run_state(last), facts, "give another --save_path")
    return state


def check_facts(path: Path, state: dict[str, Any], facts: Mapping[str, Any], advice: str) -> None:
    """Raises UserError, which ends in `advice`, if the state in the file `path` belongs to a run with other facts."""
    recipe = state.get("recipe")
    if isinstance(recipe, dict):  # older states lack newer fields; their runs used the defaults
        state = state | {"recipe": dataclasses.asdict(Recipe()) | recipe}
    for name, now in facts.items():
        if name in NEWER and name not in state:  # an older state
            continue
        then = state.get(name) or {}
        comparable = now and then and isinstance(then, dict)
        keys = find_differences(then, now) if comparable else []
        if name == "base":  # the same weights can be in files with different names
            keys = [key for key in keys if str(then.get(key))[-DIGEST:] != str(now.get(key))[-DIGEST:]]
        if keys or (then != now and not comparable):
            differ = ", ".join(f"{key} was {then.get(key)}, is now {now.get(key)}" for key in keys)
            what = {"data": "data set", "base": "weight file"}.get(name, name.replace("_", " "))
            raise UserError(
                f"{path} belongs to a run with another {what} ({differ or 'one of them has none'}); {advice}"
            )


def restore(loop: Loop, path: Path, state: dict[str, Any]) -> None:
    try:
        with loop.processes.silence_other_ranks():
            restart_old_epoch_(state, path, loop.batches.total)
        loop.restore(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
        raise UserError(
            f"{path} does not fit this run ({type(e).__name__}); start a new run, or start from a checkpoint with "
            "--init_from"
        ) from e


def make_checkpoint_writer(run: PreparedRun) -> CheckpointWriter:
    folder, suffix = run.run_folder.folder, ".pth" if run.run_folder.save == "full" else ".safetensors"

    def write(stem: str) -> Path:
        path = folder / f"{stem}{suffix}"
        save_checkpoint(run.model, path, run.weight_files, recipe=run.recipe)
        return path

    names = list_saved_names(run.family, run.model, run.weight_files)
    numbered = NumberedFiles(folder, run.run_folder.keep)
    return CheckpointWriter(folder, run.run_folder.save_minutes, names, run.facts, write, numbered)


def explain_training_memory(
    error: RuntimeError, recipe: Recipe, speed: Speed, device: torch.device
) -> UserError | None:
    """Returns a message with the remedies that the run does not use yet. Returns None for any other error."""
    if not is_out_of_memory(error):
        return None
    remedies = []
    if not speed.grad_checkpointing:
        remedies.append("--grad_checkpointing (computes the trunk twice; same result)")
    if recipe.amp == "off":
        remedies.append("--amp bf16 (half precision; nearly the same result)")
    if recipe.batch_size > 1:
        half, twice = recipe.batch_size // 2, 2 * recipe.accumulate
        remedies.append(
            f"--batch_size {half} --accumulate {twice} ({2 * half * recipe.accumulate} images per step; BatchNorm sees "
            f"{half})"
        )
    remedies.append("a smaller --size (another result)")
    return UserError(
        f"out of memory on {device} with batches of {recipe.batch_size} at {recipe.size}x{recipe.size}. What helps: "
        + ", ".join(remedies)
    )
