"""Creates, loads and saves models. A model carries its settings as `model.recipe`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..atomic import sha256
from ..classes import Classes
from ..errors import UserError, print_line
from ..recipe import Recipe
from ..runtime.device import pick_device
from ..weights.download import locate_weight_files
from ..weights.formats import load_exact, read_weights, same_bits, save_state, to_float32, write_trainable
from ..weights.hub import locate_weights
from ..weights.pretrained import describe_weights
from ..weights.weight_files import NO_FILES, WeightFile, WeightFiles, WeightPaths, weight_files_from_facts
from .build import BuiltModel
from .settings import find_recipe, set_settings_
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
    classes: int | None = None,
    sam3_path: str | Path | None = None,
) -> nn.Module:
    """Creates a model for training. The pretrained parts are frozen; adapters and decoder are trainable.

    Parts without a file have random weights. The settings are in `model.recipe`, as for `load_model`. Raises UserError
    if there is no such model or size, a file is of the wrong kind, or its size is not the requested size.

    Args:
        name: one of `list_models()`.
        encoder: size of the trunk: tiny, small, base_plus or large; for sam3unet: large; for sam_med2d: vit_b, vit_l
            or vit_h. None: the size of the weight file; without a file, large or vit_b.
        hiera_path: a SAM 2 or SAM 2.1 checkpoint. This and the other weight files can be the name of published
            weights, for example sam2_hiera_large, which is downloaded once; see docs/train.md.
        init_from: a checkpoint of this model; all weights are taken from it. A file with trained weights only also
            needs the files that it was trained from.
        dino: for sam2unext: small, base or large for DINOv2; v3_small, v3_base or v3_large for DINOv3. None: the size
            of the weight file; without a file, large.
        dinov2_path: the weights of DINO: model.safetensors of timm, or the .pth of Meta for DINOv2.
        sam_checkpoint: for sam_med2d: a checkpoint of SAM or SAM-Med2D.
        image_size: for sam_med2d: side of the images in pixels. None: 256.
        encoder_adapter: for sam_med2d: use adapters; they are new if the file has none. None: True.
        classes: not for sam_med2d: number of classes, with the background. None: foreground and background, with one
            output as in the released models.
        sam3_path: for sam3unet: sam3.pt of SAM 3.
    """
    shape = NetworkShape(encoder, dino, image_size, encoder_adapter, classes)
    weight_paths = to_paths(
        hiera_path=hiera_path, dinov2_path=dinov2_path, sam_checkpoint=sam_checkpoint, sam3_path=sam3_path
    )
    return start_model(name, shape, weight_paths, init_from)[0]


def to_paths(**values: str | Path | None) -> dict[str, Path]:
    return locate_weight_files({flag: value for flag, value in values.items() if value is not None})


def start_model(
    name: str,
    shape: NetworkShape = ANY_SHAPE,
    weight_paths: WeightPaths = NO_FILES,
    init_from: str | Path | None = None,
    recipe: Recipe | None = None,
) -> BuiltModel:
    """Returns a new model, and the files that its frozen parts are unchanged copies of, for `save_checkpoint`.

    The model carries `recipe`, by default the settings of `init_from` or the released ones.
    """
    family = find_family(name)
    check_network_options(family, shape, weight_paths)
    if init_from is None:
        model, weight_files = family.build(shape, weight_paths)
        set_settings_(model, recipe or Recipe.read(model=name, **shape.to_dict()))
        return model, weight_files
    checkpoint = read_checkpoint(Path(init_from))
    if checkpoint.family is not family:
        raise UserError(f"{init_from} is a checkpoint of {checkpoint.family.title}; wanted one of {family.title}")
    what = family.describe(checkpoint.shape)
    for option, size in shape.to_dict().items():
        stored = getattr(checkpoint.shape, option)
        if size != stored and option != "class_count":
            raise UserError(
                f"{checkpoint.path} is {what}, but the requested {option} is {size}; give --{option} {stored}"
            )
    if shape.class_count != checkpoint.shape.class_count and (recipe or shape.class_count):
        checkpoint = replace_heads(checkpoint, shape.class_count)
    model, weight_files = assemble(checkpoint, weight_paths, recipe)
    print_line(f"weights: {checkpoint.path.name}, {what}, SHA-256 {sha256(checkpoint.path)}")
    return model, weight_files


def replace_heads(checkpoint: Checkpoint, count: int | None) -> Checkpoint:
    """Returns a checkpoint for `count` classes. All weights stay, except the last layers, which are new and random."""
    family, state = checkpoint.family, dict(checkpoint.state)
    for head in family.heads:
        channels = state[f"{head}.weight"].shape[1]
        for name, weight in nn.Conv2d(channels, count or 1, kernel_size=1).state_dict().items():
            state[f"{head}.{name}"] = weight
    before, now = (f"{n} classes" if n else "foreground and background" for n in (checkpoint.shape.class_count, count))
    print_line(f"weights: the last layers ({', '.join(family.heads)}) are new, from {before} to {now}")
    return replace(checkpoint, shape=replace(checkpoint.shape, class_count=count), state=state)


def get_network_shape(family: Family, recipe: Recipe) -> NetworkShape:
    """Returns the shape that a recipe requests, also with values that its model does not have."""
    side = recipe.size if "size" in family.options else None
    return NetworkShape(recipe.encoder, recipe.dino, side, recipe.encoder_adapter, recipe.class_count)


def check_network_options(family: Family, shape: NetworkShape, weight_paths: WeightPaths) -> None:
    """Raises UserError for values and weight files that the model does not take, and for values outside limits."""
    flags = [source.flag for source in family.weight_flags]
    for known, names in ((family.options, shape.to_dict()), (flags, weight_paths)):
        for option in names:
            if option not in known:
                others = " --".join(name for name in known if name != "class_count")  # which --classes sets
                raise UserError(f"{family.title} takes no --{option}; it takes --{others}")
    if shape.size is not None:
        check_size(family, shape.size)
    if shape.class_count is not None:
        Classes.number(shape.class_count)  # raises UserError for a wrong number


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    hiera_path: str | Path | None = None,
    dinov2_path: str | Path | None = None,
    sam_checkpoint: str | Path | None = None,
    sam3_path: str | Path | None = None,
) -> nn.Module:
    """Loads a model in evaluation mode. The names and shapes of the weights decide which model it is.

    The model carries the settings of its training as `model.recipe`: the input side `size`, the colour order `rgb`, the
    form of mask prompts and more. They come from the metadata of a `.safetensors` file, from recipe.yaml beside the
    checkpoint, or from config.json of a hub folder; else they are the released settings. Raises UserError if the file
    or the device does not exist, the file is of another kind, names or shapes do not fit, or it was trained from other
    files.

    Args:
        path: a `.pth` file of this project or of the released code, a `.safetensors` file, a folder for the Hugging
            Face hub, or the name `owner/name` of a model on the hub.
        device: the device of the model. None: a GPU if there is one.
        hiera_path, dinov2_path, sam_checkpoint, sam3_path: for a file with trained weights only, the files that it was
            trained from, or names of published weights, as for `create_model`.
    """
    weight_paths = to_paths(
        hiera_path=hiera_path, dinov2_path=dinov2_path, sam_checkpoint=sam_checkpoint, sam3_path=sam3_path
    )
    device = pick_device(device)  # before it reads the file, which can take long
    return open_model(read_checkpoint(Path(path)), weight_paths, device)


def open_model(
    checkpoint: Checkpoint, weight_paths: WeightPaths, device: str | torch.device, recipe: Recipe | None = None
) -> nn.Module:
    """Returns the model of a checkpoint in evaluation mode. It carries `recipe`, by default that of the checkpoint."""
    check_network_options(checkpoint.family, ANY_SHAPE, weight_paths)
    for source in checkpoint.family.weight_flags:
        if source.flag in weight_paths and source.flag not in checkpoint.weight_files:
            raise UserError(
                f"{checkpoint.path} holds all weights, also those of the {source.part}; leave --{source.flag} out"
            )
    model, _ = assemble(checkpoint, weight_paths, recipe)
    return model.to(device).eval()


def save_checkpoint(
    model: nn.Module,
    path: Path,
    weight_files: WeightFiles = NO_FILES,
    state: Mapping[str, Tensor] | None = None,
    recipe: Recipe | None = None,
) -> None:
    """Writes a `.pth` with all weights, as the released code does, or a `.safetensors` with the trained weights.

    Args:
        weight_files: the files of the frozen parts. A `.safetensors` leaves their frozen weights out.
        state: weights to write instead of the model's weights, with the same names.
        recipe: the settings of the training, for the metadata of a `.safetensors`.
    """
    state = model.state_dict() if state is None else state
    if path.suffix == ".pth":
        save_state(state, path)
    elif path.suffix == ".safetensors":
        family = find_family_of(model)
        saved = {name: state[name] for name in list_saved_names(family, model, weight_files)}
        left_out = weight_files if len(saved) < len(list_saved_names(family, model, NO_FILES)) else {}
        facts = {} if recipe is None else {"recipe": json.dumps(recipe.to_dict(), ensure_ascii=False)}
        shape = family.find_shape(state)
        if shape is None:
            raise UserError(f"{path}: a {family.title} of no size that is known here; save it as .pth")
        write_trainable(path, saved, family.name, shape.to_facts() | facts, left_out)
    else:
        raise UserError(f"{path}: a checkpoint is called .pth (all weights) or .safetensors (trained weights alone)")


def list_saved_names(family: Family, model: nn.Module, weight_files: WeightFiles) -> list[str]:
    """Returns the names of the weights that `weight_files` do not hold, without constants."""
    parts = family.parts(model)
    in_files = [p for flag in family.weight_flags if flag.flag in weight_files for p in parts[flag.part]]
    frozen = {id(p) for p in in_files if not p.requires_grad}
    left_out = {name for name, p in model.named_parameters() if id(p) in frozen}
    return [name for name in model.state_dict() if name not in left_out and not name.endswith(family.constants)]


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    path: Path
    family: Family
    shape: NetworkShape
    state: dict[str, Tensor]
    weight_files: dict[str, WeightFile]  # the files with the weights that `state` leaves out
    recipe_text: str | None = None  # the recipe in the metadata of the file
    is_own: bool = False  # this project wrote the file, not the released code


def read_checkpoint(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Reads a checkpoint. UserError for a file of another kind. `trust_pickle` also reads a file that can run code."""
    path = locate_weights(path)
    state, facts, is_own = read_weights(path, trust_pickle)
    family = next((family for family in FAMILIES.values() if family.marker in state), None)
    if family is None:
        raise UserError(f"{path} is {describe_weights(state)}; wanted a checkpoint of {' or '.join(FAMILIES)}")
    state = {name: t for name, t in state.items() if not name.endswith(family.constants)}
    state, weight_files = to_float32(state, path), weight_files_from_facts(facts)
    written = facts.keys() >= set(family.options) - {"class_count"}
    shape = NetworkShape.from_facts(facts, family.options) if written else family.find_shape(state)
    if shape is None:
        raise UserError(f"{path}: a {family.title} checkpoint, but of no size that is known here")
    return Checkpoint(path, family, shape, state, weight_files, facts.get("recipe"), is_own)


