"""What a training run computes: one flat file, one dataclass."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from .atomic import read_yaml, write_atomic
from .errors import UserError
from .limits import check_numbers, shorten

CHOICES = {
    "finetune": ("adapters", "decoder", "full"),
    "loss": ("released", "weighted"),
    "amp": ("off", "bf16", "fp16"),
    "lr_scheduler": ("cosine", "step", "constant"),
    "mask_prompt": ("probability", "logits"),
}
SIZE_FIELDS = ("encoder", "dino")  # options that are the sizes of a model's parts
# Fields that only one kind of model has a use for.
MASK_FIELDS = ("loss", "multi_scale", "sync_bn")
PROMPT_FIELDS = ("mask_num", "iter_point", "point_list", "multimask", "rgb", "mask_prompt", "train_points")
RELEASED_RECIPES: dict[str, dict[str, object]] = {  # model -> where its released recipe is not the defaults below
    "sam2unext": {"size": 1024, "batch_size": 1, "lr": 2e-4},
    "sam_med2d": {
        "size": 256,
        "epoch": 15,
        "batch_size": 2,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "lr_scheduler": "constant",
    },
}


@dataclass(frozen=True)
class Recipe:
    """What a run computes; defaults are the released SAM2-UNet script's. UserError for a value out of range."""

    model: str = "sam2unet"
    encoder: str | None = None  # its size; none: that of the weights to start from, or the released one without them
    dino: str | None = None  # size of DINO, for sam2unext; none: likewise
    encoder_adapter: bool | None = None  # adapters in the encoder, for sam_med2d; none: yes
    size: int = 352  # side in pixels that images are resized to
    epoch: int = 20
    batch_size: int = 12  # images per optimiser step of one micro-batch, over all processes together
    lr: float = 1e-3
    lr_scheduler: str = "cosine"  # per epoch: to 1e-7 along a cosine; or `step`, half after epochs 5 and 10
    weight_decay: float = 5e-4
    seed: int = 1024
    mask_threshold: int | None = None  # mask values above it are foreground
    foreground: tuple[int, ...] = ()  # mask values that are; with neither, masks are 0/255 and may be soft at edges
    finetune: str | None = None  # none: adapters (and decoder), or everything where there are no weights to keep
    loss: str = "released"
    amp: str = "off"
    accumulate: int = 1  # batches per optimiser step
    warmup: int = 0  # optimiser steps over which the learning rate rises to its value
    multi_scale: tuple[float, ...] = ()  # an optimiser step for each, on the batch resized by it; none: as it is
    ema: float = 0.0  # decay of the averaged weights that are validated and saved; 0: the weights themselves
    sync_bn: bool = False  # BatchNorm over the batch of all processes
    # For models that take prompts.
    mask_num: int = 5  # masks drawn of each image in a batch
    iter_point: int = 8  # optimiser steps after a batch's first, with clicks that correct the answer before
    point_list: tuple[int, ...] = (1, 3, 5, 9)  # clicks in one of these, drawn anew for each
    multimask: bool = True  # train the best of three masks; without, a fourth
    rgb: bool = False  # give the encoder red, green, blue; released: the reverse, with constants for this order
    mask_prompt: str = "probability"  # how an answer is a prompt for the next; `logits` as in SAM
    train_points: bool = False  # the embeddings of points train too; released: a slip keeps them as they are

    def __post_init__(self) -> None:
        check_numbers(vars(self))
        if not self.point_list:
            raise UserError("point_list takes numbers of points from 1 on, e.g. 1 3 5 9")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}; it must be from 0 to below 1, e.g. 0.999")
        if self.multi_scale:
            check_numbers({"size": round(max(self.multi_scale) * self.size)})
        make_foreground_rule(self.mask_threshold, self.foreground)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in (*choices, getattr(type(self), name)):
                raise UserError(f"{name} is {shorten(getattr(self, name))}; there are {', '.join(choices)}")

    @property
    def mask_rule(self) -> ForegroundRule:
        return make_foreground_rule(self.mask_threshold, self.foreground)

    def refuse_others(self, fields: Sequence[str], title: str) -> None:
        """UserError if one of `fields`, which the model `title` has no use for, is not as by default."""
        released = type(self)(**RELEASED_RECIPES.get(self.model, {}))
        if changed := [name for name in fields if getattr(self, name) != getattr(released, name)]:
            raise UserError(f"{title} has no use for --{' --'.join(changed)}")

    @classmethod
    def read(cls, path: Path | None = None, **flags: object) -> Recipe:
        """The model's released recipe, then what the file says, then every flag that is not None.

        Keys of `Study` are left to it.
        """
        values = {} if path is None else read_fields(path, cls, beside=Study)
        flags = {key: value for key, value in flags.items() if value is not None}
        if flags.keys() & {"mask_threshold", "foreground"}:  # a flag wins over either of the two in the file
            values = {key: value for key, value in values.items() if key not in ("mask_threshold", "foreground")}
        values |= flags
        return cls(**RELEASED_RECIPES.get(values.get("model"), {}) | values)

    def write(self, path: Path, without: Sequence[str] = ()) -> None:
        """As a file that `read` takes; `without` fields that the model has no use for."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, ())}
        values = {key: value for key, value in values.items() if key not in without}
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        with write_atomic(path) as file:
            file.write(yaml.safe_dump(values, sort_keys=False).encode())


@dataclass(frozen=True)
class Study:
    """The data of a published result: what a recipe file says beside the recipe.

    Attributes:
        train, test: names of folders with images/ and masks/ under a data root; a model trains on all of `train`.
        train_count, test_count: pairs in all of `train` and in each of `test`, as published; none where unknown.
        protocol: whose columns the result is reported in, a name of `scoring.columns.PROTOCOLS`.
        expect: whose figures to compare with, a name in `scoring/expected.yaml`.
    """

    train: tuple[str, ...] = ()
    train_count: int | None = None
    test: tuple[str, ...] = ()
    test_count: tuple[int, ...] = ()
    protocol: str = "released"
    expect: str | None = None

    def __post_init__(self) -> None:
        if self.test_count and len(self.test_count) != len(self.test):
            raise UserError(
                f"test_count has {len(self.test_count)} numbers for {len(self.test)} data sets in test; give one each"
            )

    @classmethod
    def read(cls, path: Path | None) -> Study:
        return cls() if path is None else cls(**read_fields(path, cls, beside=Recipe))


def read_fields(path: Path, wanted: type, beside: type) -> dict[str, object]:
    """The fields of the dataclass `wanted` that the file gives; UserError for a key of neither it nor `beside`."""
    values = read_yaml(path)
    types, others = typing.get_type_hints(wanted), typing.get_type_hints(beside)
    if unknown := sorted(set(values) - set(types) - set(others)):
        names = shorten(", ".join(unknown), 200)
        raise UserError(f"{path}: unknown key {names}; known are {', '.join(types | others)}")
    fields = {key: convert(path, key, types[key], value) for key, value in values.items() if key in types}
    check_numbers(fields, path)
    return fields


def convert(path: Path, key: str, wanted: object, value: object) -> object:
    """`value`, which `read_yaml` gives as text, as the field's type. Whole numbers are exact."""
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{path}: {key} is {describe(value)}; wanted a list, e.g. [a, b]")
        return tuple(convert(path, key, typing.get_args(wanted)[0], item) for item in value)
    options = typing.get_args(wanted) or (wanted,)
    if value in NULLS and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    try:
        return CONVERTERS[kind](value)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise UserError(f"{path}: {key} is {describe(value)}; wanted {kind.__name__}") from None


