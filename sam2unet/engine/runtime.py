"""What a run needs from the machine."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from ..errors import UserError


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or a GPU if there is one and the CPU if not; UserError if it cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f"device {name} cannot be used here; leave --device out or give cpu") from e
    return device


def set_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def default_workers() -> int:
    return min(8, os.cpu_count() or 1)
