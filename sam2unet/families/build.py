"""New models from the sizes of their parts and the files that training starts from; frozen parts are frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint import load_exact, read_dino, read_sam, read_trunk
from .errors import UserError, print_line
from .layers import dino, hiera, sam_vit
from .layers.dino import Dino
from .layers.hiera import Hiera
from .models.sam2unet import SAM2UNet
from .models.sam2unext import SAM2UNeXT
from .models.sam_med2d import SAMMed2D
from .sources import Base, Sources

Sizes = Mapping[str, str]  # what shapes the network, by option: encoder, dino, size, encoder_adapter; as text
Built = tuple[nn.Module, dict[str, Base]]  # a model, and the files that parts of it were taken from, by flag
SAM_ENCODER = "image_encoder."  # how names of the encoder start in a file of SAM or SAM-Med2D


def sam2unet(sizes: Sizes, sources: Sources) -> Built:
    trunk, bases = trunk_of(sizes.get("encoder"), sources.get("hiera_path"))
    return SAM2UNet(trunk), bases


def sam2unext(sizes: Sizes, sources: Sources) -> Built:
    trunk, bases = trunk_of(sizes.get("encoder"), sources.get("hiera_path"))
    frozen, more = dino_of(sizes.get("dino"), sources.get("dinov2_path"))
    return SAM2UNeXT(trunk, frozen), bases | more


def sam_med2d(sizes: Sizes, sources: Sources) -> Built:
    """SAM-Med2D: random without a file, and then vit_b unless said otherwise.

    All weights come from the file, one of SAM or of SAM-Med2D, with position tables resized to the side of the images
    (`size`, 256). Where SAM's has no adapters, they are random; without `encoder_adapter`, those in the file are left
    out.
    """
    size, path = sizes.get("encoder"), sources.get("sam_checkpoint")
    side, adapters = int(sizes.get("size", 256)), sizes.get("encoder_adapter", "True") == "True"
    if path is None:
        return SAMMed2D(sam_vit.sam_vit(known(size or "vit_b", sam_vit.SIZES, "encoder"), side, adapters)), {}
    found = read_sam(path)
    own = sam_vit.size_of(below(found.weights, SAM_ENCODER))
    if own is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(sam_vit.SIZES)}")
    check_size_of(path, f"{found.version} {own}", own, size, sam_vit.SIZES, "encoder")
    adds = adapters and found.version == "SAM"
    weights = refitted_sam(found.weights, {"encoder": own, "size": str(side), "encoder_adapter": str(adapters)})
    with torch.device("cpu" if adds else "meta"):
        model = SAMMed2D(sam_vit.sam_vit(own, side, adapters))
    if adds:
        weights |= {name: t for name, t in model.state_dict().items() if ".Adapter." in name}
    load_exact(model, weights, path)
    note = ", new adapters" if adds else "" if adapters else ", no adapters"
    print_line(f"weights: {path.name}, {found.version} {own}{note}, SHA-256 {found.base.sha256}")
    return model, {"sam_checkpoint": found.base}


def refitted_sam(state: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Weights of SAM or SAM-Med2D for images of the side `size`, without adapters if `encoder_adapter` is False."""
    grid = int(sizes["size"]) // sam_vit.PATCH
    encoder = sam_vit.resampled(below(state, SAM_ENCODER), sizes["encoder"], grid)
    weights = {**state, **{SAM_ENCODER + name: t for name, t in encoder.items()}}
    kept = sizes["encoder_adapter"] == "True"
    return {name: t for name, t in weights.items() if kept or ".Adapter." not in name}


def trunk_of(size: str | None, path: Path | None) -> tuple[Hiera, dict[str, Base]]:
    """SAM 2's encoder: random without a file, and then large unless said otherwise."""
    if path is None:
        return hiera.hiera(known(size or "large", hiera.SIZES, "encoder")), {}
    found = read_trunk(path)
    own = hiera.size_of(found.weights)
    if own is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(hiera.SIZES)}")
    check_size_of(path, f"{found.version} {own}", own, size, hiera.SIZES, "encoder")
    with torch.device("meta"):
        trunk = hiera.hiera(own)
    load_exact(trunk, found.weights, path)  # before the adapters rename its blocks
    print_line(f"weights: {path.name}, {found.version} {own}, SHA-256 {found.base.sha256}")
    return trunk, {"hiera_path": found.base}


def dino_of(size: str | None, path: Path | None) -> tuple[Dino, dict[str, Base]]:
    """DINO: random without a file, and then large unless said otherwise. Positions are resampled to its grid."""
    if path is None:
        return Dino(known(size or "large", dino.SIZES, "dino")), {}
    found = read_dino(path)
    own = dino.size_of(found.weights)
    if own is None:
        raise UserError(f"{path}: a {found.version} checkpoint of none of the sizes {', '.join(dino.SIZES)}")
    check_size_of(path, f"{found.version} {own}", own, size, dino.SIZES, "dino")
    with torch.device("meta"):
        frozen = Dino(own)
    load_exact(frozen.model, dino.resampled(found.weights, frozen.grid), path)
    print_line(f"weights: {path.name}, {found.version} {own}, SHA-256 {found.base.sha256}")
    return frozen, {"dinov2_path": found.base}


def known(size: str, sizes: Mapping[str, object], option: str) -> str:
    if size not in sizes:
        raise UserError(f"no {option} named {size}; there are {', '.join(sizes)}")
    return size


def check_size_of(
    path: Path, what: str, found: str, wanted: str | None, sizes: Mapping[str, object], option: str
) -> None:
    if wanted is not None and known(wanted, sizes, option) != found:
        raise UserError(f"{path} is {what}, but the {option} asked for is {wanted}; give --{option} {found}")


def licence_of(sizes: Sizes) -> str:
    """That of the frozen parts' published weights, as the Hugging Face hub calls it."""
    return "other" if sizes.get("dino", "").startswith("v3_") else "apache-2.0"


def sizes_of_sam2unet(state: Mapping[str, Tensor]) -> dict[str, str] | None:
    return named(encoder=hiera.size_of(below(state, "encoder.")))


def sizes_of_sam2unext(state: Mapping[str, Tensor]) -> dict[str, str] | None:
    return named(encoder=hiera.size_of(below(state, "sam.")), dino=dino.size_of(below(state, "dino.model.")))


def sizes_of_sam_med2d(state: Mapping[str, Tensor]) -> dict[str, str] | None:
    encoder = below(state, SAM_ENCODER)
    size = sam_vit.size_of(encoder)
    if size is None:
        return None
    side = encoder["pos_embed"].shape[1] * sam_vit.PATCH
    return {"encoder": size, "size": str(side), "encoder_adapter": str(any(".Adapter." in name for name in encoder))}


def named(**sizes: str | None) -> dict[str, str] | None:
    """None where one is not known."""
    return None if None in sizes.values() else sizes


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def parts_of_sam_med2d(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The embeddings of points apart, which the released training leaves as they are."""
    parts = parts_by((SAM_ENCODER, "encoder"))(model)
    prompts = model.prompt_encoder
    points = [prompts.point_embeddings[0].weight, prompts.point_embeddings[1].weight, prompts.not_a_point_embed.weight]
    apart = {id(parameter) for parameter in points}
    parts["decoder"] = [parameter for parameter in parts["decoder"] if id(parameter) not in apart]
    return parts | {"points": points}


def parts_by(*prefixes: tuple[str, str]) -> Callable[[nn.Module], dict[str, list[nn.Parameter]]]:
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
