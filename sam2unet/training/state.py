"""`last.pt` holds the complete state of a run, so that the run can be killed at any moment and resumed."""

import errno
import fcntl
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..atomic import PART, read_json
from ..data.batches import ORDER
from ..errors import UserError, shortlist, warn
from ..recipe import Recipe
from ..weights.formats import RUN_FORMAT, write_pickle

# The content of `last.pt`. Older files without `NEWER` fields can be resumed too.
FIELDS = (
    *("recipe", "data", "validation_set", "best_metric", "base", "weights", "optimizer", "schedule", "scaler"),
    *("average", "step", "progress", "random", "order", "files"),
)
NEWER = ("validation_set", "best_metric", "order", "files")
MODELS = (".pth", ".safetensors")
RELEASED_CHECKPOINT = (
    "a checkpoint of SAM-Med2D's released training, whose optimizer cannot be resumed here; "
    "--sam_checkpoint takes its weights"
)


def write_run_state(path: Path, state: Mapping[str, object]) -> None:
    write_pickle({"format": RUN_FORMAT} | dict(state), path)


def read_run_state(path: Path) -> dict[str, Any]:
    """Reads a file that `write_run_state` wrote. Raises UserError for any other file and for unknown fields."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except Exception as e:  # torch, pickle and zipfile raise many types for other files
        if "GLOBAL torch.optim." in str(e):
            raise UserError(f"{path} is {RELEASED_CHECKPOINT}") from e
        raise UserError(f"{path} is damaged or not the state of a run; --resume takes a last.pt") from e
    if isinstance(state, dict) and {"model", "optimizer"} == state.keys():
        raise UserError(f"{path} is {RELEASED_CHECKPOINT}")
    if not isinstance(state, dict) or state.get("format") != RUN_FORMAT:
        raise UserError(f"{path} is not the state of a run; --resume takes a last.pt, weights go to --init_from")
    recipe = state.get("recipe")
    known = vars(Recipe()).keys()
    unknown = [name for name in state if name not in (*FIELDS, "format")]
    unknown += [f"recipe.{name}" for name in (recipe if isinstance(recipe, dict) else {}) if name not in known]
    if unknown:
        names = shortlist(unknown)
        raise UserError(f"{path} has unknown fields ({names}); resume with the version that wrote it")
    return state


def check_state(path: Path, state: Mapping[str, object], weights: Mapping[str, Tensor], progress: Set[str]) -> None:
    """Raises UserError if a state is not complete, or if its weights or the fields of its progress do not fit."""
    if missing := [name for name in FIELDS if name not in state and name not in NEWER]:
        raise UserError(
            f"{path} is not complete: {shortlist(missing)} missing; start a new run, or start from a checkpoint with "
            "--init_from"
        )
    saved, position = state["weights"], state["progress"]
    wanted = {name: tensor.shape for name, tensor in weights.items()}
    if not isinstance(saved, dict) or {name: getattr(t, "shape", None) for name, t in saved.items()} != wanted:
        raise UserError(f"{path} holds the weights of another model; resume with the flags of its own run")
    if not isinstance(position, dict) or position.keys() != progress:
        raise UserError(f"{path} has unknown fields of progress; resume with the version that wrote it")


def restart_old_epoch_(state: dict[str, Any], path: Path, images: int) -> None:
    """Goes back to the start of an epoch in whose middle an older version, which drew another order, saved the state.

    `images` is the number of images of an epoch.
    """
    progress = state["progress"]
    if state.get("order") != ORDER and 0 < progress["seen"] < images:
        warn(
            f"{path} was saved by an older version in the middle of epoch {progress['epoch']}; this epoch starts "
            "again, because the order of the images is another one now"
        )
        state["progress"] = progress | {"batch": 0, "seen": 0, "sums": {}, "weight": 0}


def refuse_other_files(folder: Path, title: str) -> None:
    """Raises UserError if a new run would overwrite a model in `folder`, or files that no run wrote."""
    models = [path for stem in (f"{title}-*", "best") for path in folder.glob(f"{stem}.*") if path.suffix in MODELS]
    if models:
        names = shortlist(sorted(path.name for path in models))
        raise UserError(
            f"{folder} holds models of an earlier run ({names}); give another --save_path, or move the files"
        )
    others = [name for name in ("run.json", "recipe.yaml", "metrics.jsonl", "validation") if (folder / name).exists()]
    whose = "which no run wrote"
    with suppress(UserError):
        if "run.json" in others and {"started", "recipe"} <= read_json(folder / "run.json").keys():
            whose = "of an earlier run"
            log = folder / "metrics.jsonl"
            if "validation" not in others and not (log.is_file() and log.stat().st_size):
                return  # it ended before its first state, so its files hold no results
    if others:
        raise UserError(f"{folder} holds {shortlist(others)}, {whose}; give another --save_path, or move the files")


def get_random_state() -> dict[str, object]:
    """Returns the state of every random generator of this process that a run may use."""
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def lock_run_folder(folder: Path, seconds: float = 0) -> Iterator[None]:
    """A context in which no other run can use `folder`. Removes the incomplete files of a killed run.

    Waits up to `seconds` for the other run to end. Raises UserError if it has not ended then.
    """
    try:
        lock = open(folder / ".lock", "a")  # "a" keeps the content of an existing file
    except OSError as e:
        raise UserError(f"cannot write into {folder}: {e.strerror}. Give another --save_path.") from e
    with lock:
        deadline = time.monotonic() + seconds
        while not try_lock(lock):
            if time.monotonic() >= deadline:
                raise UserError(f"another run is writing into {folder}; wait for it or give another --save_path")
            time.sleep(0.2)
        for part in folder.glob(f".*{PART}"):
            part.unlink() if part.is_file() else shutil.rmtree(part, ignore_errors=True)
        yield


def try_lock(file: IO) -> bool:
    """Locks a file for this process alone; its forks do not hold the lock after its death. False if it is locked.

    Raises UserError if the disk has no locks.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EAGAIN):
            raise UserError(f"cannot lock {file.name}: {e.strerror}; give a --save_path on another disk") from e
        return False
    return True
