"""New models from the sizes of their parts and the files that training starts from; frozen parts are frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError, print_line
from ..layers import dino, hiera, sam_vit
from ..layers.dino import Dino
from ..layers.hiera import Hiera
from ..models.sam2unet import SAM2UNet
from ..models.sam2unext import SAM2UNeXT
from ..models.sam_med2d import SAMMed2D
from ..weights.formats import load_exact
from ..weights.pretrained import read_dino, read_sam, read_trunk
from ..weights.weight_files import WeightFile, WeightPaths
from .shape import NetworkShape

BuiltModel = tuple[nn.Module, dict[str, WeightFile]]  # a model, and the files that parts of it were taken from, by flag
SAM_ENCODER = "image_encoder."  # how names of the encoder start in a file of SAM or SAM-Med2D


def build_sam2unet(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    trunk, weight_files = build_trunk(shape.encoder, weight_paths.get("hiera_path"))
    return SAM2UNet(trunk), weight_files


def build_sam2unext(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    trunk, weight_files = build_trunk(shape.encoder, weight_paths.get("hiera_path"))
    frozen, more = build_dino(shape.dino, weight_paths.get("dinov2_path"))
    return SAM2UNeXT(trunk, frozen), weight_files | more


def build_sam_med2d(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    """SAM-Med2D: random without a file, and then vit_b unless said otherwise.

    All weights come from the file, one of SAM or of SAM-Med2D, with position tables resized to the side of the images
    (`size`, 256). Where SAM's has no adapters, they are random; without `encoder_adapter`, those in the file are left
    out.
    """
    size, path = shape.encoder, weight_paths.get("sam_checkpoint")
    side, adapters = shape.size or 256, shape.encoder_adapter is not False
    if path is None:
        return SAMMed2D(sam_vit.sam_vit(check_known(size or "vit_b", sam_vit.SIZES, "encoder"), side, adapters)), {}
    found = read_sam(path)
    own = sam_vit.find_sam_size(strip_prefix(found.weights, SAM_ENCODER))
    if own is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(sam_vit.SIZES)}")
    check_weight_size(path, f"{found.version} {own}", own, size, sam_vit.SIZES, "encoder")
    adds = adapters and found.version == "SAM"
    weights = resize_sam_weights(found.weights, NetworkShape(encoder=own, size=side, encoder_adapter=adapters))
    with torch.device("cpu" if adds else "meta"):
        model = SAMMed2D(sam_vit.sam_vit(own, side, adapters))
    if adds:
        weights |= {name: t for name, t in model.state_dict().items() if ".Adapter." in name}
    load_exact(model, weights, path)
    note = ", new adapters" if adds else "" if adapters else ", no adapters"
    print_line(f"weights: {path.name}, {found.version} {own}{note}, SHA-256 {found.file.sha256}")
    return model, {"sam_checkpoint": found.file}


def resize_sam_weights(state: Mapping[str, Tensor], shape: NetworkShape) -> dict[str, Tensor]:
    """Weights of SAM or SAM-Med2D for images of the side `size`, without adapters if `encoder_adapter` is False."""
    grid = shape.size // sam_vit.PATCH
    encoder = sam_vit.resize_sam_positions(strip_prefix(state, SAM_ENCODER), shape.encoder, grid)
    weights = {**state, **{SAM_ENCODER + name: t for name, t in encoder.items()}}
    return {name: t for name, t in weights.items() if shape.encoder_adapter or ".Adapter." not in name}


def build_trunk(size: str | None, path: Path | None) -> tuple[Hiera, dict[str, WeightFile]]:
    """SAM 2's encoder: random without a file, and then large unless said otherwise."""
    if path is None:
        return hiera.hiera(check_known(size or "large", hiera.SIZES, "encoder")), {}
    found = read_trunk(path)
    own = hiera.find_hiera_size(found.weights)
    if own is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(hiera.SIZES)}")
    check_weight_size(path, f"{found.version} {own}", own, size, hiera.SIZES, "encoder")
    with torch.device("meta"):
        trunk = hiera.hiera(own)
    load_exact(trunk, found.weights, path)  # before the adapters rename its blocks
    print_line(f"weights: {path.name}, {found.version} {own}, SHA-256 {found.file.sha256}")
    return trunk, {"hiera_path": found.file}


