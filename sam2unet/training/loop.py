"""Epochs: batches in, checkpoints, scores and log lines out; at every moment `last.pt` says how to go on."""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..atomic import make_folder
from ..data.batches import Batches
from ..errors import Stopped, print_line, warn
from ..masks.dataset import MaskBatch
from ..prompts.dataset import PromptBatch
from ..runtime.processes import Processes
from ..scoring.columns import Metric, is_better
from ..task import Task
from .metrics_log import MetricsLog
from .state import get_random_state, set_random_state, write_run_state
from .trainer import Trainer

LOG_EVERY = 20  # updates between lines of metrics.jsonl


Batch = MaskBatch | PromptBatch


@dataclass(frozen=True)
class Validation:
    """By `task` after every `every`-th epoch and at the end; the best epoch by `metric`, one of its keys, is kept."""

    task: Task
    every: int
    key: str

    @property
    def metric(self) -> Metric:
        return self.task.metrics[self.key]

    def best_epoch(self, scores: Mapping[int, Mapping[str, float]]) -> int | None:
        """The first epoch with the best value."""
        best = None
        for epoch in sorted(scores):
            if is_better(self.metric, scores[epoch][self.key], None if best is None else scores[best][self.key]):
                best = epoch
        return best


@dataclass(frozen=True)
class CheckpointWriter:
    """
    Attributes:
        folder: gets all files.
        minutes: at most between two writings of `last.pt`.
        names: entries of the model's state that `last.pt` holds; the others are in the weights that the run began with.
        facts: more for `last.pt`, to tell whether a run that resumes is the same.
        write: model -> checkpoint file of that stem, which it returns.
    """

    folder: Path
    minutes: float
    names: Sequence[str]
    facts: Mapping[str, object]
    write: Callable[[str], Path]


@dataclass
class Progress:
    """Where in the run.

    Attributes:
        batch: the next one of `epoch`; the epoch's work behind its last batch may still be to do.
        seen: images of the epoch so far.
        sums, weight: losses by name summed over these images and their optimiser steps, and how many that are.
        scores: epoch -> metric -> value, of the epochs that were validated.
    """

    epoch: int = 1
    batch: int = 0
    seen: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0
    scores: dict[int, dict[str, float]] = field(default_factory=dict)


