"""Reads published weights: SAM 2, SAM 3, DINO, SAM and SAM-Med2D."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..atomic import sha256
from ..errors import UserError
from .formats import read_state_dict, to_float32
from .weight_files import WeightFile

SAM3_TRUNK = "detector.backbone.vision_backbone.trunk."  # prefix of the trunk in sam3.pt
SAM3_LICENCE = (
    "SAM 3 is under Meta's SAM License, and so is each checkpoint with its trunk: whoever passes one on adds a copy of "
    "that licence (https://huggingface.co/facebook/sam3)"
)
TRAINED = "--checkpoint of test.py or --init_from of train.py"
# A name that only this kind of file has -> a description of the file, and the flag that takes it.
KNOWN_FILES = {
    "encoder.blocks.0.prompt_learn.0.weight": ("a SAM2-UNet checkpoint", TRAINED),
    "sam.blocks.0.prompt_learn.0.weight": ("a SAM2-UNeXT checkpoint", TRAINED),
    "sam3_vit.blocks.0.prompt_learn.0.weight": ("a SAM3-UNet checkpoint", TRAINED),
    f"{SAM3_TRUNK}pos_embed": ("a SAM 3 checkpoint", "--sam3_path of train.py"),
    "image_encoder.trunk.pos_embed": ("a SAM 2 checkpoint", "--hiera_path of train.py"),
    "mask_decoder.iou_token.weight": (
        "a checkpoint of SAM or SAM-Med2D",
        "--checkpoint of test.py or --sam_checkpoint of train.py",
    ),
    "blocks.0.ls1.gamma": ("a DINOv2 checkpoint", "--dinov2_path of train.py"),
    "blocks.0.gamma_1": ("a DINOv3 checkpoint", "--dinov2_path of train.py"),
}


def describe_weights(state: Mapping[str, Tensor]) -> str:
    """Returns a description of a state dict for an error message, with the flag that takes it."""
    for name, (kind, flag) in KNOWN_FILES.items():
        if name in state:
            return f"{kind}, which belongs to {flag}"
    return f"an unknown kind of checkpoint (its first name is {next(iter(state))})"


@dataclass(frozen=True)
class Pretrained:
    """The weights of a part of a model, under the names of this package."""

    weights: dict[str, Tensor]
    version: str  # a label, for example "SAM 2.1"
    file: WeightFile  # the file that the weights were read from


def read_trunk(path: Path) -> Pretrained:
    """Reads the trunk in a checkpoint of SAM 2 or SAM 2.1."""
    state = read_state_dict(path)
    prefix = "image_encoder.trunk."
    trunk = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    if not trunk:
        raise UserError(f"{path} is {describe_weights(state)}; --hiera_path takes a SAM 2 checkpoint")
    version = "SAM 2.1" if "no_obj_embed_spatial" in state else "SAM 2"
    return Pretrained(to_float32(trunk, path), version, WeightFile(path.name, sha256(path)))


def read_sam3(path: Path) -> Pretrained:
    """Reads the trunk in sam3.pt of SAM 3, without its rotations, which are those of another input side."""
    state = read_state_dict(path)
    if any("vision_encoder.backbone." in name for name in state):
        raise UserError(f"{path} is the copy of SAM 3 for transformers, with other names; --sam3_path takes sam3.pt")
    trunk = {
        name.removeprefix(SAM3_TRUNK): t
        for name, t in state.items()
        if name.startswith(SAM3_TRUNK) and "freqs_cis" not in name
    }
    if not trunk:
        raise UserError(f"{path} is {describe_weights(state)}; --sam3_path takes sam3.pt of SAM 3")
    return Pretrained(to_float32(trunk, path), "SAM 3", WeightFile(path.name, sha256(path)))


def read_dino(path: Path) -> Pretrained:
    """Reads timm's file of DINOv2 or DINOv3, or Meta's of DINOv2, without the last norm and training's weights."""
    state = read_state_dict(path)
    kinds = {"storage_tokens": "Meta's", "blocks.0.gamma_1": "DINOv3", "blocks.0.ls1.gamma": "DINOv2"}
    version = next((kind for name, kind in kinds.items() if name in state), None)
    if version is None:
        raise UserError(f"{path} is {describe_weights(state)}; --dinov2_path takes a DINOv2 or DINOv3 checkpoint")
    if version == "Meta's":
        raise UserError(f"{path} is Meta's file of DINOv3; give timm's file, model.safetensors")
    if version == "DINOv2" and state.keys() & {"register_tokens", "reg_token"}:
        raise UserError(f"{path} is DINOv2 with registers; give the version without registers")
    weights = {name: t for name, t in state.items() if name != "mask_token" and not name.startswith(("norm.", "head."))}
    return Pretrained(to_float32(weights, path), version, WeightFile(path.name, sha256(path)))


def read_sam(path: Path) -> Pretrained:
    """Reads all weights of a checkpoint of the first SAM or of SAM-Med2D."""
    state = read_state_dict(path)
    if "image_encoder.blocks.0.attn.rel_pos_h" not in state:
        raise UserError(f"{path} is {describe_weights(state)}; a checkpoint of SAM or SAM-Med2D is needed")
    adapted = any(".Adapter." in name for name in state)
    return Pretrained(to_float32(state, path), "SAM-Med2D" if adapted else "SAM", WeightFile(path.name, sha256(path)))
