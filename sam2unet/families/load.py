"""The one file that knows which models there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..atomic import sha256
from ..errors import UserError, print_line
from ..recipe import Recipe
from ..runtime.device import pick_device
from ..weights.formats import load_exact, read_weights, same_bits, save_state, to_float32, write_trainable
from ..weights.hub import locate_weights
from ..weights.pretrained import describe_weights
from ..weights.weight_files import NO_FILES, WeightFile, WeightFiles, WeightPaths, weight_files_from_facts
from .build import BuiltModel
from .shape import NetworkShape
from .table import FAMILIES, Family, WeightFlag, check_size, find_family, find_family_of

ANY_SHAPE = NetworkShape()


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
    shape = NetworkShape(encoder, dino, image_size, encoder_adapter)
    weight_paths = to_paths(hiera_path=hiera_path, dinov2_path=dinov2_path, sam_checkpoint=sam_checkpoint)
    return start_model(name, shape, weight_paths, init_from)[0]


def to_paths(**given: str | Path | None) -> dict[str, Path]:
    return {flag: Path(path) for flag, path in given.items() if path is not None}


def start_model(
    name: str,
    shape: NetworkShape = ANY_SHAPE,
    weight_paths: WeightPaths = NO_FILES,
    init_from: str | Path | None = None,
) -> BuiltModel:
    """`create_model`, and the files that its frozen parts are unchanged copies of, for `save_checkpoint`."""
    family = find_family(name)
    check_network_options(family, shape, weight_paths)
    if init_from is None:
        return family.build(shape, weight_paths)
    found = read_checkpoint(Path(init_from))
    if found.family is not family:
        raise UserError(f"{init_from} is a checkpoint of {found.family.title}; wanted one of {family.title}")
    what = family.describe(found.shape)
    for option, size in shape.to_dict().items():
        stored = getattr(found.shape, option)
        if size != stored:
            raise UserError(f"{found.path} is {what}, but the requested {option} is {size}; give --{option} {stored}")
    model, weight_files = assemble(found, weight_paths)
    print_line(f"weights: {found.path.name}, {what}, SHA-256 {sha256(found.path)}")
    return model, weight_files


def get_network_shape(recipe: Recipe) -> NetworkShape:
    """Returns the shape that a recipe requests, also with values that its model does not have."""
    has_side = "size" in find_family(recipe.model).options
    return NetworkShape(recipe.encoder, recipe.dino, recipe.size if has_side else None, recipe.encoder_adapter)


def check_network_options(family: Family, shape: NetworkShape, weight_paths: WeightPaths) -> None:
    """Raises UserError for a value or a weight file that the model does not take, and for a side that does not fit."""
    for known, given in (
        (family.options, shape.to_dict()),
        ([source.flag for source in family.weight_flags], weight_paths),
    ):
        for option in given:
            if option not in known:
                raise UserError(f"{family.title} takes no --{option}; it takes --{' --'.join(known)}")
    if shape.size is not None:
        check_size(family, shape.size)


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
    weight_paths = to_paths(hiera_path=hiera_path, dinov2_path=dinov2_path, sam_checkpoint=sam_checkpoint)
    device = pick_device(device)  # before the file is read
    return open_model(read_checkpoint(Path(path)), weight_paths, device)


def open_model(found: Checkpoint, weight_paths: WeightPaths, device: str | torch.device | None) -> nn.Module:
    """`load_model` of a checkpoint that has been read."""
    check_network_options(found.family, ANY_SHAPE, weight_paths)
    for source in found.family.weight_flags:
        if source.flag in weight_paths and source.flag not in found.weight_files:
            raise UserError(
                f"{found.path} holds all weights, those of the {source.part} too; leave --{source.flag} out"
            )
    model, _ = assemble(found, weight_paths)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def save_checkpoint(
    model: nn.Module, path: Path, weight_files: WeightFiles = NO_FILES, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write `.pth`, all weights as released ones are, or `.safetensors`, without those that `weight_files` hold.

    Args:
        weight_files: the files that frozen parts are from; what of these parts was trained is written all the same.
        state: weights to write in place of the model's, under its names.
    """
    state = model.state_dict() if state is None else state
    if path.suffix == ".pth":
        save_state(state, path)
    elif path.suffix == ".safetensors":
        family = find_family_of(model)
        own = {name: state[name] for name in list_saved_names(model, weight_files)}
        left_out = weight_files if len(own) < len(state) else {}
        write_trainable(path, own, family.name, family.find_shape(state).to_facts(), left_out)
    else:
        raise UserError(f"{path}: a checkpoint is called .pth (all weights) or .safetensors (trained weights alone)")


