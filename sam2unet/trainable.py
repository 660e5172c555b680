"""Files of trained weights alone, as safetensors: the frozen ones that belong with them are only named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from .errors import UserError
from .files import read_start, written_whole
from .sources import Base, Bases, bases_in, facts_of_bases

FORMAT, VERSION = "sam2unet-weights", "2"
PICKLE_STARTS = (b"PK", b"\x80\x02")  # PyTorch's zip files, and its older files


def write_trainable(
    path: Path, state: Mapping[str, Tensor], model: str, sizes: Mapping[str, str], bases: Bases
) -> None:
    """Write `state` with what is needed to use it again.

    Args:
        model, sizes: a name of `families.FAMILIES` and the sizes of its parts.
        bases: the files that have all other weights of the model.
    """
    facts = {"format": FORMAT, "version": VERSION, "model": model, **sizes, **facts_of_bases(bases)}
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()}, facts)
    # The library orders the facts by chance; in a fixed order, equal weights make equal files.
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]) | {"__metadata__": facts}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # as the format wants it, so that the numbers are aligned
    with written_whole(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[start:])


def named_bases(path: Path) -> dict[str, Base]:
    """The files that the weights left out of a file are in, by flag; none for a file of another kind."""
    return bases_in(read_trainable(path)[1]) if os.path.isfile(path) and is_safetensors(path) else {}


def is_safetensors(path: Path) -> bool:
    """Whether the content is safetensors and not a pickle; the name decides where the content does not say.

    Raises UserError for a file that is not there or cannot be read.
    """
    start = read_start(path, 9)
    if start.startswith(PICKLE_STARTS):
        return False
    return start[8:] == b"{" or path.suffix == ".safetensors"


def read_trainable(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the facts that `write_trainable` put beside them; none if not ours."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            # Copied, because as it comes a tensor is a view of the file and changes or crashes with it.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as e:  # damaged and hostile files raise errors of many types
        raise UserError(
            f"{path} is not a safetensors file, or only a part of one ({e}); compare its size with the original and "
            "copy it again"
        ) from e
    if facts.get("format") != FORMAT:
        return state, {}
    if facts.get("version") == "1":  # named the file of the trunk alone
        facts |= {new: facts[old] for old, new in (("base", "hiera"), ("base_sha256", "hiera_sha256")) if old in facts}
    elif facts.get("version") != VERSION:
        raise UserError(f"{path} has version {facts.get('version')} of the format, known here is {VERSION}; update")
    return state, facts
