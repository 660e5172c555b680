"""`last.pt`: everything that a run is, so that it can be killed at any moment."""

from __future__ import annotations

import fcntl
import random
import shutil
from collections.abc import Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..atomic import PART, read_json
from ..errors import UserError, shortlist
from ..recipe import Recipe
from ..weights.formats import RUN_FORMAT, write_pickle

# What `last.pt` holds; files from before `validation_set` was there are resumed too.
FIELDS = ("recipe", "data", "validation_set", "base", "weights", "optimizer", "schedule", "scaler", "average")
FIELDS += ("step", "progress", "random")
MODELS = (".pth", ".safetensors")
OF_SAM_MED2D = (
    "a checkpoint of SAM-Med2D's released training, whose optimizer cannot be resumed here; "
    "--sam_checkpoint takes its weights"
)


def write_run_state(path: Path, state: Mapping[str, object]) -> None:
    write_pickle({"format": RUN_FORMAT} | dict(state), path)


def read_run_state(path: Path) -> dict[str, object]:
    """What `write_run_state` wrote. UserError for any other file, and for fields that are not known here."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except Exception as e:  # whatever torch, pickle and zipfile say of a file of another kind
        if "GLOBAL torch.optim." in str(e):
            raise UserError(f"{path} is {OF_SAM_MED2D}") from e
        raise UserError(f"{path} is damaged or not the state of a run; --resume takes a last.pt") from e
    if isinstance(state, dict) and {"model", "optimizer"} == state.keys():
        raise UserError(f"{path} is {OF_SAM_MED2D}")
    if not isinstance(state, dict) or state.get("format") != RUN_FORMAT:
        raise UserError(f"{path} is not the state of a run; --resume takes a last.pt, weights go to --init_from")
    recipe = state.get("recipe")
    known = vars(Recipe()).keys()
    unknown = [name for name in state if name not in (*FIELDS, "format")]
    unknown += [f"recipe.{name}" for name in (recipe if isinstance(recipe, dict) else {}) if name not in known]
    if unknown:
        names = shortlist(unknown)
        raise UserError(f"{path} has fields that are not known here ({names}); resume with the version that wrote it")
    return state


def check_state(path: Path, state: Mapping[str, object], weights: Mapping[str, Tensor], progress: Set[str]) -> None:
    """UserError if something is missing, or does not fit a run with these `weights` and fields of `progress`."""
    if missing := [name for name in FIELDS if name not in state and name != "validation_set"]:
        raise UserError(
            f"{path} is not whole: {shortlist(missing)} missing; start anew, or from a checkpoint, --init_from"
        )
    kept, place = state["weights"], state["progress"]
    wanted = {name: tensor.shape for name, tensor in weights.items()}
    if not isinstance(kept, dict) or {name: getattr(t, "shape", None) for name, t in kept.items()} != wanted:
        raise UserError(f"{path} holds weights of another model than that of this run; resume with its own flags")
    if not isinstance(place, dict) or place.keys() != progress:
        raise UserError(f"{path} has another form of progress than known here; resume with the version that wrote it")


def refuse_other_files(folder: Path, title: str) -> None:
    """UserError if a new run would overwrite something in `folder`: a model, or files that no run wrote."""
    models = [path for stem in (f"{title}-*", "best") for path in folder.glob(f"{stem}.*") if path.suffix in MODELS]
    if models:
        names = shortlist(sorted(path.name for path in models))
        raise UserError(f"{folder} holds models of an earlier run ({names}); give another --save_path, or move them")
    record = folder / "run.json"
    others = [name for name in ("run.json", "recipe.yaml", "metrics.jsonl", "validation") if (folder / name).exists()]
    with suppress(UserError):
        if record.exists() and {"started", "recipe"} <= read_json(record).keys():
            return  # a run that ended before it wrote its first state
    if others:
        raise UserError(
            f"{folder} holds {shortlist(others)}, which no run wrote; give another --save_path, or move that"
        )


def get_random_state() -> dict[str, object]:
    """Of every generator of this process that a run may draw from."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, object]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def lock_run_folder(folder: Path):
    """Holds `folder` for this run; UserError if another one does. Removes what a killed run left half-written."""
    try:
        lock = open(folder / ".lock", "a")  # which does not empty a file that is there
    except OSError as e:
        raise UserError(f"cannot write into {folder}: {e.strerror}. Give another --save_path.") from e
    with lock:
        try:  # a lock of this process alone: those that it forks do not hold it after its death
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is writing into {folder}; wait for it or give another --save_path") from None
        for part in folder.glob(f".*{PART}"):
            part.unlink() if part.is_file() else shutil.rmtree(part, ignore_errors=True)
        yield