def list_saved_names(model: nn.Module, weight_files: WeightFiles) -> list[str]:
    """Names in the model's state dict that are not in `weight_files`: all but the frozen weights of their parts."""
    family = find_family_of(model)
    parts = family.parts(model)
    frozen = {
        id(p) for s in family.weight_flags if s.flag in weight_files for p in parts[s.part] if not p.requires_grad
    }
    left_out = {name for name, p in model.named_parameters() if id(p) in frozen}
    return [name for name in model.state_dict() if name not in left_out]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. `weight_files` are the files with the weights left out of `state`."""

    path: Path
    family: Family
    shape: NetworkShape
    state: dict[str, Tensor]
    weight_files: dict[str, WeightFile]


def read_checkpoint(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Raises UserError for a file of another kind. `trust_pickle` also reads a file that can run code."""
    path = locate_weights(path)
    state, facts = read_weights(path, trust_pickle)
    family = next((family for family in FAMILIES.values() if family.marker in state), None)
    if family is None:
        raise UserError(f"{path} is {describe_weights(state)}; wanted a checkpoint of {' or '.join(FAMILIES)}")
    state, weight_files = to_float32(state, path), weight_files_from_facts(facts)
    written = facts.keys() >= set(family.options)
    shape = NetworkShape.from_facts(facts, family.options) if written else family.find_shape(state)
    if shape is None:
        raise UserError(f"{path}: a {family.title} checkpoint, but of no size that is known here")
    return Checkpoint(path, family, shape, state, weight_files)


def resize_checkpoint(found: Checkpoint, **options: object) -> Checkpoint:
    """What `found` holds with other values of options, those that are not None; UserError for a side that cannot be."""
    wanted = NetworkShape(**options)
    check_network_options(found.family, wanted, NO_FILES)
    shape = replace(found.shape, **wanted.to_dict())
    if shape == found.shape:
        return found
    return replace(found, shape=shape, state=found.family.resize_weights(found.state, shape))


def assemble(found: Checkpoint, weight_paths: WeightPaths) -> BuiltModel:
    """The model with a checkpoint's weights, and the files given for its frozen parts, the same there bit for bit."""
    path = found.path
    if missing := [flag for flag in found.weight_files if flag not in weight_paths]:
        flags = " ".join(f"--{flag} FILE" for flag in missing)
        weight_files = "; ".join(str(found.weight_files[flag]) for flag in missing)
        raise UserError(
            f"{path} holds trained weights alone; give {flags}, the weights that it was trained from: {weight_files}"
        )
    in_files = {source.option for source in found.family.weight_flags if source.flag in weight_paths}
    shape = replace(found.shape, **dict.fromkeys(in_files))
    with torch.device("meta"):
        model, weight_files = found.family.build(shape, weight_paths)
    for flag, base in found.weight_files.items():
        if base.sha256 != weight_files[flag].sha256:
            raise UserError(f"{path} was trained from {base}; --{flag} is another file: {weight_files[flag]}")
    taken = {name: t for name, t in model.state_dict().items() if not t.is_meta}
    for source in found.family.weight_flags:
        if source.flag in weight_paths and source.flag not in found.weight_files:
            check_same(found, model, source, weight_paths[source.flag])
    load_exact(model, taken | found.state, path)
    return model, weight_files


def check_same(found: Checkpoint, model: nn.Module, source: WeightFlag, file: Path) -> None:
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
