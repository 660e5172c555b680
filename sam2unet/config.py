"""What a training run computes: one flat file, one dataclass."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import UserError
from .files import written_whole


@dataclass(frozen=True)
class Recipe:
    """Defaults are the released SAM2-UNet script's. Raises UserError for a value out of range."""

    model: str = "sam2unet"
    encoder: str | None = None  # none: the size of the weights in hiera_path, or large without them
    size: int = 352  # side in pixels that images are resized to
    epoch: int = 20
    batch_size: int = 12
    lr: float = 1e-3  # falls along a cosine to 1e-7, a step per epoch
    weight_decay: float = 5e-4
    seed: int = 1024
    mask_threshold: int | None = None  # none: masks are 0/255 and may be soft at edges

    def __post_init__(self) -> None:
        for name in ("epoch", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay is {self.weight_decay}; it must be 0 or above")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must be 0 or above")

    @classmethod
    def read(cls, path: Path | None = None, **flags: object) -> Recipe:
        """Defaults, then what the file says, then every flag that is not None."""
        values = {} if path is None else read_yaml(path)
        types = typing.get_type_hints(cls)
        if unknown := sorted(set(values) - set(types)):
            raise UserError(f"{path}: unknown key {', '.join(unknown)}; known are {', '.join(types)}")
        values = {key: coerce(path, key, types[key], value) for key, value in values.items()}
        return cls(**values | {key: value for key, value in flags.items() if value is not None})

    def write(self, path: Path) -> None:
        """As a file that `read` takes."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        with written_whole(path) as file:
            file.write(yaml.safe_dump(values, sort_keys=False).encode())


def read_yaml(path: Path) -> dict[str, object]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(values or {}, dict):
        raise UserError(f"{path} must hold lines of the form `key: value`")
    return {str(key): value for key, value in (values or {}).items()}


def coerce(path: Path | None, key: str, wanted: object, value: object) -> object:
    """`value` as the field's type: PyYAML reads 2e-4 as text."""
    options = typing.get_args(wanted) or (wanted,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    try:
        if isinstance(value, bool) or (kind is int and float(value) != int(float(value))):
            raise ValueError
        return kind(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: {key} is {value!r}; wanted {kind.__name__}") from None
