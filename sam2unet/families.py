"""The one file that knows which models there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import load_exact, read_trunk, read_weights, same_bits, save_state, what_is
from .config import Recipe
from .errors import UserError
from .files import sha256
from .hub import located
from .layers.hiera import SIZES, hiera, size_of
from .models.sam2unet import SAM2UNet
from .steps import mask_logits, mask_step
from .trainable import Base, write_trainable


@dataclass(frozen=True)
class Family:
    """What differs between models.

    Attributes:
        title: the published name; checkpoints are called `<title>-<epoch>.pth`.
        build: a new model from its sizes and the files that training starts from; and the file that its trunk is of.
        encoder: from a checkpoint's state dict, with or without the trunk, the encoder's size; None if of none.
        marker: a name that only this model's checkpoints hold.
        parts: names of a model's parts and the parameters in each; `trunk` is the part that comes from a file.
        step: a batch and a recipe -> named losses, to be added up; one optimiser step for each time that it yields.
        idle: parameters that no loss reaches.
        logits: normalised images (B, 3, S, S) -> the answer's logits (B, 1, S, S).
        stride: input sides are multiples of it.
    """

    title: str
    build: Callable[..., tuple[nn.Module, Base | None]]
    encoder: Callable[[Mapping[str, Tensor]], str | None]
    marker: str
    parts: Callable[[nn.Module], dict[str, list[nn.Parameter]]]
    step: Callable[[nn.Module, tuple[Tensor, Tensor], Recipe], Iterator[dict[str, Tensor]]]
    idle: Callable[[nn.Module], list[nn.Parameter]]
    logits: Callable[[nn.Module, Tensor], Tensor]
    stride: int = 32


def sam2unet(encoder: str | None = "large", hiera_path: str | Path | None = None) -> tuple[nn.Module, Base | None]:
    """SAM2-UNet with SAM 2's trunk weights to start training from, or random ones; the trunk is frozen.

    Args:
        encoder: tiny, small, base_plus or large; None for the size of the weights in `hiera_path`, else large.
        hiera_path: a SAM 2 or SAM 2.1 checkpoint, of which the trunk is taken.
    """
    if hiera_path is None:
        return SAM2UNet(hiera(known(encoder or "large"))), None
    path = Path(hiera_path)
    found = read_trunk(path)
    size = size_of(found.weights)
    if size is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(SIZES)}")
    check_encoder(path, f"{found.version} {size}", size, encoder)
    with torch.device("meta"):
        trunk = hiera(size)
    load_exact(trunk, found.weights, path)  # before the adapters rename its blocks
    print(f"weights: {path.name}, {found.version} {size}, SHA-256 {found.base.sha256}")
    return SAM2UNet(trunk), found.base


def known(encoder: str) -> str:
    if encoder not in SIZES:
        raise UserError(f"no encoder named {encoder}; there are {', '.join(SIZES)}")
    return encoder


def check_encoder(path: Path, what: str, size: str, wanted: str | None) -> None:
    if wanted is not None and known(wanted) != size:
        raise UserError(f"{path} is {what}, but the encoder asked for is {wanted}; give --encoder {size}")


def encoder_of_sam2unet(state: Mapping[str, Tensor]) -> str | None:
    return size_of({name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")})


def parts_of_sam2unet(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    parts: dict[str, list[nn.Parameter]] = {"trunk": [], "adapters": [], "decoder": []}
    for name, parameter in model.named_parameters():
        part = "decoder" if not name.startswith("encoder.") else "adapters" if "prompt_learn" in name else "trunk"
        parts[part].append(parameter)
    return parts


FAMILIES = {
    "sam2unet": Family(
        title="SAM2-UNet",
        build=sam2unet,
        encoder=encoder_of_sam2unet,
        marker="encoder.blocks.0.prompt_learn.0.weight",
        parts=parts_of_sam2unet,
        step=mask_step,
        idle=lambda model: list(model.up4.parameters()),
        logits=mask_logits,
    ),
}


def find_family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError(f"no model named {name}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of(model: nn.Module) -> Family:
    """The family that a built model belongs to, by the names of its weights."""
    names = {name for name, _ in model.named_parameters()}
    return next(family for family in FAMILIES.values() if family.marker in names)


def check_size(family: Family, size: int) -> None:
    """UserError for an input side that the model cannot take, with the nearest ones that it can."""
    if size % family.stride or size < family.stride:
        below = size // family.stride * family.stride
        nearest = [side for side in (below, below + family.stride) if side >= family.stride] or [family.stride]
        raise UserError(
            f"size {size} is not a multiple of {family.stride}; give --size {' or '.join(map(str, nearest))}"
        )


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return list(FAMILIES)


def create_model(
    name: str,
    encoder: str | None = "large",
    hiera_path: str | Path | None = None,
    init_from: str | Path | None = None,
) -> nn.Module:
    """A new model, ready to train: trunk frozen, adapters and decoder trainable, random but for the files given.

    Args:
        name: one of `list_models()`.
        encoder: size of the trunk: tiny, small, base_plus or large; None for the size found in the files.
        hiera_path: a SAM 2 or SAM 2.1 checkpoint.
        init_from: a checkpoint of this model to take all weights from; one of trained weights alone needs `hiera_path`.

    Raises:
        UserError: no such model or encoder, a file of the wrong kind or of another size than `encoder`.
    """
    return start_model(name, encoder, hiera_path, init_from)[0]


def start_model(
    name: str, encoder: str | None, hiera_path: str | Path | None, init_from: str | Path | None = None
) -> tuple[nn.Module, Base | None]:
    """`create_model`, and the file that the trunk is an unchanged copy of, for `save_checkpoint`; None if not known."""
    family = find_family(name)
    if init_from is None:
        return family.build(encoder=encoder, hiera_path=hiera_path)
    found = read_checkpoint(Path(init_from))
    if found.family is not family:
        raise UserError(f"{init_from} is a checkpoint of {found.family.title}; wanted one of {family.title}")
    what = f"{family.title} {found.encoder}"
    check_encoder(found.path, what, found.encoder, encoder)
    model, base = assemble(found, hiera_path)
    print(f"weights: {found.path.name}, {what}, SHA-256 {sha256(found.path)}")
    return model, base


def load_model(
    path: str | Path, device: str | torch.device | None = None, hiera_path: str | Path | None = None
) -> nn.Module:
    """The model that a checkpoint holds, in evaluation mode; kind and encoder size come from names and shapes.

    Args:
        path: `SAM2-UNet-<epoch>.pth`, released or our own, or `.safetensors`; a folder for the Hugging Face hub, or
            `owner/name` there.
        device: where to put it; None for a GPU if there is one.
        hiera_path: for a file of trained weights alone, the SAM 2 checkpoint that they were trained from.

    Raises:
        UserError: no such file, another kind of file, other names or shapes; not the right `hiera_path`; no hub.
    """
    found = read_checkpoint(Path(path))
    if hiera_path is not None and found.base is None:
        raise UserError(f"{path} holds all weights, those of the trunk too; leave --hiera_path out")
    model, _ = assemble(found, hiera_path)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def save_checkpoint(
    model: nn.Module, path: Path, base: Base | None = None, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write `.pth`, all weights as released ones are, or `.safetensors`, without those that `base` holds.

    Args:
        base: the file that the trunk is from; what of the trunk was trained is written all the same.
        state: weights to write in place of the model's, under its names.
    """
    state = model.state_dict() if state is None else state
    if path.suffix == ".pth":
        save_state(state, path)
    elif path.suffix == ".safetensors":
        family = family_of(model)
        kind = next(name for name, row in FAMILIES.items() if row is family)
        own = {name: state[name] for name in own_names(model, base)}
        write_trainable(path, own, kind, family.encoder(own), base if len(own) < len(state) else None)
    else:
        raise UserError(f"{path}: a checkpoint is called .pth (all weights) or .safetensors (trained weights alone)")


