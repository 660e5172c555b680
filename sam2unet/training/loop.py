"""The epochs of a run: train on batches, write checkpoints and `last.pt`, validate, log."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..atomic import make_folder
from ..data.batches import ORDER, Batches
from ..errors import Stopped, print_line, warn
from ..masks.dataset import MaskBatch
from ..prompts.dataset import PromptBatch
from ..runtime.parallel import batched
from ..runtime.processes import Processes
from ..runtime.signals import Signals
from ..scoring.columns import Metric, is_better
from ..task import Task
from .metrics_log import MetricsLog
from .numbered_files import NumberedFiles
from .state import get_random_state, set_random_state, write_run_state
from .trainer import Trainer

LOG_EVERY = 20  # updates between lines of metrics.jsonl
Batch = MaskBatch | PromptBatch


@dataclass(frozen=True)
class Validation:
    """How a run validates: after every `every`-th epoch and after the last one."""

    task: Task
    every: int
    key: str  # the key in `task.metrics` of the metric that selects the best epoch

    @property
    def metric(self) -> Metric:
        return self.task.metrics[self.key]

    def best_epoch(self, scores: Mapping[int, Mapping[str, float]]) -> int | None:
        """Returns the first epoch with the best value, or None if `scores` is empty."""
        best = None
        for epoch in sorted(scores):
            if is_better(self.metric, scores[epoch][self.key], None if best is None else scores[best][self.key]):
                best = epoch
        return best


@dataclass(frozen=True)
class CheckpointWriter:
    """Where and how a run saves."""

    folder: Path  # the folder of all files
    minutes: float  # the longest time between two versions of `last.pt`
    # the entries of the model's state dict that `last.pt` holds; files that the run started from hold the others
    names: Sequence[str]
    facts: Mapping[str, object]  # inputs of the run for `last.pt`. A run that resumes must have the same facts.
    write: Callable[[str], Path]  # writes a checkpoint with this stem and returns its path
    numbered: NumberedFiles


@dataclass
class Progress:
    """The position of a run."""

    epoch: int = 1
    batch: int = 0  # index of the next batch in `epoch`. After the last batch, validation may still follow.
    seen: int = 0  # number of images of this epoch so far
    # sum of each loss over these images and their optimizer steps, by name; in `last.pt` over all processes
    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0  # number of terms in each sum: images that are left out have none; in `last.pt` of all processes
    # epoch -> metric -> value, for the validated epochs
    scores: dict[int, dict[str, float]] = field(default_factory=dict)


class Loop:
    """The loop over epochs. `loader` yields the batches of `batches`. `signals` must be set before `train_epoch`."""

    signals: Signals

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        loader: DataLoader,
        writer: CheckpointWriter,
        validation: Validation | None,
        log: MetricsLog | None,
        processes: Processes,
    ):
        self.trainer, self.batches, self.loader, self.processes = trainer, batches, loader, processes
        self.writer, self.validation, self.log = writer, validation, log
        dataset: Any = loader.dataset
        self.recipe, self.images = trainer.recipe, dataset.images
        self.progress = Progress()
        self.skipped: set[str] = set()
        self.header_printed = False
        self.sums: dict[str, torch.Tensor] = {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.trainer.restore(state)
        self.progress = Progress(**state["progress"])
        if not self.processes.first:  # the sums of all processes go on in the first one
            self.progress.sums, self.progress.weight = dict.fromkeys(self.progress.sums, 0.0), 0
        self.writer.numbered.times.update(state.get("files", {}))
        if self.processes.rank < len(state["random"]):
            set_random_state(state["random"][self.processes.rank])

    def start(self) -> None:
        """Saves the state of a new run before its first step, so that the run can be resumed from then on."""
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
        self.batches.start(progress.epoch, progress.seen)
        trainer.model.train()
        self.sums = {name: torch.tensor(value, device=trainer.device) for name, value in progress.sums.items()}
        self.saved, start, before = time.monotonic(), time.perf_counter(), progress.seen
        title = f"{progress.epoch}/{self.recipe.epoch}"
        hidden = None if self.processes.first else True  # None: hidden if the output is not a terminal
        with tqdm(total=self.batches.total, initial=before, unit="img", desc=title, disable=hidden) as bar:
            for group in batched(self.loader, self.recipe.accumulate):
                images, shares = self.compute_shares(group)
                batches = [batch.on(trainer.device) for batch in group]
                names = [self.list_names(batch) for batch in group]
                for losses in trainer.update(batches, shares, names, progress.epoch):
                    self.add_losses(losses, shares, images)
                progress.batch += len(group)
                progress.seen += images
                bar.update(images)
                at_end = progress.seen == self.batches.total
                if at_end or progress.batch % (LOG_EVERY * self.recipe.accumulate) == 0:
                    means = self.mean_losses()
                    bar.set_postfix(loss=f"{means['total']:.4f}", refresh=False)
                    self.write_losses("train", means, (progress.seen - before) / (time.perf_counter() - start))
                if not at_end:
                    self.save_if_wanted()
        if progress.seen > before:
            means, rate = self.mean_losses(), (progress.seen - before) / (time.perf_counter() - start)
            self.write_losses("epoch", means, rate)
            if not sys.stderr.isatty():
                speed = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"  # 0.04, not 0.0
                print_line(f"epoch {title}  loss {means['total']:.4f}  {speed} images/s")

    def compute_shares(self, group: Sequence[Batch]) -> tuple[int, list[float]]:
        """Returns the number of images in the group over all processes, and the weight of each batch's loss.

        A weight is the batch's share of these images, times the number of processes, which average their gradients. It
        is 0 if the batch has fewer images than there are processes and another process counts the image of this one.
        """
        for batch in group:
            self.report_skipped(batch.skipped)
        sizes = [end - begin for begin, end in islice(self.batches.bounds(self.progress.seen), len(group))]
        rank, images = self.processes.rank, sum(sizes)
        counts = [len(batch.images) * (rank < size) for batch, size in zip(group, sizes, strict=True)]
        return images, [count * self.processes.world / images for count in counts]

    def list_names(self, batch: Batch) -> list[str]:
        return [self.images[index].name for index in batch.indices.tolist()]

    def add_losses(self, losses: list[dict[str, torch.Tensor]], shares: list[float], images: int) -> None:
        """Adds the losses of one optimizer step to the sums of the epoch."""
        for batch_losses, share in zip(losses, shares, strict=True):
            for name, loss in batch_losses.items():
                self.sums[name] = self.sums.get(name, 0) + loss * (share * images / self.processes.world)
        self.progress.weight += round(sum(shares) * images / self.processes.world)  # images of this process

    def report_skipped(self, lines: Sequence[str]) -> None:
        for line in lines:
            if line not in self.skipped:
                warn(f"left out: {line}")
                self.skipped.add(line)

    def mean_losses(self) -> dict[str, float]:
        """Returns the mean of each loss over the images of this epoch so far, over all processes."""
        *totals, weight = self.sum_losses()
        return {name: total / weight for name, total in zip(self.sums, totals, strict=True)}

    def sum_losses(self) -> list[float]:
        """Returns the sum of each loss over all processes, and then the number of terms in each sum."""
        return self.processes.sum([*(value.item() for value in self.sums.values()), self.progress.weight])

    def write_losses(self, kind: str, losses: Mapping[str, float], rate: float) -> None:
        if self.log:
            facts = {"epoch": self.progress.epoch, "learning_rate": self.trainer.rate, "images_per_second": rate}
            facts["memory_mib"] = read_peak_memory(self.trainer.device)
            self.log.write(kind, self.trainer.steps, losses=losses, **facts)

    def save_if_wanted(self) -> None:
        is_late = time.monotonic() - self.saved >= 60 * self.writer.minutes
        number, due = self.processes.any(self.signals.caught, is_late)
        if number or due:
            self.save()
        if number:
            raise Stopped(number, f" at {self.describe_position()}; the state is in {self.writer.folder / 'last.pt'}")

    def describe_position(self) -> str:
        return f"epoch {self.progress.epoch}, step {self.trainer.steps}"

    def save(self) -> None:
        self.trainer.guard.flush()
        *totals, weight = self.sum_losses()
        random = self.processes.gather(get_random_state())
        if self.processes.first:
            state = self.trainer.state(self.writer.names)
            progress = vars(self.progress) | {"sums": dict(zip(self.sums, totals, strict=True)), "weight": weight}
            more = {"progress": progress, "random": random, "order": ORDER, "files": self.writer.numbered.times}
            write_run_state(self.writer.folder / "last.pt", dict(self.writer.facts) | state | more)
        self.saved = time.monotonic()

    def end_epoch(self) -> None:
        """Writes the checkpoint and validates. If this is interrupted, a run that resumes does it again."""
        self.trainer.guard.flush()
        epoch, last = self.progress.epoch, self.progress.epoch == self.recipe.epoch
        validation = self.validation if self.validation and (epoch % self.validation.every == 0 or last) else None
        if self.recipe.ema and epoch == 1:
            warn_slow_average(self.recipe.ema, self.trainer.steps * self.recipe.epoch)
        if validation:
            self.save()
        with self.trainer.averaged():
            if self.processes.first and (epoch % 5 == 0 or last):
                path = self.writer.write(f"{self.trainer.family.title}-{epoch}")
                print_line(f"saved {path}")
                self.writer.numbered.add(path)
            if validation:
                # Without --sync_bn, each process has its own means in BatchNorm. A checkpoint has those of the first.
                self.processes.copy_first_(b for b in self.trainer.model.buffers() if b.is_floating_point())
                with self.signals.stop_now():
                    self.validate(validation)
        self.trainer.end_epoch()
        self.progress = Progress(epoch=epoch + 1, scores=self.progress.scores)
        self.sums = {}
        self.save()
        (number,) = self.processes.any(self.signals.caught)
        if number and not last:
            raise Stopped(number, f" after epoch {epoch}; the state is in {self.writer.folder / 'last.pt'}")

    def validate(self, validation: Validation) -> None:
        """Computes and prints the scores of the epoch. Writes a checkpoint if they are the best so far."""
        epoch, scores, task = self.progress.epoch, self.progress.scores, validation.task
        best, first_row = validation.best_epoch(scores), not self.header_printed
        model, key = self.trainer.model, validation.key
        scores[epoch] = task.validate(model, self.processes)
        if not self.processes.first:
            return
        header, *rows = task.table(scores).splitlines()
        for row in ([header] if first_row else []) + rows[-1:]:
            print_line(row)
        self.header_printed = True
        if is_better(validation.metric, scores[epoch][key], None if best is None else scores[best][key]):
            print_line(f"saved {self.writer.write('best')}: the best {validation.metric.title} so far")
        assert self.log is not None
        picture = self.writer.folder / f"validation/epoch-{epoch:03}.png"
        make_folder(picture.parent)
        task.draw(model, picture)
        self.writer.numbered.add(picture)
        self.log.write("validation", self.trainer.steps, epoch=epoch, **scores[epoch])
        self.log.picture("validation", picture, self.trainer.steps)


def warn_slow_average(decay: float, steps: int) -> None:
    """Warns if an average of the weights keeps much of the first weights in a run with this number of steps."""
    share = decay**steps
    if share > 0.05:
        fitting = 1 - min(0.9, float(f"{4.6 / steps:.1g}"))  # leaves about 1 %, because ln 0.01 = -4.6
        warn(
            f"the run has {steps} optimizer steps, after which the averaged weights are still {share:.0%} those of the "
            f"start; give a lower --ema, for example {fitting:g}"
        )


def read_peak_memory(device: torch.device) -> float:
    """Returns the peak memory of this process in MiB: PyTorch's memory on a GPU, resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
