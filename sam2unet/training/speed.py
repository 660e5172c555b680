"""Options that change the time and the memory of training. Losses stay the same, or close to the same."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..choices import CACHE_PLACES
from ..errors import UserError, print_line
from ..layers.trunk import Trunk
from ..masks.cache import free_memory
from ..recipe import Recipe
from ..runtime.device import can_compile, pick_half_type


@dataclass(frozen=True)
class Speed:
    """The options. The released script has none of them."""

    compile: bool = False  # compile the model with PyTorch
    channels_last: bool = False  # store the weights of the decoder's convolutions in channels-last order
    fused: bool = False  # use one kernel for AdamW instead of several per parameter
    # compute the blocks of the trunk a second time in the backward pass instead of storing them
    grad_checkpointing: bool = False
    cache: str = "off"  # where resized pairs are stored: `off`, `ram` or `disk`

    def __post_init__(self) -> None:
        if self.cache not in CACHE_PLACES:
            raise UserError(f"cache is {self.cache}; there are {', '.join(CACHE_PLACES)}")


def choose_speed(
    device: torch.device, recipe: Recipe, speed: Speed, pairs: int | None, folder: Path, copies: int
) -> tuple[Recipe, Speed]:
    """Returns `recipe` and `speed` with the fastest options for the device, and prints these options.

    `pairs` is the number of pairs that a cache would hold, None if the task has no cache. `folder` is for a cache on
    disk. `copies` processes on this machine have their own cache in memory.
    """
    fits = {}
    if pairs is not None:
        size = pairs * 4 * recipe.size**2  # bytes, as `open_cache` takes
        fits = {"ram": size * copies < 0.5 * free_memory(), "disk": size < 0.5 * shutil.disk_usage(folder).free}
    amp = pick_half_type(device) if recipe.amp == "off" else recipe.amp
    cache = next((name for name in fits if fits[name]), "off") if speed.cache == "off" else speed.cache
    speed = replace(speed, compile=can_compile(device) or speed.compile, channels_last=True, fused=True, cache=cache)
    switches = [f"--{name}" for name in ("compile", "channels_last", "fused") if getattr(speed, name)]
    print_line(f"fast: --amp {amp} {' '.join(switches)} --cache {cache}")
    return replace(recipe, amp=amp), speed


def checkpoint_trunks_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Trunk):
            module.checkpointing = True
