"""The one file that knows which models there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from . import building
from .building import Built, Sizes
from .checkpoint import load_exact, read_weights, same_bits, save_state, to_float32, what_is
from .config import SIZES, Recipe
from .engine.runtime import pick_device
from .errors import UserError, print_line
from .files import sha256
from .hub import located
from .limits import check_numbers, shorten
from .sources import NONE, Base, Bases, Sources, bases_in
from .steps import mask_step, prompt_step
from .trainable import write_trainable


@dataclass(frozen=True)
class Source:
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
        sources: the frozen parts.
        options: the fields of a recipe that shape the network.
        build: a new model; of an option that is not given, the size found in the part's file, else the released one.
        sizes: from a complete state dict, the value of each option; None if of none known.
        marker: a name that only this model's checkpoints hold.
        parts: names of a model's parts and the parameters in each: frozen ones, adapters, decoder.
        step: a batch and a recipe -> named losses, to be added up; one optimiser step for each time that it yields.
        idle: parameters that no loss reaches.
        changing: which parameters a loss reaches differs between the steps of a batch.
        logits: of a model for masks, normalised images (B, 3, S, S) -> the answer's logits (B, 1, S, S).
        stride: input sides are multiples of it.
        refit: a state dict and other values of the options -> the weights of that network, where they can be had.
    """

    title: str
    paper: tuple[str, str]
    task: str
    sources: tuple[Source, ...]
    options: tuple[str, ...]
    build: Callable[[Sizes, Sources], Built]
    sizes: Callable[[Mapping[str, Tensor]], dict[str, str] | None]
    marker: str
    parts: Callable[[nn.Module], dict[str, list[nn.Parameter]]]
    step: Callable[[nn.Module, tuple[Tensor, ...], Recipe], Iterator[dict[str, Tensor]]]
    idle: Callable[[nn.Module], list[nn.Parameter]] = lambda model: []
    changing: bool = False
    logits: Callable[[nn.Module, Tensor], Tensor] | None = None
    stride: int = 32
    refit: Callable[[Mapping[str, Tensor], Sizes], dict[str, Tensor]] | None = None

    @property
    def name(self) -> str:
        """As `create_model` takes it."""
        return next(name for name, family in FAMILIES.items() if family is self)

    def named(self, sizes: Sizes) -> str:
        """For people: SAM2-UNet large."""
        first, *others = self.sources
        return " ".join((self.title, sizes[first.option], *(f"with {s.part} {sizes[s.option]}" for s in others)))


TRUNK = Source("hiera_path", "trunk", "encoder")

FAMILIES = {
    "sam2unet": Family(
        title="SAM2-UNet",
        paper=(
            "SAM2-UNet: Segment Anything 2 Makes Strong Encoder for Natural and Medical Image Segmentation",
            "2408.08870",
        ),
        task="masks",
        sources=(TRUNK,),
        options=("encoder",),
        build=building.sam2unet,
        sizes=building.sizes_of_sam2unet,
        marker="encoder.blocks.0.prompt_learn.0.weight",
        parts=building.parts_by(("encoder.", "trunk")),
        step=mask_step,
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
        sources=(TRUNK, Source("dinov2_path", "dino", "dino")),
        options=("encoder", "dino"),
        build=building.sam2unext,
        sizes=building.sizes_of_sam2unext,
        marker="sam.blocks.0.prompt_learn.0.weight",
        parts=building.parts_by(("sam.", "trunk"), ("dino.", "dino")),
        step=mask_step,
        logits=lambda model, images: model(images)[0],
    ),
    "sam_med2d": Family(
        title="SAM-Med2D",
        paper=("SAM-Med2D", "2308.16184"),
        task="prompts",
        sources=(Source("sam_checkpoint", "encoder", "encoder"),),
        options=("encoder", "size", "encoder_adapter"),
        build=building.sam_med2d,
        sizes=building.sizes_of_sam_med2d,
        marker="mask_decoder.iou_token.weight",
        parts=building.parts_of_sam_med2d,
        step=prompt_step,
        idle=lambda model: list(model.prompt_encoder.mask_downscaling.parameters()),
        changing=True,
        refit=building.refitted_sam,
    ),
}