class Loop:
    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        loader: DataLoader,
        saving: CheckpointWriter,
        validation: Validation | None,
        log: MetricsLog | None,
        processes: Processes,
    ):
        self.trainer, self.batches, self.loader, self.processes = trainer, batches, loader, processes
        self.saving, self.validation, self.log = saving, validation, log
        self.recipe, self.pairs = trainer.recipe, loader.dataset.pairs
        self.progress = Progress()
        self.skipped: set[str] = set()
        self.shown = False  # the titles above the rows of scores
        self.sums: dict[str, torch.Tensor] = {}

    def restore(self, state: Mapping[str, object]) -> None:
        self.trainer.restore(state)
        self.progress = Progress(**state["progress"])
        if self.processes.rank < len(state["random"]):
            set_random_state(state["random"][self.processes.rank])

    def start(self) -> None:
        """Save the state of a new run before its first step, so that it can be resumed from any moment."""
        if self.progress == Progress():
            self.save()
        if self.progress.epoch > self.recipe.epoch:
            print_line(f"the run is complete: {self.recipe.epoch} of {self.recipe.epoch} epochs")

    def print_best(self) -> None:
        if self.validation and (epoch := self.validation.best_epoch(self.progress.scores)):
            value = self.progress.scores[epoch][self.validation.key]
            print_line(f"best: epoch {epoch}, {self.validation.metric.title} {value:.3f}")

    def train_epoch(self) -> None:
        progress, trainer = self.progress, self.trainer
        self.batches.start(progress.epoch, progress.batch)
        trainer.model.train()
        self.sums = {name: torch.tensor(value, device=trainer.device) for name, value in progress.sums.items()}
        self.saved, start, before = time.monotonic(), time.perf_counter(), progress.seen
        title = f"{progress.epoch}/{self.recipe.epoch}"
        off = None if self.processes.first else True
        with tqdm(total=len(self.pairs), initial=before, unit="img", desc=title, disable=off) as bar:
            for group in group_batches(self.loader, self.recipe.accumulate):
                images, shares = self.divide(group)
                batches = [batch.on(trainer.device) for batch in group]
                for losses in trainer.update(batches, shares, [self.names(batch) for batch in group], progress.epoch):
                    self.add_losses(losses, shares, images)
                progress.batch += len(group)
                progress.seen += images
                bar.update(images)
                at_end = progress.batch == self.batches.count
                if at_end or progress.batch % (LOG_EVERY * self.recipe.accumulate) == 0:
                    losses = self.mean_losses()
                    bar.set_postfix(loss=f"{losses['total']:.4f}", refresh=False)
                    self.write_losses("train", losses, (progress.seen - before) / (time.perf_counter() - start))
                if not at_end:
                    self.save_if_wanted()
        if progress.seen > before:
            losses, rate = self.mean_losses(), (progress.seen - before) / (time.perf_counter() - start)
            self.write_losses("epoch", losses, rate)
            if not sys.stderr.isatty():
                speed = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"  # 0.04, not 0.0
                print_line(f"epoch {title}  loss {losses['total']:.4f}  {speed} images/s")

    def divide(self, group: list[Batch]) -> tuple[int, list[float]]:
        """How many images the group holds over all processes, and the weight of each batch's loss in the sum.

        Gradients are averaged over processes, so a loss counts by its share of the images, times the processes.
        """
        for batch in group:
            self.report_skipped(batch.skipped)
        first = self.progress.batch
        images = sum(self.batches.images(first + number) for number in range(len(group)))
        return images, [len(batch.images) * self.processes.world / images for batch in group]

    def names(self, batch: Batch) -> list[str]:
        return [self.pairs[index].image.name for index in batch.indices.tolist()]

    def add_losses(self, losses: list[dict[str, torch.Tensor]], shares: list[float], images: int) -> None:
        """Add the losses of one optimizer step to the sums of the epoch."""
        for batch_losses, share in zip(losses, shares, strict=True):
            for name, loss in batch_losses.items():
                self.sums[name] = self.sums.get(name, 0) + loss * (share * images / self.processes.world)
        self.progress.weight += images

    def report_skipped(self, lines: Sequence[str]) -> None:
        for line in lines:
            if line not in self.skipped:
                warn(f"left out: {line}")
                self.skipped.add(line)

    def mean_losses(self) -> dict[str, float]:
        """Over the epoch's images so far, of all processes."""
        values = self.processes.sum([value.item() for value in self.sums.values()])
        return {name: value / self.progress.weight for name, value in zip(self.sums, values, strict=True)}

    def write_losses(self, kind: str, losses: Mapping[str, float], rate: float) -> None:
        if self.log:
            facts = {"epoch": self.progress.epoch, "learning_rate": self.trainer.rate, "images_per_second": rate}
            self.log.write(
                kind, self.trainer.steps, losses=losses, **facts, memory_mib=read_peak_memory(self.trainer.device)
            )

    def save_if_wanted(self) -> None:
        due = time.monotonic() - self.saved >= 60 * self.saving.minutes
        number, due = self.processes.any(self.signals.caught, due)
        if number or due:
            self.save()
        if number:
            raise Stopped(number, f" at {self.place()}; the state is in {self.saving.folder / 'last.pt'}")

    def place(self) -> str:
        return f"epoch {self.progress.epoch}, step {self.trainer.steps}"

    def save(self) -> None:
        self.trainer.guard.flush()
        self.progress.sums = {name: value.item() for name, value in self.sums.items()}
        random = self.processes.gather(get_random_state())
        if self.processes.first:
            state = self.trainer.state(self.saving.names)
            more = {"progress": vars(self.progress), "random": random}
            write_run_state(self.saving.folder / "last.pt", dict(self.saving.facts) | state | more)
        self.saved = time.monotonic()

    def end_epoch(self) -> None:
        """Checkpoint and validation; what is cut off here is done again by a run that resumes."""
        epoch, last = self.progress.epoch, self.progress.epoch == self.recipe.epoch
        validates = self.validation and (epoch % self.validation.every == 0 or last)
        if validates:
            self.save()
        with self.trainer.averaged():
            if self.processes.first and (epoch % 5 == 0 or last):
                print_line(f"saved {self.saving.write(f'{self.trainer.family.title}-{epoch}')}")
            if validates:
                with self.signals.stop_now():
                    self.validate(self.validation)
        self.trainer.end_epoch()
        self.progress = Progress(epoch=epoch + 1, scores=self.progress.scores)
        self.sums = {}
        self.save()
        (number,) = self.processes.any(self.signals.caught)
        if number and not last:
            raise Stopped(number, f" after epoch {epoch}; the state is in {self.saving.folder / 'last.pt'}")

    def validate(self, validation: Validation) -> None:
        """Score, print the epoch's row, keep the best."""
        epoch, scores, task = self.progress.epoch, self.progress.scores, validation.task
        best, first_row = validation.best_epoch(scores), not self.shown
        model, key = self.trainer.model, validation.key
        scores[epoch] = task.validate(model, self.processes)
        if not self.processes.first:
            return
        header, *rows = task.table(scores).splitlines()
        for row in ([header] if first_row else []) + rows[-1:]:
            print_line(row)
        self.shown = True
        if is_better(validation.metric, scores[epoch][key], None if best is None else scores[best][key]):
            print_line(f"saved {self.saving.write('best')}: the best {validation.metric.title} so far")
        picture = self.saving.folder / f"validation/epoch-{epoch:03}.png"
        make_folder(picture.parent)
        task.draw(model, picture)
        self.log.write("validation", self.trainer.steps, epoch=epoch, **scores[epoch])
        self.log.picture("validation", picture, self.trainer.steps)


def group_batches(loader: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """Lists of `count` batches; the last may hold fewer."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, count)):
        yield group


def read_peak_memory(device: torch.device) -> float:
    """MiB that this process has had at most: PyTorch's on a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
