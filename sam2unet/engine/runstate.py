"""`last.pt`: everything that a run is, so that it can be killed at any moment."""

from __future__ import annotations

import fcntl
import pickle
import random
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..checkpoint import RUN_FORMAT
from ..errors import UserError, reader_killed
from ..files import written_whole


def write_state(path: Path, state: Mapping[str, object]) -> None:
    with written_whole(path) as file:
        try:
            torch.save({"format": RUN_FORMAT} | dict(state), file)
        except RuntimeError as e:  # how torch reports a full disk
            raise reader_killed(e) or OSError(str(e)) from e


def read_state(path: Path) -> dict[str, object]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as e:
        raise UserError(f"{path} is damaged or not the state of a run; --resume takes a last.pt") from e
    if not isinstance(state, dict) or state.get("format") != RUN_FORMAT:
        raise UserError(f"{path} is not the state of a run; --resume takes a last.pt, weights go to --init_from")
    return state


def random_state() -> dict[str, object]:
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
def only_run_in(folder: Path):
    """Holds `folder` for this run; UserError if another one does. Removes what a killed run left half-written."""
    try:
        lock = open(folder / ".lock", "w")
    except OSError as e:
        raise UserError(f"cannot write into {folder}: {e.strerror}. Give another --save_path.") from e
    with lock:
        try:  # a lock of this process alone: those that it forks do not hold it after its death
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is writing into {folder}; wait for it or give another --save_path") from None
        for part in folder.glob(".*.part"):
            part.unlink()
        yield