def convert_int(text: str) -> int:
    """`5` or `1_000`, exact; also `5.0` and `1e3`."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if number != int(number) or abs(number) > 2**53:
            raise
        return int(number)


def convert_str(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError
    return text


def describe(value: object) -> str:
    """A list or a mapping by its kind alone: a small file can hold one of any size, by aliases."""
    return shorten(repr(value)) if isinstance(value, str) else {list: "a list"}.get(type(value), "a mapping")


NULLS = ("", "~", "null", "Null", "NULL")  # as YAML 1.1 has them
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
CONVERTERS = {
    int: convert_int,
    float: float,
    str: convert_str,
    bool: lambda text: BOOLEANS[text.lower()],
}


ForegroundRule = int | tuple[int, ...] | None  # values above N; exactly these; none: the mask is 0/255


def make_foreground_rule(threshold: int | None, values: Sequence[int] | None) -> ForegroundRule:
    """From the values of `--mask_threshold` and `--foreground`; UserError if both are given."""
    if threshold is not None and values:
        raise UserError("--mask_threshold and --foreground both say which mask values are foreground; give one")
    return tuple(values) if values else threshold


def to_foreground_flags(rule: ForegroundRule) -> list[str]:
    """The flags that `make_foreground_rule` makes the same rule of."""
    if rule is None:
        return []
    return ["--mask_threshold", str(rule)] if np.ndim(rule) == 0 else ["--foreground", *map(str, rule)]
