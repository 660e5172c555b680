"""The table of models: one row for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from ..limits import check_numbers, round_size, shorten
from ..weights.weight_files import WeightPaths
from . import build as building
from .build import BuiltModel
from .shape import NetworkShape


@dataclass(frozen=True)
class WeightFlag:
    """A frozen part of a model whose weights come from a file."""

    flag: str  # the flag that names the file
    part: str  # the name of the part in `Family.parts`
    option: str  # the field of `NetworkShape` that is the size of the part


@dataclass(frozen=True)
class Family:
    """A row of the table: everything that differs between the models of one task."""

    title: str  # the published name. Checkpoints are called `<title>-<epoch>.pth`.
    paper: tuple[str, str]  # the title of the paper and its arXiv number
    task: str  # `masks`: one map for an image. `prompts`: one mask for each prompt.
    weight_flags: tuple[WeightFlag, ...]  # the frozen parts
    options: tuple[str, ...]  # the fields of `NetworkShape` that the network has
    # makes a new model. A size that is not requested is that of the weight file, or else the released size.
    build: Callable[[NetworkShape, WeightPaths], BuiltModel]
    # a complete state dict -> the shape of its network, or None if the shape is unknown
    find_shape: Callable[[Mapping[str, Tensor]], NetworkShape | None]
    marker: str  # the name of a weight that only checkpoints of this model have
    # returns the parameters of each part: the frozen parts, `adapters` and `decoder`
    parts: Callable[[Any], dict[str, list[nn.Parameter]]]
    # returns the parameters that never get a gradient
    unused_parameters: Callable[[Any], list[nn.Parameter]] = lambda model: []
    find_unused_parameters: bool = False  # the steps of a batch use different parameters, see DistributedDataParallel
    # the ends of the names of entries of the state dict that the network computes. Files can lack them. Values in files
    # are never used.
    constants: tuple[str, ...] = ()
    # returns the licence of the published weights of the frozen parts, in the spelling of the Hugging Face hub
    licence: Callable[[NetworkShape], str] = lambda shape: "apache-2.0"
    # for the task `masks`: model, normalised images (B, 3, S, S) -> the logits of the map (B, C, S, S)
    logits: Callable[[Any, Tensor], Tensor] | None = None
    heads: tuple[str, ...] = ()  # for the task `masks`: the layers whose channels are the classes
    stride: int = 32  # the sides of the input are multiples of it
    # returns a state dict for another shape. None: the weights do not depend on the side.
    resize_weights: Callable[[Mapping[str, Tensor], NetworkShape], dict[str, Tensor]] | None = None

    @property
    def name(self) -> str:
        """The name of the model in `create_model` and `--model`."""
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
        options=("encoder", "class_count"),
        build=building.build_sam2unet,
        find_shape=building.find_sam2unet_shape,
        marker="encoder.blocks.0.prompt_learn.0.weight",
        parts=building.split_by_prefix(("encoder.", "trunk")),
        unused_parameters=lambda model: list(model.up4.parameters()),
        logits=lambda model, images: model(images, sides=False)[0],
        heads=("head", "side1", "side2"),
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
        options=("encoder", "dino", "class_count"),
        build=building.build_sam2unext,
        find_shape=building.find_sam2unext_shape,
        marker="sam.blocks.0.prompt_learn.0.weight",
        parts=building.split_by_prefix(("sam.", "trunk"), ("dino.", "dino")),
        licence=building.find_dino_licence,
        logits=lambda model, images: model(images)[0],
        heads=("head",),
    ),
    "sam3unet": Family(
        title="SAM3-UNet",
        paper=("SAM3-UNet: Simplified Adaptation of Segment Anything Model 3", "2512.01789"),
        task="masks",
        weight_flags=(WeightFlag("sam3_path", "trunk", "encoder"),),
        options=("encoder", "class_count"),
        build=building.build_sam3unet,
        find_shape=building.find_sam3unet_shape,
        marker="sam3_vit.blocks.0.prompt_learn.0.weight",
        parts=building.split_by_prefix(("sam3_vit.", "trunk")),
        constants=("attn.freqs_cis",),
        licence=lambda shape: "other",
        logits=lambda model, images: model(images)[0],
        heads=("head",),
        stride=14,
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
        unused_parameters=lambda model: list(model.prompt_encoder.mask_downscaling.parameters()),
        find_unused_parameters=True,
        resize_weights=building.resize_sam_weights,
    ),
}


def find_family(name: str) -> Family:
    """Returns the row of a model. Raises UserError if there is no model of this name."""
    if name not in FAMILIES:
        raise UserError(f"no model named {shorten(name)}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def find_family_of(model: nn.Module) -> Family:
    """Returns the row that a model belongs to, by the names of its weights. Raises UserError for other models."""
    names = {name for name, _ in model.named_parameters()} if isinstance(model, nn.Module) else ()
    family = next((family for family in FAMILIES.values() if family.marker in names), None)
    if family is None:
        raise UserError(f"{type(model).__name__} is not a model of this package; sam2unet.load_model gives one")
    return family


def check_size(family: Family, size: int) -> None:
    """Raises UserError for an input side that the model cannot take. The message names the nearest sides that fit."""
    check_numbers({"size": size})
    if size % family.stride:
        below = size // family.stride * family.stride
        sides = dict.fromkeys(round_size(side, family.stride) for side in (below, below + family.stride))
        raise UserError(f"size {size} is not a multiple of {family.stride}; give {' or '.join(map(str, sides))}")


def list_models() -> list[str]:
    """Returns the names that `create_model` accepts."""
    return list(FAMILIES)