def build_dino(size: str | None, path: Path | None) -> tuple[Dino, dict[str, WeightFile]]:
    """DINO: random without a file, and then large unless said otherwise. Positions are resampled to its grid."""
    if path is None:
        return Dino(check_known(size or "large", dino.SIZES, "dino")), {}
    found = read_dino(path)
    own = dino.find_dino_size(found.weights)
    if own is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(dino.SIZES)}")
    check_weight_size(path, f"{found.version} {own}", own, size, dino.SIZES, "dino")
    with torch.device("meta"):
        frozen = Dino(own)
    load_exact(frozen.model, dino.resize_dino_positions(found.weights, frozen.grid), path)
    print_line(f"weights: {path.name}, {found.version} {own}, SHA-256 {found.file.sha256}")
    return frozen, {"dinov2_path": found.file}


def check_known(size: str, sizes: Mapping[str, object], option: str) -> str:
    if size not in sizes:
        raise UserError(f"no {option} named {size}; there are {', '.join(sizes)}")
    return size


def check_weight_size(
    path: Path, what: str, found: str, wanted: str | None, sizes: Mapping[str, object], option: str
) -> None:
    if wanted is not None and check_known(wanted, sizes, option) != found:
        raise UserError(f"{path} is {what}, but the {option} asked for is {wanted}; give --{option} {found}")


def find_licence(shape: NetworkShape) -> str:
    """That of the frozen parts' published weights, as the Hugging Face hub calls it."""
    return "other" if (shape.dino or "").startswith("v3_") else "apache-2.0"


def find_sam2unet_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    return all_or_none(encoder=hiera.find_hiera_size(strip_prefix(state, "encoder.")))


def find_sam2unext_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    return all_or_none(
        encoder=hiera.find_hiera_size(strip_prefix(state, "sam.")),
        dino=dino.find_dino_size(strip_prefix(state, "dino.model.")),
    )


def find_sam_med2d_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    encoder = strip_prefix(state, SAM_ENCODER)
    size = sam_vit.find_sam_size(encoder)
    if size is None:
        return None
    side = encoder["pos_embed"].shape[1] * sam_vit.PATCH
    return NetworkShape(encoder=size, size=side, encoder_adapter=any(".Adapter." in name for name in encoder))


def all_or_none(**sizes: str | None) -> NetworkShape | None:
    """None where one is not known."""
    return None if None in sizes.values() else NetworkShape(**sizes)


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def split_sam_med2d(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The embeddings of points apart, which the released training leaves as they are."""
    parts = split_by_prefix((SAM_ENCODER, "encoder"))(model)
    prompts = model.prompt_encoder
    points = [prompts.point_embeddings[0].weight, prompts.point_embeddings[1].weight, prompts.not_a_point_embed.weight]
    apart = {id(parameter) for parameter in points}
    parts["decoder"] = [parameter for parameter in parts["decoder"] if id(parameter) not in apart]
    return parts | {"points": points}


def split_by_prefix(*prefixes: tuple[str, str]) -> Callable[[nn.Module], dict[str, list[nn.Parameter]]]:
    """The parameters of each part: frozen ones by the start of their names, adapters in them, and the decoder."""

    def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
        found: dict[str, list[nn.Parameter]] = {part: [] for _, part in prefixes}
        found |= {"adapters": [], "decoder": []}
        for name, parameter in model.named_parameters():
            part = next((part for prefix, part in prefixes if name.startswith(prefix)), "decoder")
            adapter = "prompt_learn" in name or ".Adapter." in name
            found["adapters" if adapter else part].append(parameter)
        return found

    return parts
