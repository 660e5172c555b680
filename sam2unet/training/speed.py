"""Options that change time and memory: the same mathematics in another order, or close to it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError, print_line
from ..layers.hiera import Hiera
from ..layers.sam_vit import SamViT
from ..masks.cache import PLACES, find_cache_shape, free_memory
from ..recipe import Recipe
from ..runtime.device import can_compile, pick_half_type


@dataclass(frozen=True)
class Speed:
    """None of these is in the released script.

    Attributes:
        compile: let PyTorch fuse the model's operations.
        channels_last: the decoder's convolutions work on channels-last memory.
        fused: one kernel for AdamW instead of several per parameter.
        grad_checkpointing: the trunk's blocks are computed again for their gradients instead of kept.
        cache: where resized pairs are kept: `off`, `ram` or `disk`.
    """

    compile: bool = False
    channels_last: bool = False
    fused: bool = False
    grad_checkpointing: bool = False
    cache: str = "off"

    def __post_init__(self) -> None:
        if self.cache not in PLACES:
            raise UserError(f"cache is {self.cache}; there are {', '.join(PLACES)}")


def choose_speed(
    device: torch.device, recipe: Recipe, speed: Speed, pairs: int | None, folder: Path, copies: int
) -> tuple[Recipe, Speed]:
    """`recipe` and `speed` with what suits the device turned on, after saying what that is.

    Args:
        pairs, folder, copies: what would be cached, none where nothing can be; where on disk; by how many processes of
            this machine.
    """
    need = math.prod(find_cache_shape(pairs or 0, recipe.size))
    rooms = {"ram": need * copies < 0.5 * free_memory(), "disk": need < 0.5 * shutil.disk_usage(folder).free}
    if pairs is None:
        rooms = {}
    amp = pick_half_type(device) if recipe.amp == "off" else recipe.amp
    cache = next((place for place, fits in rooms.items() if fits), "off") if speed.cache == "off" else speed.cache
    speed = replace(speed, compile=can_compile(device) or speed.compile, channels_last=True, fused=True, cache=cache)
    switches = [f"--{name}" for name in ("compile", "channels_last", "fused") if getattr(speed, name)]
    print_line(f"fast: --amp {amp} {' '.join(switches)} --cache {cache}")
    return replace(recipe, amp=amp), speed


def checkpoint_trunks_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (Hiera, SamViT)):
            module.checkpointing = True
