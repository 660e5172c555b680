"""Several processes on one run, started by torchrun: one per GPU, on one machine or more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..layers.sync_norm import synchronised


@dataclass(frozen=True)
class Processes:
    """Which of how many this is: `rank` of `world` in all, `local_rank` of `local_world` on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def of_environment(cls) -> Processes:
        """As torchrun says; one process without it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names)) if "TORCHELASTIC_RUN_ID" in os.environ else cls()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def join(self, device: torch.device) -> None:
        """Wait for all the others. From here on only the first process prints."""
        if self.world > 1:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        if not self.first:
            sys.stdout = open(os.devnull, "w")

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Around work that all do alike: the first process prints and warns, the others do it in silence."""
        with ExitStack() as stack:
            if not self.first:
                stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
            yield

    def leave(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def any(self, *flags: bool | int) -> list[int]:
        """Of each flag the largest that any process has, so that all decide alike."""
        if self.world == 1:
            return [int(flag) for flag in flags]
        values = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def sum(self, values: Sequence[float]) -> list[float]:
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: object) -> list[object]:
        """Every process's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[object] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def spread(
        self,
        model: nn.Module,
        device: torch.device,
        idle: Sequence[nn.Parameter],
        sync_bn: bool,
        changing: bool = False,
    ) -> nn.Module:
        """`model` as it is with one process, else a wrapper that averages gradients.

        Args:
            idle: parameters that never get a gradient, which the average would wait for. They are frozen here.
            sync_bn: BatchNorm over the images of all processes.
            changing: each call may reach other parameters; those that it does not reach keep no gradient.
        """
        if self.world == 1:
            return model
        for parameter in idle:
            parameter.requires_grad_(False)
        if sync_bn:
            synchronised(model)
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=changing,
        )


def another_failed(error: RuntimeError) -> UserError | None:
    """What to tell the user when a process cannot reach the others any more; None for any other error."""
    words = ("Connection", "closed by peer", "Socket", "gloo", "NCCL", "ProcessGroup")
    if not any(word in str(error) for word in words):
        return None
    return UserError("another process of this run has ended; see its line above, and go on with --resume auto")
