"""The one file that knows which models there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import load_exact, read_state, read_trunk, what_is
from .errors import UserError
from .files import sha256
from .layers.hiera import SIZES, hiera, size_of
from .models.sam2unet import SAM2UNet
from .steps import mask_map, mask_step


@dataclass(frozen=True)
class Family:
    """What differs between models.

    Attributes:
        title: the published name; checkpoints are called `<title>-<epoch>.pth`.
        build: a new model from its sizes and the files that training starts from.
        empty: from a checkpoint's state dict, a model of its shape whose weights are still to be loaded.
        marker: a name that only this model's checkpoints hold.
        parts: names of a model's parts and the parameters in each.
        step: a batch -> losses, one optimiser step each.
        predict: normalised images and a (height, width) -> probabilities of that size.
        stride: input sides are multiples of it.
    """

    title: str
    build: Callable[..., nn.Module]
    empty: Callable[[Mapping[str, Tensor]], nn.Module]
    marker: str
    parts: Callable[[nn.Module], dict[str, list[nn.Parameter]]]
    step: Callable[[nn.Module, tuple[Tensor, Tensor]], Iterator[Tensor]]
    predict: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]
    stride: int = 32


def sam2unet(encoder: str | None = "large", hiera_path: str | Path | None = None) -> nn.Module:
    """SAM2-UNet with SAM 2's trunk weights to start training from, or random ones; the trunk is frozen.

    Args:
        encoder: tiny, small, base_plus or large; None for the size of the weights in `hiera_path`, else large.
        hiera_path: a SAM 2 or SAM 2.1 checkpoint, of which the trunk is taken.
    """
    if hiera_path is None:
        return SAM2UNet(hiera(known(encoder or "large")))
    path = Path(hiera_path)
    weights, version = read_trunk(path)
    size = size_of(weights)
    if size is None:
        raise UserError(f"{path}: a {version} checkpoint of none of the sizes {', '.join(SIZES)}")
    if encoder is not None and known(encoder) != size:
        raise UserError(f"{path} is {version} {size}, but the encoder asked for is {encoder}; give --encoder {size}")
    with torch.device("meta"):
        trunk = hiera(size)
    load_exact(trunk, weights, path)  # before the adapters rename its blocks
    print(f"weights: {path.name}, {version} {size}, SHA-256 {sha256(path)}")
    return SAM2UNet(trunk)


def known(encoder: str) -> str:
    if encoder not in SIZES:
        raise UserError(f"no encoder named {encoder}; there are {', '.join(SIZES)}")
    return encoder


def empty_sam2unet(state: Mapping[str, Tensor]) -> nn.Module:
    size = size_of({name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")})
    if size is None:
        raise UserError(f"a SAM2-UNet checkpoint of none of the encoder sizes {', '.join(SIZES)}")
    return SAM2UNet(hiera(size))


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
        empty=empty_sam2unet,
        marker="encoder.blocks.0.prompt_learn.0.weight",
        parts=parts_of_sam2unet,
        step=mask_step,
        predict=mask_map,
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


def create_model(name: str, encoder: str | None = "large", hiera_path: str | Path | None = None) -> nn.Module:
    """A new model, ready to train: trunk frozen, adapters and decoder trainable, random but for the files given.

    Args:
        name: one of `list_models()`.
        encoder: size of the trunk: tiny, small, base_plus or large; None for the size found in `hiera_path`.
        hiera_path: a SAM 2 or SAM 2.1 checkpoint.

    Raises:
        UserError: no such model or encoder, a file of the wrong kind or of another size than `encoder`.
    """
    return find_family(name).build(encoder=encoder, hiera_path=hiera_path)


def load_model(path: str | Path, device: str | torch.device | None = None) -> nn.Module:
    """The model that a checkpoint holds, in evaluation mode; kind and encoder size come from names and shapes.

    Args:
        path: `SAM2-UNet-<epoch>.pth`, released or our own.
        device: where to put it; None for a GPU if there is one.

    Raises:
        UserError: no such file, a file of another kind, or with names or shapes that differ.
    """
    path = Path(path)
    state = read_state(path)
    family = next((family for family in FAMILIES.values() if family.marker in state), None)
    if family is None:
        raise UserError(f"{path} is {what_is(state)}; wanted a checkpoint of {' or '.join(FAMILIES)}")
    with torch.device("meta"):
        model = family.empty(state)
    load_exact(model, state, path)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
