"""Reads and writes weights. PyTorch files are read with `weights_only=True`: a checkpoint cannot run code."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import UserError, reader_killed
from .files import sha256, written_whole
from .sources import Base
from .trainable import read_trainable

RUN_FORMAT = "sam2unet-run"  # under "format" in a last.pt

# A name that only this kind of file holds -> what the file is, and the flag that it belongs to.
KINDS = {
    "encoder.blocks.0.prompt_learn.0.weight": (
        "a SAM2-UNet checkpoint",
        "--checkpoint of test.py or --init_from of train.py",
    ),
    "sam.blocks.0.prompt_learn.0.weight": (
        "a SAM2-UNeXT checkpoint",
        "--checkpoint of test.py or --init_from of train.py",
    ),
    "image_encoder.trunk.pos_embed": ("a SAM 2 checkpoint", "--hiera_path of train.py"),
    "mask_decoder.iou_token.weight": (
        "a checkpoint of SAM or SAM-Med2D",
        "--checkpoint of test.py or --sam_checkpoint of train.py",
    ),
    "blocks.0.ls1.gamma": ("a DINOv2 checkpoint", "--dinov2_path of train.py"),
    "blocks.0.gamma_1": ("a DINOv3 checkpoint", "--dinov2_path of train.py"),
}


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in `path` on the CPU: a state dict, bare or under `model`, or a safetensors file.

    Raises UserError if the file is something else.
    """
    return read_weights(path)[0]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`read_state`, and the facts of a file of trained weights alone, as `trainable` writes them."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        state, facts = read_trainable(path)
    else:
        state, facts = read_pickle(path), {}
    if not isinstance(state, dict) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{path} holds no state dict (names with tensors)")
    return state, facts


def read_pickle(path: Path) -> object:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as e:
        if "GLOBAL torch.optim." in str(e):
            raise UserError(
                f"{path} holds an optimiser as a Python object, which can run code when it is read, and is not opened. "
                f"If you trust it, keep its weights alone: {weights_alone(path)}"
            ) from e
        size = path.stat().st_size
        raise UserError(
            f"{path} ({size:,} bytes) is not a PyTorch file of weights alone, or only a part of one; "
            "compare its size with the original and download it again"
        ) from e
    if isinstance(content, dict) and content.get("format") == RUN_FORMAT:
        raise UserError(f"{path} is the state of a training run, which belongs to --resume of train.py")
    return content.get("model", content) if isinstance(content, dict) else None


def weights_alone(path: Path) -> str:
    """A command that writes a second file with what a training script of SAM-Med2D saved under `model`."""
    target = path.with_name(f"{path.stem}_weights.pth")
    code = f"import torch; torch.save(torch.load({str(path)!r}, 'cpu', weights_only=False)['model'], {str(target)!r})"
    return f"python -c {shlex.quote(code)}"


def what_is(state: Mapping[str, Tensor]) -> str:
    """One clause for an error line: what a state dict is and where it belongs."""
    for name, (kind, flag) in KINDS.items():
        if name in state:
            return f"{kind}, which belongs to {flag}"
    return f"no kind of checkpoint known here (its first name is {next(iter(state))})"


@dataclass(frozen=True)
class Pretrained:
    """A part's weights under the names that it has here, what they are of in words, and the file they are from."""

    weights: dict[str, Tensor]
    version: str
    base: Base


def read_trunk(path: Path) -> Pretrained:
    """From a SAM 2 or 2.1 checkpoint."""
    state = read_state(path)
    prefix = "image_encoder.trunk."
    trunk = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    if not trunk:
        raise UserError(f"{path} is {what_is(state)}; --hiera_path takes a SAM 2 checkpoint")
    return Pretrained(trunk, "SAM 2.1" if "no_obj_embed_spatial" in state else "SAM 2", Base(path.name, sha256(path)))


def read_dino(path: Path) -> Pretrained:
    """From timm's file of a DINOv2 or DINOv3 without registers of its own choice, or Meta's of a DINOv2.

    Left out are the last norm and what training alone needs.
    """
    state = read_state(path)
    kinds = {"storage_tokens": "Meta's", "blocks.0.gamma_1": "DINOv3", "blocks.0.ls1.gamma": "DINOv2"}
    version = next((kind for name, kind in kinds.items() if name in state), None)
    if version is None:
        raise UserError(f"{path} is {what_is(state)}; --dinov2_path takes a DINOv2 or DINOv3 checkpoint")
    if version == "Meta's":
        raise UserError(f"{path} is Meta's file of a DINOv3; give timm's, model.safetensors")
    if version == "DINOv2" and state.keys() & {"register_tokens", "reg_token"}:
        raise UserError(f"{path} is a DINOv2 with registers; give the one without")
    weights = {name: t for name, t in state.items() if name != "mask_token" and not name.startswith(("norm.", "head."))}
    return Pretrained(weights, version, Base(path.name, sha256(path)))


def read_sam(path: Path) -> Pretrained:
    """From a checkpoint of the first SAM or of SAM-Med2D, all of it."""
    state = read_state(path)
    if "image_encoder.blocks.0.attn.rel_pos_h" not in state:
        raise UserError(f"{path} is {what_is(state)}; wanted a checkpoint of SAM or SAM-Med2D")
    adapted = any(".Adapter." in name for name in state)
    return Pretrained(state, "SAM-Med2D" if adapted else "SAM", Base(path.name, sha256(path)))


def load_exact(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put `state` into `module` if every name and shape is the same; else UserError with counts and the first name."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    if wanted != found:
        missing = [name for name in wanted if name not in found]
        extra = [name for name in found if name not in wanted]
        differ = [name for name in wanted if name in found and wanted[name] != found[name]]
        first = (missing + extra + differ)[0]
        raise UserError(
            f"{path} does not fit {type(module).__name__}: {len(missing)} names are missing, {len(extra)} are unknown, "
            f"{len(differ)} have another shape; first: {first}"
        )
    module.load_state_dict(state, assign=any(p.is_meta for p in module.parameters()))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Stricter than torch.equal, for which 0 is -0 and NaN differs from itself."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (a, b)))


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """A bare state dict, on the CPU, as released checkpoints are."""
    with written_whole(path) as file:
        try:
            torch.save({name: t.cpu().contiguous() for name, t in state.items()}, file)
        except RuntimeError as e:  # how torch reports a full disk
            raise reader_killed(e) or OSError(str(e)) from e
