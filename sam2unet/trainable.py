"""Files of trained weights alone, as safetensors: the frozen ones that belong with them are only named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import UserError
from .files import written_whole

FORMAT, VERSION = "sam2unet-weights", "1"


@dataclass(frozen=True)
class Base:
    """The SAM 2 file that a frozen trunk was taken from. The SHA-256 decides; the name is for people."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256[:16]}..."


def write_trainable(path: Path, state: Mapping[str, Tensor], model: str, encoder: str, base: Base | None) -> None:
    """Write `state` with what is needed to use it again.

    Args:
        model, encoder: a name of `families.FAMILIES` and its encoder size.
        base: the file that has all other weights of the model; None if there are none.
    """
    facts = {"format": FORMAT, "version": VERSION, "model": model, "encoder": encoder}
    facts |= {"base": base.name, "base_sha256": base.sha256} if base else {}
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()}, facts)
    # The library orders the facts by chance; in a fixed order, equal weights make equal files.
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]) | {"__metadata__": facts}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # as the format wants it, so that the numbers are aligned
    with written_whole(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[start:])


def read_trainable(path: Path) -> tuple[dict[str, Tensor], Base | None]:
    """The tensors of a safetensors file, ours or not, and the file that the model's other weights are in, if named."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            # Copied, because as it comes a tensor is a view of the file and changes or crashes with it.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise UserError(
            f"{path} is not a safetensors file, or only a part of one ({e}); compare its size with the original and "
            "copy it again"
        ) from e
    if facts.get("format") != FORMAT:
        return state, None
    if facts.get("version") != VERSION:
        raise UserError(f"{path} has version {facts.get('version')} of the format, known here is {VERSION}; update")
    return state, Base(facts["base"], facts.get("base_sha256", "")) if "base" in facts else None
