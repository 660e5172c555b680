"""Builders and readers of the models. A builder makes a network, a reader finds its shape in a state dict.

The pretrained parts of a new model are frozen. Its adapters and its decoder train.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, print_line
from ..layers import dino, hiera, sam3_vit, sam_vit
from ..layers.dino import Dino
from ..layers.hiera import Hiera
from ..layers.sam3_vit import Sam3ViT
from ..models.sam2unet import SAM2UNet
from ..models.sam2unext import SAM2UNeXT
from ..models.sam3unet import SAM3UNet
from ..models.sam_med2d import SAMMed2D
from ..weights.formats import load_exact
from ..weights.pretrained import SAM3_LICENCE, read_dino, read_sam, read_sam3, read_trunk
from ..weights.weight_files import WeightFile, WeightPaths
from .shape import NetworkShape

BuiltModel = tuple[nn.Module, dict[str, WeightFile]]  # a model, and by flag the files of its pretrained parts
SAM_ENCODER = "image_encoder."  # prefix of the encoder in files of SAM and SAM-Med2D


def build_sam2unet(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    trunk, weight_files = build_trunk(shape.encoder, weight_paths.get("hiera_path"))
    return SAM2UNet(trunk, classes=shape.class_count or 1), weight_files


def build_sam2unext(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    trunk, weight_files = build_trunk(shape.encoder, weight_paths.get("hiera_path"))
    frozen, dino_files = build_dino(shape.dino, weight_paths.get("dinov2_path"))
    return SAM2UNeXT(trunk, frozen, classes=shape.class_count or 1), weight_files | dino_files


def build_sam3unet(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    trunk, weight_files = build_sam3_trunk(shape.encoder, weight_paths.get("sam3_path"))
    return SAM3UNet(trunk, classes=shape.class_count or 1), weight_files


def build_sam_med2d(shape: NetworkShape, weight_paths: WeightPaths) -> BuiltModel:
    """Builds SAM-Med2D. Without a file, its weights are random and its encoder is vit_b by default.

    A file of SAM or SAM-Med2D gives all weights. Its position tables are resized to `shape.size`, 256 by default. New
    adapters are random if the file has none. The adapters of the file are left out if `shape.encoder_adapter` is False.
    """
    path = weight_paths.get("sam_checkpoint")
    side, adapters = shape.size or 256, shape.encoder_adapter is not False
    if path is None:
        size = check_known(shape.encoder or "vit_b", sam_vit.SIZES, "encoder")
        return SAMMed2D(sam_vit.sam_vit(size, side, adapters)), {}
    pretrained = read_sam(path)
    file_size = sam_vit.find_sam_size(strip_prefix(pretrained.weights, SAM_ENCODER))
    size = check_weight_size(path, pretrained.version, file_size, shape.encoder, sam_vit.SIZES, "encoder")
    new_adapters = adapters and pretrained.version == "SAM"
    weights = resize_sam_weights(pretrained.weights, NetworkShape(encoder=size, size=side, encoder_adapter=adapters))
    with torch.device("cpu" if new_adapters else "meta"):
        model = SAMMed2D(sam_vit.sam_vit(size, side, adapters))
    if new_adapters:
        weights |= {name: t for name, t in model.state_dict().items() if ".Adapter." in name}
    load_exact(model, weights, path)
    note = ", new adapters" if new_adapters else "" if adapters else ", no adapters"
    print_line(f"weights: {path.name}, {pretrained.version} {size}{note}, SHA-256 {pretrained.file.sha256}")
    return model, {"sam_checkpoint": pretrained.file}


def resize_sam_weights(state: Mapping[str, Tensor], shape: NetworkShape) -> dict[str, Tensor]:
    """Resizes the weights of SAM or SAM-Med2D to `shape.size`. Removes the adapters if `shape` has none."""
    assert shape.size is not None and shape.encoder is not None
    grid = shape.size // sam_vit.PATCH
    encoder = sam_vit.resize_sam_positions(strip_prefix(state, SAM_ENCODER), shape.encoder, grid)
    weights = {**state, **{SAM_ENCODER + name: t for name, t in encoder.items()}}
    return {name: t for name, t in weights.items() if shape.encoder_adapter or ".Adapter." not in name}


def build_trunk(size: str | None, path: Path | None) -> tuple[Hiera, dict[str, WeightFile]]:
    """Builds the encoder of SAM 2. Without a file, its weights are random and its size is large by default."""
    if path is None:
        return hiera.hiera(check_known(size or "large", hiera.SIZES, "encoder")), {}
    pretrained = read_trunk(path)
    file_size = hiera.find_hiera_size(pretrained.weights)
    file_size = check_weight_size(path, pretrained.version, file_size, size, hiera.SIZES, "encoder")
    with torch.device("meta"):
        trunk = hiera.hiera(file_size)
    load_exact(trunk, pretrained.weights, path)  # before the adapters rename its blocks
    print_line(f"weights: {path.name}, {pretrained.version} {file_size}, SHA-256 {pretrained.file.sha256}")
    return trunk, {"hiera_path": pretrained.file}


def build_sam3_trunk(size: str | None, path: Path | None) -> tuple[Sam3ViT, dict[str, WeightFile]]:
    """Builds the encoder of SAM 3. Without a file, its weights are random. Prints the licence of a file."""
    if path is None:
        return sam3_vit.sam3_vit(check_known(size or "large", sam3_vit.SIZES, "encoder")), {}
    pretrained = read_sam3(path)
    file_size = sam3_vit.find_sam3_size(pretrained.weights)
    file_size = check_weight_size(path, pretrained.version, file_size, size, sam3_vit.SIZES, "encoder")
    with torch.device("meta"):
        trunk = sam3_vit.sam3_vit(file_size)
    rotations = {name: t for name, t in trunk.state_dict().items() if not t.is_meta}
    load_exact(trunk, pretrained.weights | rotations, path)  # before the adapters rename its blocks
    print_line(f"weights: {path.name}, {pretrained.version} {file_size}, SHA-256 {pretrained.file.sha256}")
    print_line(f"licence: {SAM3_LICENCE}")
    return trunk, {"sam3_path": pretrained.file}


def build_dino(size: str | None, path: Path | None) -> tuple[Dino, dict[str, WeightFile]]:
    """Builds DINO with random weights, by default large, or with those of a file, resized to the network's grid."""
    if path is None:
        return Dino(check_known(size or "large", dino.SIZES, "dino")), {}
    pretrained = read_dino(path)
    file_size = dino.find_dino_size(pretrained.weights)
    file_size = check_weight_size(path, pretrained.version, file_size, size, dino.SIZES, "dino")
    with torch.device("meta"):
        frozen = Dino(file_size)
    load_exact(frozen.model, dino.resize_dino_positions(pretrained.weights, frozen.grid), path)
    print_line(f"weights: {path.name}, {pretrained.version} {file_size}, SHA-256 {pretrained.file.sha256}")
    return frozen, {"dinov2_path": pretrained.file}


