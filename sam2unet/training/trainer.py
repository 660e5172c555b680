"""A model in training with its optimizer: takes optimizer steps, and saves and restores their state."""

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.batches import make_seed
from ..errors import UserError
from ..families.table import Family
from ..limits import round_size
from ..recipe import Recipe
from ..runtime.device import autocast, to_channels_last_
from ..runtime.processes import Processes
from ..task import TrainingStep
from .speed import Speed, checkpoint_trunks_

Batch = tuple[Tensor, ...]
UPDATE = 3  # the last number in the key of the seed of an update


class Trainer:
    """Trains a model. `average` is the moving average of the trained weights by name, empty without `recipe.ema`."""

    def __init__(
        self,
        family: Family,
        step: TrainingStep,
        model: nn.Module,
        recipe: Recipe,
        speed: Speed,
        device: torch.device,
        processes: Processes,
    ):
        self.family, self.step, self.model, self.recipe, self.device = family, step, model, recipe, device
        self.rank = processes.rank
        self.scales = recipe.multi_scale or (1.0,)
        if speed.grad_checkpointing:
            checkpoint_trunks_(model)
        if speed.channels_last:
            to_channels_last_(family.parts(model)["decoder"])
        # With several processes `wrap_ddp` freezes the idle parameters. They stay in the optimizer, so that the state
        # of a run does not depend on the number of processes.
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        idle = family.unused_parameters(model)
        self.idle = [number for number, p in enumerate(self.trained.values()) if any(p is other for other in idle)]
        self.wrapped = processes.wrap_ddp(model, device, idle, recipe.sync_bn, family.find_unused_parameters)
        self.forward = torch.compile(self.wrapped) if speed.compile else self.wrapped
        self.optimizer, self.schedule = build_optimizer(list(self.trained.values()), recipe, speed.fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if recipe.ema else {}
        self.guard = FiniteGuard(late=device.type == "cuda")
        self.steps = 0  # optimizer steps that were taken

    def update(
        self,
        batches: Sequence[Batch],
        shares: Sequence[float],
        names: Sequence[list[str]] | None = None,
        epoch: int = 1,
    ) -> list[list[dict[str, Tensor]]]:
        """Trains on batches on the device. Their gradients are added up, each loss times its share.

        Takes one optimizer step per scale and per set of losses that the task's step yields. Returns for each optimizer
        step the losses of every batch, detached; `total` is the sum of the others. Raises UserError if a loss is not
        finite, before the optimizer step. The message has the file names of the batch and the epoch.
        """
        history = []
        for scale in self.scales:
            steps = [self.step(self.forward, resize_batch(b, scale, self.family.stride), self.recipe) for b in batches]
            while losses := self.add_gradients(steps, shares):
                for loss, files in zip(losses, names or [[]] * len(losses), strict=True):
                    self.guard.check(loss["total"], f"epoch {epoch}, step {self.steps + 1}", files)
                self.take_step()
                history.append(losses)
        return history

    def add_gradients(self, steps: Sequence[Iterator[dict[str, Tensor]]], shares: Sequence[float]) -> list[dict]:
        """Computes the gradients of the next losses of every batch. Returns the losses, or [] after the last step.

        What a model draws depends on the seed, the number of the optimizer step and the process alone, so that a run
        that resumes draws the same, with any number of workers.
        """
        seed_update(self.recipe.seed, self.steps, self.rank)
        self.optimizer.zero_grad(set_to_none=True)
        history = []
        for number, (step, share) in enumerate(zip(steps, shares, strict=True), start=1):
            # The processes exchange their gradients once, with the last batch.
            is_last, wrapped = number == len(steps), self.wrapped
            with nullcontext() if is_last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync():
                with autocast(self.device, self.recipe.amp):
                    losses = next(step, None)
                if losses is None:
                    return []
                total: Any = sum(losses.values())
                self.scaler.scale(total if share == 1 else total * share).backward()
            history.append({"total": total.detach()} | {name: loss.detach() for name, loss in losses.items()})
        return history

    def take_step(self) -> None:
        rates = self.schedule.get_last_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (self.steps + 1) / self.recipe.warmup) if self.recipe.warmup else rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - self.recipe.ema)

    @property
    def rate(self) -> float:
        """The learning rate of the last optimizer step."""
        return self.optimizer.param_groups[0]["lr"]

    def end_epoch(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # without the factor of the warm-up
        with warnings.catch_warnings():  # after resuming, it does not know the steps before
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the model has the averaged weights, if `recipe.ema` is set."""
        current = {name: self.trained[name].detach().clone() for name in self.average}
        with torch.no_grad():
            for name, mean in self.average.items():
                self.trained[name].copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in current.items():
                    self.trained[name].copy_(value)

    def state(self, names: Sequence[str]) -> dict[str, object]:
        """Returns everything that the next step depends on. `names` selects weights and buffers of the model."""
        weights = self.model.state_dict()
        return {
            "weights": {name: weights[name].cpu().contiguous() for name in names},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": {name: mean.cpu() for name, mean in self.average.items()},
            "step": self.steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            weights = self.model.state_dict()
            for name, value in state["weights"].items():
                weights[name].copy_(value)
            for name, value in state["average"].items():
                self.average[name].copy_(value)
        self.restore_optimizer(self.add_idle(state["optimizer"]))
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps = state["step"]

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Restores a state that may be of a run with other options of `Speed`.

        The optimizer keeps its own kernel, and the moments get the memory order of their weights, which `fused` needs.
        """
        (own,), (group,) = self.optimizer.param_groups, state["param_groups"]
        self.optimizer.load_state_dict(state | {"param_groups": [group | {"fused": own["fused"]}]})
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)

    def add_idle(self, state: dict[str, Any]) -> dict[str, Any]:
        """Returns the state of the optimizer with the idle parameters, which older versions left out under torchrun."""
        (group,) = state["param_groups"]
        if len(group["params"]) != len(self.trained) - len(self.idle):
            return state
        places = [number for number in range(len(self.trained)) if number not in self.idle]
        group = group | {"params": list(range(len(self.trained)))}
        return {"state": {places[i]: value for i, value in state["state"].items()}, "param_groups": [group]}


