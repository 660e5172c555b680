"""A model in training with its optimiser: from batches to the next weights, and all of it as a state to resume from."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..families.table import Family
from ..recipe import Recipe
from ..runtime.device import autocast, to_channels_last_
from ..runtime.processes import Processes
from .speed import Speed, checkpoint_trunks_

Batch = tuple[Tensor, ...]


class Trainer:
    """
    Attributes:
        step: optimiser steps done.
        average: decaying means of the trained weights by name; empty without `recipe.ema`.
    """

    def __init__(
        self, family: Family, model: nn.Module, recipe: Recipe, speed: Speed, device: torch.device, processes: Processes
    ):
        self.family, self.model, self.recipe, self.device = family, model, recipe, device
        self.scales = recipe.multi_scale or (1.0,)
        if speed.grad_checkpointing:
            checkpoint_trunks_(model)
        if speed.channels_last:
            to_channels_last_(family.parts(model)["decoder"])
        self.wrapped = processes.wrap_ddp(model, device, family.idle(model), recipe.sync_bn, family.changing)
        self.forward = torch.compile(self.wrapped) if speed.compile else self.wrapped
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer, self.schedule = build_optimizer(self.trained.values(), recipe, speed.fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if recipe.ema else {}
        self.step = 0

    def update(self, group: Sequence[Batch], shares: Sequence[float]) -> Iterator[list[dict[str, Tensor]]]:
        """An optimiser step per scale and per time that the family's step yields; each yields the batches' losses.

        Args:
            group: batches on the device whose gradients are added up.
            shares: weight of each batch's loss in the sum.
        """
        for scale in self.scales:
            steps = [
                self.family.step(self.forward, resize_batch(batch, scale, self.family.stride), self.recipe)
                for batch in group
            ]
            while True:
                self.optimizer.zero_grad(set_to_none=True)
                found = []
                for number, (step, share) in enumerate(zip(steps, shares, strict=True), start=1):
                    with self.without_exchange() if number < len(steps) else nullcontext():
                        with autocast(self.device, self.recipe.amp):
                            losses = next(step, None)
                        if losses is None:
                            break
                        total = sum(losses.values())
                        self.scaler.scale(total if share == 1 else total * share).backward()
                    found.append({"total": total.detach()} | {name: loss.detach() for name, loss in losses.items()})
                if not found:
                    break
                yield found  # the caller may refuse to go on before the weights change
                self.take_step()

    def without_exchange(self):
        return self.wrapped.no_sync() if self.wrapped is not self.model else nullcontext()

    def take_step(self) -> None:
        rates = self.schedule.get_last_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (self.step + 1) / self.recipe.warmup) if self.recipe.warmup else rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.average:
            torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - self.recipe.ema)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def end_epoch(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # without the warm-up's factor
        with warnings.catch_warnings():  # of a step that the process before this one has taken
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if any are kept."""
        own = {name: self.trained[name].detach().clone() for name in self.average}
        with torch.no_grad():
            for name, mean in self.average.items():
                self.trained[name].copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    self.trained[name].copy_(value)

    def state(self, names: Sequence[str]) -> dict[str, object]:
        """What the next step depends on; of the model's weights and buffers those of `names`."""
        weights = self.model.state_dict()
        return {
            "weights": {name: weights[name].cpu().contiguous() for name in names},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": {name: mean.cpu() for name, mean in self.average.items()},
            "step": self.step,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        with torch.no_grad():
            own = self.model.state_dict()
            for name, value in state["weights"].items():
                own[name].copy_(value)
            for name, value in state["average"].items():
                self.average[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


class FiniteGuard:
    """Ends the run at a loss that is not finite. On a GPU one step late, so that nothing waits for the value."""

    def __init__(self, late: bool):
        self.late = late
        self.waiting: deque[tuple[Tensor, str, list[str]]] = deque()

    def look(self, total: Tensor, where: str, files: list[str]) -> None:
        self.waiting.append((total, where, files))
        self.flush(leave=1 if self.late else 0)

    def flush(self, leave: int = 0) -> None:
        while len(self.waiting) > leave:
            total, where, files = self.waiting.popleft()
            if not torch.isfinite(total):
                raise UserError(
                    f"the loss is {total.item()} at {where}, batch {', '.join(files)}; last.pt holds a good state from "
                    "before. Look at these files, or start with a lower --lr, --warmup, or --amp bf16 instead of fp16"
                )


def build_optimizer(
    trained: Sequence[nn.Parameter], recipe: Recipe, fused: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """As released, but over the trained parameters alone, which makes the same steps. Adam is AdamW without decay."""
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused or None)
    schedules = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epoch, eta_min=1e-7),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[5, 10], gamma=0.5),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1),
    }
    return optimizer, schedules[recipe.lr_scheduler]()


def resize_batch(batch: Batch, scale: float, stride: int) -> Batch:
    """Images and masks resized to the nearest multiple of `stride`, as PraNet trains (arXiv 2006.11392)."""
    if scale == 1:
        return batch
    sides = [max(stride, round(side * scale / stride) * stride) for side in batch[0].shape[-2:]]
    return tuple(F.interpolate(part, sides, mode="bilinear", align_corners=True) for part in batch)