def resize_checkpoint(checkpoint: Checkpoint, **options: Any) -> Checkpoint:
    """Returns a checkpoint with the values of its shape that are not None. UserError for an invalid side."""
    wanted = NetworkShape(**options)
    check_network_options(checkpoint.family, wanted, NO_FILES)
    shape = replace(checkpoint.shape, **wanted.to_dict())
    if shape == checkpoint.shape:
        return checkpoint
    assert checkpoint.family.resize_weights is not None
    return replace(checkpoint, shape=shape, state=checkpoint.family.resize_weights(checkpoint.state, shape))


def assemble(checkpoint: Checkpoint, weight_paths: WeightPaths, recipe: Recipe | None = None) -> BuiltModel:
    """Builds the model of a checkpoint. It carries `recipe`, by default that of the checkpoint.

    The weights in `weight_paths`, files of frozen parts, must equal those of the checkpoint bit for bit.
    """
    path = checkpoint.path
    if missing := [flag for flag in checkpoint.weight_files if flag not in weight_paths]:
        flags = " ".join(f"--{flag} FILE" for flag in missing)
        sources = "; ".join(str(checkpoint.weight_files[flag]) for flag in missing)
        raise UserError(
            f"{path} holds trained weights alone; give {flags}, the weights that it was trained from: {sources}"
        )
    in_files = {source.option for source in checkpoint.family.weight_flags if source.flag in weight_paths}
    shape = replace(checkpoint.shape, **dict.fromkeys(in_files))
    with torch.device("meta"):
        model, weight_files = checkpoint.family.build(shape, weight_paths)
    for flag, base in checkpoint.weight_files.items():
        if base.sha256 != weight_files[flag].sha256:
            raise UserError(f"{path} was trained from {base}; --{flag} is another file: {weight_files[flag]}")
    from_files = {name: t for name, t in model.state_dict().items() if not t.is_meta}
    for source in checkpoint.family.weight_flags:
        if source.flag in weight_paths and source.flag not in checkpoint.weight_files:
            check_same(checkpoint, model, source, weight_paths[source.flag])
    load_exact(model, from_files | checkpoint.state, path)
    set_settings_(model, recipe or find_recipe(checkpoint))
    return model, weight_files


def check_same(checkpoint: Checkpoint, model: nn.Module, source: WeightFlag, file: Path) -> None:
    """Raises UserError if a part of the checkpoint differs from the same part of `model`, which comes from `file`."""
    part = {id(p) for p in checkpoint.family.parts(model)[source.part]}
    names = [name for name, p in model.named_parameters() if id(p) in part]
    values, state = model.state_dict(), checkpoint.state
    if differ := [name for name in names if name not in state or not same_bits(values[name], state[name])]:
        raise UserError(
            f"{checkpoint.path} has another {source.part} than {file}: {len(differ)} of {len(names)} weights differ, "
            f"first {differ[0]}; give the file that it was trained from. There is none if its {source.part} was "
            "trained too."
        )
