"""Reads and writes weights. PyTorch files are read with `weights_only=True`: a checkpoint cannot run code."""

import json
import os
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..atomic import read_start, write_atomic
from ..errors import UserError, find_os_error, print_line
from ..runtime.signals import hold_back
from .weight_files import WeightFile, WeightFiles, weight_files_from_facts, weight_files_to_facts

RUN_FORMAT = "sam2unet-run"  # under "format" in a last.pt
TRUST_COMMAND = ("sam2unet", "convert-checkpoint", "--trust_pickle")
WRAPPERS = ("state_dict", "model")  # keys of the weights in files of training frameworks
PREFIXES = ("module.", "model.", "_orig_mod.")  # of all names, added by DataParallel, Lightning and torch.compile
RELEASED_NAMES = (  # below "model"
    "image_encoder.trunk.pos_embed",
    "mask_decoder.iou_token.weight",
    "detector.backbone.vision_backbone.trunk.pos_embed",
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the weights in `path` on the CPU. Raises UserError if it is neither a state dict nor safetensors."""
    return read_weights(path).state


class StoredWeights(NamedTuple):
    """The content of a file."""

    state: dict[str, Tensor]
    facts: dict[str, str]  # the metadata that `write_trainable` wrote; empty for other files
    # this project wrote the file. The released scripts save an ordered dictionary, `save_state` a plain one.
    is_own: bool


def read_weights(path: Path, trust_pickle: bool = False) -> StoredWeights:
    """Reads a state dict and what the file says about it. The content decides the format, not the name of the file.

    `trust_pickle` also reads a file that can run code when it is read.
    """
    state: Any
    if is_safetensors(path):
        state, facts = read_trainable(path)
        is_own = bool(facts)
    else:
        content = read_pickle(path, trust_pickle)
        state, facts = unwrap(content, path), {}
        is_own = type(content) is dict and state is content
    is_state = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not is_state or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{path} holds no state dict (names with tensors)")
    return StoredWeights(dict(state), facts, is_own)


def read_pickle(path: Path, trust: bool = False) -> object:
    try:
        with open(path, "rb") as file:  # with a path, torch.load decides by the name
            content = torch.load(file, map_location="cpu", weights_only=not trust)
    except Exception as e:  # damaged and hostile files raise errors of many types
        raise unreadable_pickle(path, e, trust) from e
    if isinstance(content, dict) and content.get("format") == RUN_FORMAT:
        raise UserError(f"{path} is the state of a training run; --resume of train.py takes it")
    return content.state_dict() if isinstance(content, nn.Module) else content


def unreadable_pickle(path: Path, error: Exception, trust: bool) -> UserError:
    size = path.stat().st_size
    what = f"{path} ({size:,} bytes) is not a PyTorch file that holds only weights"
    if trust and isinstance(error, (ImportError, AttributeError)):
        return UserError(f"{path} needs Python code that is not installed: {' '.join(str(error).split())}")
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        target = path.with_name(f"{path.stem}_weights.pth")
        return UserError(
            f"{what}: it also holds a Python object ({found[1]}), and reading it can run code. If you trust the "
            f"source, convert the file to plain weights: {shlex.join([*TRUST_COMMAND, str(path), str(target)])}"
        )
    return UserError(f"{what}, or only a part of one; compare its size with the original and download it again")


def unwrap(content: Any, path: Path) -> Any:
    """Returns the state dict in a file of a training framework, and prints a note about removed keys and prefixes."""
    keys: list[str] = []
    prefixes: list[str] = []
    for _ in range(2):
        if not isinstance(content, Mapping):
            return content
        if key := next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None):
            content, keys = content[key], [*keys, key]
    if not content or not all(isinstance(name, str) for name in content):
        return content
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in content)), None):
        content, prefixes = {name[len(prefix) :]: t for name, t in content.items()}, [*prefixes, prefix]
    released = keys == ["model"] and any(name in content for name in RELEASED_NAMES)
    if prefixes or keys and not released:
        notes = [f"the weights are below {' and '.join(keys)}"] * bool(keys)
        notes += [f"each name starts with {''.join(prefixes)}"] * bool(prefixes)
        print_line(f"note: {path}: {', and '.join(notes)}; this part is ignored")
    return content


def to_float32(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Converts half precision to float32, and prints a note. UserError for weights of any other type."""
    wanted = {name: torch.int64 if name.endswith("num_batches_tracked") else torch.float32 for name in weights}
    types = {name: type_of(t) for name, t in weights.items()}
    if bad := [name for name, dtype in types.items() if dtype not in (wanted[name], torch.float16, torch.bfloat16)]:
        raise UserError(
            f"{path}: {len(bad)} of {len(weights)} weights have a type that cannot be used; first: {bad[0]} is "
            f"{str(types[bad[0]]).removeprefix('torch.')}, but must be {str(wanted[bad[0]]).removeprefix('torch.')}"
        )
    if half := [name for name, dtype in types.items() if dtype != wanted[name]]:
        halves = " and ".join(sorted({str(types[name]).removeprefix("torch.") for name in half}))
        print_line(f"note: {path}: {len(half)} of {len(weights)} weights are {halves}, converted to float32")
    try:
        return {name: t.to(wanted[name]) for name, t in weights.items()}
    except RuntimeError as e:
        raise UserError(f"{path}: too little memory to convert the weights; save them as float32") from e


def type_of(tensor: Tensor) -> torch.dtype | torch.layout | str:
    """Returns the type of the numbers; for a tensor that has no number per element, what it is instead."""
    if tensor.is_meta:
        return "meta (a shape without numbers)"
    return tensor.dtype if tensor.layout == torch.strided else tensor.layout


def load_exact(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads `state` if every name and shape is that of `module` and all numbers are finite. Otherwise UserError."""
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
    if bad := [name for name, t in state.items() if not is_finite(t)]:
        raise UserError(
            f"{path}: {len(bad)} of {len(state)} weights contain NaN or Inf; first: {bad[0]}. The file is damaged, or "
            "its training diverged; give another checkpoint"
        )
    module.load_state_dict(state, assign=any(p.is_meta for p in module.parameters()))


def is_finite(tensor: Tensor) -> bool:
    """Returns whether no element is NaN or Inf. The sum is ten times faster than a full test, but can overflow."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Returns whether all bits are the same. For torch.equal, 0 equals -0 and NaN differs from itself."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (a, b)))


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a bare state dict, as in released checkpoints."""
    write_pickle({name: t.cpu().contiguous() for name, t in state.items()}, path)


def write_pickle(content: object, path: Path) -> None:
    # When a process that reads images is killed, PyTorch's handler of SIGCHLD raises an error in this process.
    with hold_back(signal.SIGCHLD), write_atomic(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as e:
            raise find_os_error(e) or e from e


TRAINABLE_FORMAT, TRAINABLE_VERSION = "sam2unet-weights", "2"
PICKLE_STARTS = (b"PK", b"\x80\x02")  # PyTorch's zip files, and its older format


def write_trainable(
    path: Path, state: Mapping[str, Tensor], model: str, facts: Mapping[str, str], weight_files: WeightFiles
) -> None:
    """Writes `state` of the model `model` with its shape and recipe, `facts`, and the files of all other weights."""
    facts = {"format": TRAINABLE_FORMAT, "version": TRAINABLE_VERSION, "model": model, **facts}
    facts |= weight_files_to_facts(weight_files)
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()}, facts)
    # The library writes the facts in random order. A fixed order gives equal files for equal weights.
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]) | {"__metadata__": facts}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format requires this, so that the numbers are aligned
    with write_atomic(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[start:])


def read_named_files(path: Path) -> dict[str, WeightFile]:
    """Returns the files with the weights that were left out of `path`, by flag. Returns {} for other kinds of file."""
    return weight_files_from_facts(read_trainable(path)[1]) if os.path.isfile(path) and is_safetensors(path) else {}


def is_safetensors(path: Path) -> bool:
    """Returns whether the content is safetensors and not a pickle. The name decides if the content does not."""
    start = read_start(path, 9)
    if start.startswith(PICKLE_STARTS):
        return False
    return start[8:] == b"{" or path.suffix == ".safetensors"


def read_trainable(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a safetensors file, and the facts that `write_trainable` wrote, or {}."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            # Cloned, because the tensor is a view of the file: if the file changes, it changes or crashes.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as e:  # damaged and hostile files raise errors of many types
        raise UserError(
            f"{path} is not a safetensors file, or only a part of one ({e}); compare its size with the original and "
            "copy it again"
        ) from e
    if facts.get("format") != TRAINABLE_FORMAT:
        return state, {}
    if (version := facts.get("version")) == "1":  # had only the file of the trunk
        facts |= {new: facts[old] for old, new in (("base", "hiera"), ("base_sha256", "hiera_sha256")) if old in facts}
    elif version != TRAINABLE_VERSION:
        raise UserError(
            f"{path} has version {version} of the format; this package reads {TRAINABLE_VERSION}; update it"
        )
    return state, facts