def seed_update(seed: int, step: int, rank: int = 0) -> None:
    """Seeds what a model draws in an optimizer step. `step` counts from 0, `rank` is the index of the process."""
    torch.manual_seed(make_seed(seed, step, rank, UPDATE))


class FiniteGuard:
    """Raises UserError for a loss that is not finite. With `late`, raises it one step later: a GPU need not wait."""

    def __init__(self, late: bool):
        self.late = late
        self.waiting: deque[tuple[Tensor, torch.cuda.Event | None, str, list[str]]] = deque()

    def check(self, total: Tensor, where: str, files: list[str]) -> None:
        copied = None
        if total.is_cuda:  # to read the loss itself later would wait for all work that the GPU has by then
            stream = torch.cuda.current_stream(total.device)
            total, copied = total.to("cpu", non_blocking=True), stream.record_event()
        self.waiting.append((total, copied, where, files))
        self.flush(leave=1 if self.late else 0)

    def flush(self, leave: int = 0) -> None:
        while len(self.waiting) > leave:
            total, copied, where, files = self.waiting.popleft()
            if copied is not None:
                copied.synchronize()
            if not torch.isfinite(total):
                raise UserError(
                    f"the loss is {total.item()} at {where}, batch {', '.join(files)}; last.pt holds an earlier "
                    "state without this error. Check these files, or use a lower --lr, --warmup, or --amp bf16 instead "
                    "of fp16"
                )


def build_optimizer(
    trained: Sequence[nn.Parameter], recipe: Recipe, fused: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Returns the released optimizer and schedule. SAM-Med2D's Adam is AdamW without weight decay.

    The released script also passes the frozen parameters. This does not change the steps.
    """
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused or None)
    schedules = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epoch, eta_min=1e-7),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[5, 10], gamma=0.5),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1),
    }
    return optimizer, schedules[recipe.lr_scheduler]()


def resize_batch(batch: Batch, scale: float, stride: int) -> Batch:
    """Resizes images and masks by `scale`, to the nearest multiple of `stride`, as PraNet does (arXiv 2006.11392)."""
    if scale == 1:
        return batch
    sides = [round_size(side * scale, stride) for side in batch[0].shape[-2:]]
    bilinear, nearest = {"mode": "bilinear", "align_corners": True}, {"mode": "nearest"}  # indices have no mean
    return tuple(F.interpolate(part, sides, **(bilinear if part.is_floating_point() else nearest)) for part in batch)
