"""The recipe of a training run: one dataclass, which is also the format of a flat YAML file."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from .atomic import write_atomic
from .classes import Classes
from .errors import UserError
from .limits import check_numbers, shorten
from .slice_view import SliceView
from .typed_yaml import read_fields

RELEASED_RECIPES: dict[str, dict[str, typing.Any]] = {  # model -> the values that differ from the defaults of `Recipe`
    "sam2unext": {"size": 1024, "batch_size": 1, "lr": 2e-4},
    "sam3unet": {"size": 336, "lr": 2e-4},
    "sam_med2d": {"size": 256, "epoch": 15, "batch_size": 2, "lr": 1e-4}
    | {"weight_decay": 0.0, "lr_scheduler": "constant"},
}


def define(default: object, help: str, group: str = "recipe", **options: object) -> typing.Any:
    """Returns a field of `Recipe` or `Study`. `cli.add_recipe_flags` makes a flag of train.py from each of `Recipe`.

    `group` is the group of flags in `--help`. Options are `choices`, the allowed values; `aliases`, other spellings of
    the flag; `task`, the only task that uses the field; `switch`, True if the flag takes no value.
    """
    return dataclasses.field(default=default, metadata={"help": help, "group": group, **options})


define_departure = partial(define, group="departures")
define_prompting = partial(define, group="prompts", task="prompts")
define_volumes = partial(define, group="volumes", task="masks")
define_study = partial(define, group="study")


@dataclass(frozen=True)
class Recipe:
    """The values that decide the result of a training run. The defaults are those of the released SAM2-UNet script.

    Raises UserError if a value is outside its limits or is not one of the choices.
    """

    model: str = define("sam2unet", "sam2unet, sam2unext, sam3unet or sam_med2d")
    encoder: str | None = define(
        None,
        "tiny, small, base_plus or large; for sam3unet large; for sam_med2d vit_b, vit_l or vit_h; default: the size "
        "of the weight file",
    )
    dino: str | None = define(
        None, "for sam2unext: small, base or large; v3_small, v3_base or v3_large; default: the size of the weight file"
    )
    encoder_adapter: bool | None = define(None, "use adapters in the encoder; default: True", "prompts")
    size: int = define(
        352,
        "side in pixels of the square that images are resized to; a multiple of 32, with sam3unet a multiple of 14",
        aliases=("--image_size",),
    )
    epoch: int = define(20, "number of passes over the training data", aliases=("--epochs",))
    batch_size: int = define(12, "images per batch, counted over all processes")
    lr: float = define(1e-3, "learning rate of the first epoch")
    lr_scheduler: str = define(
        "cosine",
        "learning rate per epoch: cosine falls to 1e-7, step halves it after epochs 5 and 10, constant keeps it",
        choices=("cosine", "step", "constant"),
    )
    weight_decay: float = define(5e-4, "weight decay of AdamW")
    seed: int = define(1024, "seed for weights, order and flips; the result does not depend on --workers and --cache")
    mask_threshold: int | None = define(None, "mask values above N are foreground; soft edges are cut", "mask values")
    foreground: tuple[int, ...] = define(
        (), "these mask values are foreground; for a mask with a palette, give palette indices", "mask values"
    )
    classes: Classes | None = define(
        None, "YAML file with the classes of the masks; default: foreground and background", "classes", task="masks"
    )
    window: str | None = define_volumes(
        None,
        "grey values of scans, and of pictures with more than 8 bits, that become 0 to 255: abdomen, lung, brain, bone "
        "or LEVEL,WIDTH (for CT in Hounsfield units); percentile (0.5 to 99.5 of a volume) or full; default: "
        "percentile; CT from DICOM needs a value",
    )
    axis: int | None = define_volumes(
        None,
        "cut volumes into slices perpendicular to this axis, from 0; of files with positions the axes run to the "
        "right, anterior and superior; default: the axis with the largest spacing",
    )
    context: int = define_volumes(
        0, "1: red, green and blue are the slice before, the slice and the slice after it; 0: grey"
    )
    finetune: str | None = define_departure(
        None,
        "what trains: adapters and decoder, decoder alone, or all (use a lower --lr); default: adapters, or full "
        "without pretrained weights",
        choices=("adapters", "decoder", "full"),
    )
    loss: str = define_departure(
        "released",
        "released: the structure loss of the released code; with --classes, cross-entropy plus Dice. structure: the "
        "structure loss, with --classes of each class against the rest. weighted: its cross-entropy also counts pixels "
        "near edges more, as in the formula of the paper",
        choices=("released", "structure", "weighted"),
        task="masks",
    )
    class_weights: tuple[str, ...] = define_departure(
        (),
        "with --classes: weight of each class in the loss; none, inverse (of its share of pixels), or N numbers",
        task="masks",
    )
    amp: str = define(
        "off",
        "half precision in the model: faster, half the memory, the losses are close to the same",
        "speed",
        choices=("off", "bf16", "fp16"),
    )
    accumulate: int = define_departure(1, "batches per optimizer step; BatchNorm still uses one batch")
    warmup: int = define_departure(0, "number of optimizer steps in which the learning rate rises from 0 to its value")
    multi_scale: tuple[float, ...] = define_departure(
        (), "one optimizer step for each factor, on the batch resized by it, for example 0.75 1 1.25", task="masks"
    )
    ema: float = define_departure(
        0.0, "validate and save the moving average of the weights, with this decay per step, e.g. 0.999; 0: no average"
    )
    augment: bool = define_departure(
        False,
        "also turn, zoom, shift and recolour the training images at random; for few images or random weights",
        task="masks",
        switch=True,
    )
    repeat: int = define_departure(
        1, "number of passes over the training images in one epoch; more than 1 is for few images", task="masks"
    )
    sync_bn: bool = define_departure(
        False, "under torchrun, BatchNorm uses the images of all processes", task="masks", switch=True
    )
    mask_num: int = define_prompting(5, "number of masks drawn from each image in a batch")
    iter_point: int = define_prompting(8, "optimizer steps with correcting clicks, after the first step of a batch")
    point_list: tuple[int, ...] = define_prompting(
        (1, 3, 5, 9), "each of these steps draws its number of clicks from this list"
    )
    multimask: bool = define_prompting(
        True, "True trains the best of the last three masks of the decoder, False trains its first mask"
    )
    rgb: bool = define_prompting(
        False, "True: channels are red, green, blue; False: the reverse, as in the released code"
    )
    mask_prompt: str = define_prompting(
        "probability",
        "values of a predicted mask that is the next prompt; SAM uses logits",
        choices=("probability", "logits"),
    )
    train_points: bool = define_prompting(False, "train the embeddings of points; the released code never does (a bug)")

    def __post_init__(self) -> None:
        check_numbers(vars(self))
        if not self.point_list:
            raise UserError("point_list takes numbers of points from 1 on, e.g. 1 3 5 9")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}; it must be from 0 to below 1, e.g. 0.999")
        if self.multi_scale:
            largest = max(self.multi_scale)
            check_numbers({"size": round(largest * self.size)}, f"multi_scale {largest:g}")
        if make_foreground_rule(self.mask_threshold, self.foreground) is not None and self.classes:
            raise UserError("classes and --mask_threshold or --foreground both say what mask values mean; give one")
        check_class_weights(self.class_weights, self.classes)
        self.slice_view  # noqa: B018  raises UserError for a wrong value
        for name, choices in CHOICES.items():
            if getattr(self, name) not in (*choices, getattr(type(self), name)):
                raise UserError(f"{name} is {shorten(getattr(self, name))}; there are {', '.join(choices)}")

    @property
    def mask_rule(self) -> MaskRule:
        return self.classes or make_foreground_rule(self.mask_threshold, self.foreground)

    @property
    def slice_view(self) -> SliceView:
        return SliceView(self.axis, self.window, self.context)

    @property
    def class_count(self) -> int | None:
        """The number of outputs of the network. None: one, for foreground and background."""
        return len(self.classes.items) if self.classes else None

    def refuse_others(self, fields: Sequence[str], title: str) -> None:
        """Raises UserError if one of `fields`, which the model `title` does not use, differs from its default."""
        released = type(self)(**RELEASED_RECIPES.get(self.model, {}))
        if changed := [name for name in fields if getattr(self, name) != getattr(released, name)]:
            raise UserError(f"{title} has no use for --{' --'.join(changed)}")

    @classmethod
    def read(
        cls, path: Path | None = None, text: str | None = None, class_count: int | None = None, **flags: typing.Any
    ) -> Recipe:
        """Returns the released recipe of the model, changed by the file, then by the flags that are not None.

        The file may also hold the keys of `Study`. `text` is the recipe if the file `path` also holds other content.
        `class_count` is the number of classes of a network, for a file that does not name them.
        """
        values = {} if path is None else read_fields(path, cls, beside=Study, text=text)
        flags = {key: value for key, value in flags.items() if value is not None}
        if flags.keys() & {"mask_threshold", "foreground"}:  # they replace both keys of the file
            values = {key: value for key, value in values.items() if key not in ("mask_threshold", "foreground")}
        values |= flags
        if class_count and not values.get("classes"):
            values["classes"] = Classes.number(class_count)
        return cls(**RELEASED_RECIPES.get(values.get("model", ""), {}) | values)

    def write(self, path: Path, without: Sequence[str] = ()) -> None:
        """Writes a file that `read` accepts, without the fields in `without`."""
        values = {key: value for key, value in self.to_dict().items() if key not in without}
        with write_atomic(path) as file:
            file.write(yaml.safe_dump(values, sort_keys=False).encode())

    def to_dict(self) -> dict[str, object]:
        """Returns the values for a JSON or YAML file, without those that are None or empty."""
        values = {name: value for name in FIELDS if (value := getattr(self, name)) not in (None, ())}
        if self.classes:
            values["classes"] = self.classes.to_entries()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
CHOICES = {name: choices for name, field in FIELDS.items() if (choices := field.metadata.get("choices"))}
MASK_FIELDS, PROMPT_FIELDS = (
    tuple(name for name, field in FIELDS.items() if field.metadata.get("task") == task) for task in ("masks", "prompts")
)


@dataclass(frozen=True)
class Study:
    """The data sets and the expected numbers of a published result. A recipe file can hold these keys too."""

    train: tuple[str, ...] = define_study((), "folders with images/ and masks/ under the data root; all of them train")
    train_count: int | None = define_study(None, "published number of pairs in all of train, if known")
    test: tuple[str, ...] = define_study((), "folders under the data root that are scored")
    test_count: tuple[int, ...] = define_study((), "published number of pairs in each of test, if known")
    protocol: str = define_study("released", "columns of the result, a name for --protocol of eval.py")
    expect: str | None = define_study(None, "published numbers to compare with, a name for --expect of eval.py")

    def __post_init__(self) -> None:
        if self.test_count and len(self.test_count) != len(self.test):
            raise UserError(
                f"test_count has {len(self.test_count)} numbers for {len(self.test)} data sets in test; give one each"
            )

    @classmethod
    def read(cls, path: Path | None) -> Study:
        return cls() if path is None else cls(**read_fields(path, cls, beside=Recipe))


# Foreground: values above N, these values, or None for masks of 0 and 255.
ForegroundRule = int | tuple[int, ...] | None
MaskRule = ForegroundRule | Classes  # what the values of a mask mean


def check_class_weights(weights: Sequence[str], classes: Classes | None) -> None:
    """Raises UserError if `weights` are not empty, `none`, `inverse` or a positive number for each class."""
    if not weights or list(weights) in (["none"], ["inverse"]) and classes:
        return
    if not classes:
        raise UserError("class_weights need --classes")
    try:
        numbers = [float(weight) for weight in weights]
    except ValueError:
        numbers = []
    if len(numbers) != len(classes.items) or not all(0 < number < 1e6 for number in numbers):
        raise UserError(
            f"class_weights is {shorten(' '.join(weights))}; wanted none, inverse, or {len(classes.items)} numbers "
            f"above 0, for {shorten(', '.join(classes.names), 200)}"
        )


def make_foreground_rule(threshold: int | None, values: Sequence[int] | None) -> ForegroundRule:
    """Returns the rule for the values of `--mask_threshold` and `--foreground`. Raises UserError for both together."""
    if threshold is not None and values:
        raise UserError("--mask_threshold and --foreground both say which mask values are foreground; give one")
    return tuple(values) if values else threshold


def to_foreground_flags(rule: ForegroundRule) -> list[str]:
    """Returns the flags that give the same rule."""
    if rule is None:
        return []
    return ["--foreground", *map(str, rule)] if isinstance(rule, tuple) else ["--mask_threshold", str(rule)]