def own_names(model: nn.Module, base: Base | None) -> list[str]:
    """Names in the model's state dict that are not in `base`: all but the frozen weights of the trunk."""
    trunk = {id(p) for p in family_of(model).parts(model)["trunk"] if base is not None and not p.requires_grad}
    left_out = {name for name, p in model.named_parameters() if id(p) in trunk}
    return [name for name in model.state_dict() if name not in left_out]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. `base` is the file with the weights left out of `state`; None if it has all."""

    path: Path
    family: Family
    encoder: str
    state: dict[str, Tensor]
    base: Base | None


def read_checkpoint(path: Path) -> Checkpoint:
    path = located(path)
    state, base = read_weights(path)
    family = next((family for family in FAMILIES.values() if family.marker in state), None)
    if family is None:
        raise UserError(f"{path} is {what_is(state)}; wanted a checkpoint of {' or '.join(FAMILIES)}")
    encoder = family.encoder(state)
    if encoder is None:
        raise UserError(f"{path}: a {family.title} checkpoint of none of the encoder sizes {', '.join(SIZES)}")
    return Checkpoint(path, family, encoder, state, base)


def assemble(found: Checkpoint, hiera_path: str | Path | None) -> tuple[nn.Module, Base | None]:
    """The model with a checkpoint's weights, and the file given for its trunk, which is the same there bit for bit."""
    path, base = found.path, found.base
    if base is not None and hiera_path is None:
        raise UserError(
            f"{path} holds trained weights alone; give --hiera_path FILE, the weights that it was trained from: {base}"
        )
    with torch.device("meta"):
        model, given = found.family.build(encoder=None if hiera_path else found.encoder, hiera_path=hiera_path)
    taken = {name: t for name, t in model.state_dict().items() if not t.is_meta}
    if base is None:
        differ = [name for name, t in taken.items() if name not in found.state or not same_bits(t, found.state[name])]
        if differ:
            raise UserError(
                f"{path} has another trunk than {hiera_path}: {len(differ)} of {len(taken)} weights differ, first "
                f"{differ[0]}; give the file that it was trained from. There is none if its trunk was trained too."
            )
    elif base.sha256 != given.sha256:
        raise UserError(f"{path} was trained from {base}; --hiera_path is another file: {given}")
    load_exact(model, taken | found.state, path)
    return model, given
