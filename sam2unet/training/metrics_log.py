"""Writes the measurements of a run as lines of JSON, and for TensorBoard."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..atomic import write_atomic
from ..errors import UserError
from ..runtime.versions import import_extra

NO_TENSORBOARD = (
    'TensorBoard is not installed; pip install tensorboard (the extra "log" of sam2unet), or leave out --tensorboard; '
    "metrics.jsonl holds the same numbers"
)


class MetricsLog:
    """Writes `metrics.jsonl` in the folder of a run and, with `tensorboard`, event files in its folder tensorboard/.

    A line is on disk when `write` returns. A run that resumes keeps the lines up to `step`, the step of its state. If
    it repeats work of that step, the line is not written a second time. A new run has the step 0 and an empty log.
    Raises UserError if a file cannot be read or written, or TensorBoard is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False, step: int = 0):
        self.path = folder / "metrics.jsonl"
        self.step = step
        kept = read_kept_lines(self.path, step) if step else []
        self.kinds = {kind for kind, line_step, _ in kept if line_step == step}  # that this step has already
        self.events = None
        with report_log_errors(self.path):
            if tensorboard:
                package = import_extra("torch.utils.tensorboard", NO_TENSORBOARD)
                self.events = package.SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else 0)
            with write_atomic(self.path) as file:
                file.writelines(line for _, _, line in kept)

    def write(self, kind: str, step: int, **values: object) -> None:
        """Writes a line. Values can be dicts of numbers. Numbers that are not finite become null."""
        if step == self.step and kind in self.kinds:
            return
        line = json.dumps({"kind": kind, "step": step} | replace_nonfinite(values), allow_nan=False)
        with report_log_errors(self.path):
            with open(self.path, "ab") as file:
                file.write(f"{line}\n".encode())
            if self.events:
                for name, value in flatten_scalars(values, kind):
                    self.events.add_scalar(name, value, step)
                self.events.flush()

    def picture(self, tag: str, path: Path, step: int) -> None:
        """Shows an image file in TensorBoard."""
        if self.events:
            with report_log_errors(path):
                with Image.open(path) as image:
                    self.events.add_image(tag, np.asarray(image.convert("RGB")), step, dataformats="HWC")
                self.events.flush()

    def close(self) -> None:
        if self.events:
            with report_log_errors(self.path):
                self.events.close()


@contextmanager
def report_log_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(
            f"cannot write the log {path}: {e.strerror or e}; fix this, then continue with --resume auto"
        ) from e


def read_kept_lines(path: Path, step: int) -> list[tuple[str, int, bytes]]:
    """Returns kind, step and text of the lines up to `step`. Drops incomplete lines, which a killed run can leave."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    kept = []
    for line in lines:
        try:
            values = json.loads(line)
            if line.endswith(b"\n") and values["step"] <= step:
                kept.append((values["kind"], values["step"], line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return kept


def replace_nonfinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): replace_nonfinite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten_scalars(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, float]]:
    """Yields each number with its path of names after `prefix`, for example `train/losses/main`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_scalars(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)):
            yield f"{prefix}/{name}", value