def check_known(size: str, sizes: Mapping[str, object], option: str) -> str:
    """Returns `size`. Raises UserError if it is not a key of `sizes`."""
    if size not in sizes:
        raise UserError(f"no {option} named {size}; there are {', '.join(sizes)}")
    return size


def check_weight_size(
    path: Path, version: str, size: str | None, requested: str | None, sizes: Mapping[str, object], option: str
) -> str:
    """Returns `size`, that of the weights in `path`. UserError if it is unknown (None) or not the requested size."""
    if size is None:
        raise UserError(f"{path}: a {version} checkpoint of none of the sizes {', '.join(sizes)}")
    if requested is not None and check_known(requested, sizes, option) != size:
        raise UserError(
            f"{path} is {version} {size}, but the requested {option} is {requested}; give --{option} {size}"
        )
    return size


def find_dino_licence(shape: NetworkShape) -> str:
    """Returns the licence of the published weights of SAM 2 and DINO, see `Family.licence`."""
    return "other" if (shape.dino or "").startswith("v3_") else "apache-2.0"


def find_sam2unet_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    return add_class_count(state, all_or_none(encoder=hiera.find_hiera_size(strip_prefix(state, "encoder."))))


def find_sam2unext_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    encoder = hiera.find_hiera_size(strip_prefix(state, "sam."))
    return add_class_count(
        state, all_or_none(encoder=encoder, dino=dino.find_dino_size(strip_prefix(state, "dino.model.")))
    )


def find_sam3unet_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    return add_class_count(state, all_or_none(encoder=sam3_vit.find_sam3_size(strip_prefix(state, "sam3_vit."))))


def find_sam_med2d_shape(state: Mapping[str, Tensor]) -> NetworkShape | None:
    encoder = strip_prefix(state, SAM_ENCODER)
    size = sam_vit.find_sam_size(encoder)
    if size is None:
        return None
    side = encoder["pos_embed"].shape[1] * sam_vit.PATCH
    return NetworkShape(encoder=size, size=side, encoder_adapter=any(".Adapter." in name for name in encoder))


def all_or_none(**sizes: Any) -> NetworkShape | None:
    """Returns the shape with these sizes, or None if one of them is None."""
    return None if None in sizes.values() else NetworkShape(**sizes)


def add_class_count(state: Mapping[str, Tensor], shape: NetworkShape | None) -> NetworkShape | None:
    """Returns the shape with the number of classes, which is the number of outputs of the layer `head`."""
    bias = state.get("head.bias")
    if shape is None or bias is None or bias.ndim != 1 or len(bias) <= 1:
        return shape
    return replace(shape, class_count=len(bias))


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the weights whose names start with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def split_sam_med2d(model: SAMMed2D) -> dict[str, list[nn.Parameter]]:
    """Splits the parameters into encoder, adapters, decoder and points: the released code never trains the points."""
    parts = split_by_prefix((SAM_ENCODER, "encoder"))(model)
    prompts = model.prompt_encoder
    points = [*prompts.point_embeddings[:2].parameters(), *prompts.not_a_point_embed.parameters()]
    point_ids = {id(parameter) for parameter in points}
    parts["decoder"] = [parameter for parameter in parts["decoder"] if id(parameter) not in point_ids]
    return parts | {"points": points}


def split_by_prefix(*prefixes: tuple[str, str]) -> Callable[[nn.Module], dict[str, list[nn.Parameter]]]:
    """Returns a function that splits the parameters of a model into its frozen parts, its adapters and its decoder.

    Each of `prefixes` is the start of the names in a frozen part, and the name of the part.
    """

    def split(model: nn.Module) -> dict[str, list[nn.Parameter]]:
        parts: dict[str, list[nn.Parameter]] = {part: [] for _, part in prefixes}
        parts |= {"adapters": [], "decoder": []}
        for name, parameter in model.named_parameters():
            part = next((part for prefix, part in prefixes if name.startswith(prefix)), "decoder")
            adapter = "prompt_learn" in name or ".Adapter." in name
            parts["adapters" if adapter else part].append(parameter)
        return parts

    return split