def find_family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError(f"no model named {shorten(name)}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of(model: nn.Module) -> Family:
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


def create_model(
    name: str,
    encoder: str | None = None,
    hiera_path: str | Path | None = None,
    init_from: str | Path | None = None,
    dino: str | None = None,
    dinov2_path: str | Path | None = None,
    sam_checkpoint: str | Path | None = None,
    image_size: int | None = None,
    encoder_adapter: bool | None = None,
) -> nn.Module:
    """A new model, ready to train: frozen parts frozen, adapters and decoder trainable, random but for the files given.

    Args:
        name: one of `list_models()`.
        encoder: size of the trunk: tiny, small, base_plus or large; none: that found in the files, or large. Of
            sam_med2d: vit_b, vit_l or vit_h; none: likewise, or vit_b.
        hiera_path: a SAM 2 or SAM 2.1 checkpoint.
        init_from: a checkpoint of this model to take all weights from; one of trained weights alone needs the files
            that they were trained from.
        dino: of sam2unext: small, base or large for DINOv2, v3_small, v3_base or v3_large; none: likewise.
        dinov2_path: its weights: timm's model.safetensors, or for DINOv2 Meta's .pth.
        sam_checkpoint: of sam_med2d: a checkpoint of SAM or SAM-Med2D.
        image_size: of sam_med2d: side of the images in pixels; none: 256.
        encoder_adapter: of sam_med2d: have adapters, new ones where the file has none; none: yes.

    Raises:
        UserError: no such model or size, a file of the wrong kind or of another size than the one asked for.
    """
    sizes = dict(encoder=encoder, dino=dino, size=image_size, encoder_adapter=encoder_adapter)
    sizes = {option: str(value) for option, value in sizes.items() if value is not None}
    sources = paths(hiera_path=hiera_path, dinov2_path=dinov2_path, sam_checkpoint=sam_checkpoint)
    return start_model(name, sizes, sources, init_from)[0]


def paths(**given: str | Path | None) -> dict[str, Path]:
    return {flag: Path(path) for flag, path in given.items() if path is not None}


def start_model(name: str, sizes: Sizes = NONE, sources: Sources = NONE, init_from: str | Path | None = None) -> Built:
    """`create_model`, and the files that its frozen parts are unchanged copies of, for `save_checkpoint`."""
    family = find_family(name)
    check_options(family, sizes, sources)
    if init_from is None:
        return family.build(sizes, sources)
    found = read_checkpoint(Path(init_from))
    if found.family is not family:
        raise UserError(f"{init_from} is a checkpoint of {found.family.title}; wanted one of {family.title}")
    what = family.named(found.sizes)
    for option, size in sizes.items():
        if size != found.sizes[option]:
            raise UserError(
                f"{found.path} is {what}, but the {option} asked for is {size}; give --{option} {found.sizes[option]}"
            )
    model, bases = assemble(found, sources)
    print_line(f"weights: {found.path.name}, {what}, SHA-256 {sha256(found.path)}")
    return model, bases


def options_of(recipe: Recipe) -> dict[str, str]:
    """What a recipe says of the network's shape, as `start_model` takes it, be it of this model or not."""
    given = {name: getattr(recipe, name) for name in (*SIZES, "encoder_adapter")}
    if "size" in find_family(recipe.model).options:
        given["size"] = recipe.size
    return {option: str(value) for option, value in given.items() if value is not None}


def check_options(family: Family, sizes: Sizes, sources: Sources) -> None:
    """UserError for a size or a file of a part that the model does not have."""
    for known, given in ((family.options, sizes), ([source.flag for source in family.sources], sources)):
        for option in given:
            if option not in known:
                raise UserError(f"{family.title} takes no --{option}; it takes --{' --'.join(known)}")
    if "size" in sizes:
        check_size(family, int(sizes["size"]))


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    hiera_path: str | Path | None = None,
    dinov2_path: str | Path | None = None,
    sam_checkpoint: str | Path | None = None,
) -> nn.Module:
    """The model that a checkpoint holds, in evaluation mode; kind and sizes come from names and shapes.

    Args:
        path: `<title>-<epoch>.pth`, released or our own, or `.safetensors`; a folder for the Hugging Face hub, or
            `owner/name` there.
        device: where to put it; None for a GPU if there is one.
        hiera_path, dinov2_path, sam_checkpoint: for a file of trained weights alone, the files that they were trained
            from.

    Raises:
        UserError: no such file, another kind of file, other names or shapes; not what they were trained from; no hub;
            no such device.
    """
    sources = paths(hiera_path=hiera_path, dinov2_path=dinov2_path, sam_checkpoint=sam_checkpoint)
    device = pick_device(device)  # before the file is read
    return open_model(read_checkpoint(Path(path)), sources, device)


