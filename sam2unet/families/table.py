"""The list of models: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import UserError
from ..limits import check_numbers, shorten
from ..weights.weight_files import WeightPaths
from . import build as building
from .build import BuiltModel
from .shape import NetworkShape


@dataclass(frozen=True)
class WeightFlag:
    """A frozen part whose weights come from a file: the file's flag, and the option that is the part's size."""

    flag: str
    part: str
    option: str


@dataclass(frozen=True)
class Family:
    """What differs between models.

    Attributes:
        title: the published name; checkpoints are called `<title>-<epoch>.pth`.
        paper: its title and arXiv number.
        task: `masks`, an image's one map; or `prompts`, a mask for each prompt.
        weight_flags: the frozen parts.
        options: the fields of a recipe that shape the network.
        build: a new model; of an option that is not given, the size found in the part's file, else the released one.
        find_shape: a complete state dict -> the shape of its network, or None if the shape is unknown.
        marker: a name that only this model's checkpoints hold.
        parts: names of a model's parts and the parameters in each: frozen ones, adapters, decoder.
        idle: parameters that no loss reaches.
        changing: which parameters a loss reaches differs between the steps of a batch.
        logits: of a model for masks, normalised images (B, 3, S, S) -> the answer's logits (B, 1, S, S).
        stride: input sides are multiples of it.
        resize_weights: a state dict and a shape -> the weights of a network of this shape. None: they have one shape.
    """

    title: str
    paper: tuple[str, str]
    task: str
    weight_flags: tuple[WeightFlag, ...]
    options: tuple[str, ...]
    build: Callable[[NetworkShape, WeightPaths], BuiltModel]
    find_shape: Callable[[Mapping[str, Tensor]], NetworkShape | None]
    marker: str
    parts: Callable[[nn.Module], dict[str, list[nn.Parameter]]]
    idle: Callable[[nn.Module], list[nn.Parameter]] = lambda model: []
    changing: bool = False
    logits: Callable[[nn.Module, Tensor], Tensor] | None = None
    stride: int = 32
    resize_weights: Callable[[Mapping[str, Tensor], NetworkShape], dict[str, Tensor]] | None = None

    @property
    def name(self) -> str:
        """As `create_model` takes it."""
        return next(name for name, family in FAMILIES.items() if family is self)

    def describe(self, shape: NetworkShape) -> str:
        """Returns the published name with the sizes, for example `SAM2-UNet large`."""
        first, *others = self.weight_flags
        sizes = (f"with {source.part} {getattr(shape, source.option)}" for source in others)
        return " ".join((self.title, getattr(shape, first.option), *sizes))


TRUNK = WeightFlag("hiera_path", "trunk", "encoder")

FAMILIES = {
    "sam2unet": Family(
        title="SAM2-UNet",
        paper=(
            "SAM2-UNet: Segment Anything 2 Makes Strong Encoder for Natural and Medical Image Segmentation",
            "2408.08870",
        ),
        task="masks",
        weight_flags=(TRUNK,),
        options=("encoder",),
        build=building.build_sam2unet,
        find_shape=building.find_sam2unet_shape,
        marker="encoder.blocks.0.prompt_learn.0.weight",
        parts=building.split_by_prefix(("encoder.", "trunk")),
        idle=lambda model: list(model.up4.parameters()),
        logits=lambda model, images: model(images, sides=False)[0],
    ),
    "sam2unext": Family(
        title="SAM2-UNeXT",
        paper=(
            "SAM2-UNeXT: An Improved High-Resolution Baseline for Adapting Foundation Models to Downstream "
            "Segmentation Tasks",
            "2508.03566",
        ),
        task="masks",
        weight_flags=(TRUNK, WeightFlag("dinov2_path", "dino", "dino")),
        options=("encoder", "dino"),
        build=building.build_sam2unext,
        find_shape=building.find_sam2unext_shape,
        marker="sam.blocks.0.prompt_learn.0.weight",
        parts=building.split_by_prefix(("sam.", "trunk"), ("dino.", "dino")),
        logits=lambda model, images: model(images)[0],
    ),
    "sam_med2d": Family(
        title="SAM-Med2D",
        paper=("SAM-Med2D", "2308.16184"),
        task="prompts",
        weight_flags=(WeightFlag("sam_checkpoint", "encoder", "encoder"),),
        options=("encoder", "size", "encoder_adapter"),
        build=building.build_sam_med2d,
        find_shape=building.find_sam_med2d_shape,
        marker="mask_decoder.iou_token.weight",
        parts=building.split_sam_med2d,
        idle=lambda model: list(model.prompt_encoder.mask_downscaling.parameters()),
        changing=True,
        resize_weights=building.resize_sam_weights,
    ),
}


def find_family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError(f"no model named {shorten(name)}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def find_family_of(model: nn.Module) -> Family:
    """The family that a built model belongs to, by the names of its weights; UserError for any other model."""
    names = {name for name, _ in model.named_parameters()} if isinstance(model, nn.Module) else ()
    family = next((family for family in FAMILIES.values() if family.marker in names), None)
    if family is None:
        raise UserError(f"{type(model).__name__} is no model of this package; sam2unet.load_model gives one")
    return family


def check_size(family: Family, size: int) -> None:
    """UserError for an input side that the model cannot take, with the nearest ones that it can."""
    check_numbers({"size": size})
    if size % family.stride:
        below = size // family.stride * family.stride
        raise UserError(f"size {size} is not a multiple of {family.stride}; give {below} or {below + family.stride}")


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return list(FAMILIES)