def open_model(found: Checkpoint, sources: Sources, device: str | torch.device | None) -> nn.Module:
    """`load_model` of a checkpoint that has been read."""
    check_options(found.family, {}, sources)
    for source in found.family.sources:
        if source.flag in sources and source.flag not in found.bases:
            raise UserError(
                f"{found.path} holds all weights, those of the {source.part} too; leave --{source.flag} out"
            )
    model, _ = assemble(found, sources)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def save_checkpoint(
    model: nn.Module, path: Path, bases: Bases = NONE, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write `.pth`, all weights as released ones are, or `.safetensors`, without those that `bases` hold.

    Args:
        bases: the files that frozen parts are from; what of these parts was trained is written all the same.
        state: weights to write in place of the model's, under its names.
    """
    state = model.state_dict() if state is None else state
    if path.suffix == ".pth":
        save_state(state, path)
    elif path.suffix == ".safetensors":
        family = family_of(model)
        own = {name: state[name] for name in own_names(model, bases)}
        left_out = bases if len(own) < len(state) else {}
        write_trainable(path, own, family.name, family.sizes(state), left_out)
    else:
        raise UserError(f"{path}: a checkpoint is called .pth (all weights) or .safetensors (trained weights alone)")


def own_names(model: nn.Module, bases: Bases) -> list[str]:
    """Names in the model's state dict that are not in `bases`: all but the frozen weights of their parts."""
    family = family_of(model)
    parts = family.parts(model)
    frozen = {id(p) for s in family.sources if s.flag in bases for p in parts[s.part] if not p.requires_grad}
    left_out = {name for name, p in model.named_parameters() if id(p) in frozen}
    return [name for name in model.state_dict() if name not in left_out]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. `bases` are the files with the weights left out of `state`."""

    path: Path
    family: Family
    sizes: dict[str, str]
    state: dict[str, Tensor]
    bases: dict[str, Base]


def read_checkpoint(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Raises UserError for a file of another kind. `trust_pickle` also reads a file that can run code."""
    path = located(path)
    state, facts = read_weights(path, trust_pickle)
    family = next((family for family in FAMILIES.values() if family.marker in state), None)
    if family is None:
        raise UserError(f"{path} is {what_is(state)}; wanted a checkpoint of {' or '.join(FAMILIES)}")
    state, bases = to_float32(state, path), bases_in(facts)
    written = facts.keys() >= set(family.options)
    sizes = {name: facts[name] for name in family.options} if written else family.sizes(state)
    if sizes is None or not re.fullmatch(r"\d{1,5}", sizes.get("size", "0")):
        raise UserError(f"{path}: a {family.title} checkpoint, but of no size that is known here")
    return Checkpoint(path, family, sizes, state, bases)


def refitted(found: Checkpoint, **options: object) -> Checkpoint:
    """What `found` holds with other values of options, those that are not None; UserError for a side that cannot be."""
    sizes = {option: str(value) for option, value in options.items() if value is not None}
    check_options(found.family, sizes, NONE)
    sizes = found.sizes | sizes
    return found if sizes == found.sizes else replace(found, sizes=sizes, state=found.family.refit(found.state, sizes))


def assemble(found: Checkpoint, sources: Sources) -> Built:
    """The model with a checkpoint's weights, and the files given for its frozen parts, the same there bit for bit."""
    path = found.path
    if missing := [flag for flag in found.bases if flag not in sources]:
        flags = " ".join(f"--{flag} FILE" for flag in missing)
        bases = "; ".join(str(found.bases[flag]) for flag in missing)
        raise UserError(
            f"{path} holds trained weights alone; give {flags}, the weights that it was trained from: {bases}"
        )
    in_files = {source.option for source in found.family.sources if source.flag in sources}
    asked = {option: value for option, value in found.sizes.items() if option not in in_files}
    with torch.device("meta"):
        model, bases = found.family.build(asked, sources)
    for flag, base in found.bases.items():
        if base.sha256 != bases[flag].sha256:
            raise UserError(f"{path} was trained from {base}; --{flag} is another file: {bases[flag]}")
    taken = {name: t for name, t in model.state_dict().items() if not t.is_meta}
    for source in found.family.sources:
        if source.flag in sources and source.flag not in found.bases:
            check_same(found, model, source, sources[source.flag])
    load_exact(model, taken | found.state, path)
    return model, bases


def check_same(found: Checkpoint, model: nn.Module, source: Source, file: Path) -> None:
    """UserError if a part of the checkpoint is not as in `model`, where it is as in the file."""
    part = {id(p) for p in found.family.parts(model)[source.part]}
    names = [name for name, p in model.named_parameters() if id(p) in part]
    values = model.state_dict()
    differ = [name for name in names if name not in found.state or not same_bits(values[name], found.state[name])]
    if differ:
        raise UserError(
            f"{found.path} has another {source.part} than {file}: {len(differ)} of {len(names)} weights differ, first "
            f"{differ[0]}; give the file that it was trained from. There is none if its {source.part} was trained too."
        )
