"""Files of published weights that training starts from, by the flags that name them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

SOURCES = {  # flag -> what the file is
    "hiera_path": "SAM 2 checkpoint",
    "dinov2_path": "for SAM2-UNeXT, DINOv2 weights, timm's or Meta's file,",
    "sam_checkpoint": "for SAM-Med2D, a checkpoint of SAM or SAM-Med2D",
}


@dataclass(frozen=True)
class Base:
    """The file that a frozen part of a model was taken from. The SHA-256 decides; the name is for people."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256[:16]}..."


Sources = Mapping[str, Path]  # files given, by flag
Bases = Mapping[str, Base]  # by flag
NONE: Mapping = MappingProxyType({})


def add_sources(group: argparse._ActionsContainer, use: str = " that a .safetensors one was trained from") -> None:
    """A flag for each of `SOURCES`; `use` ends its help."""
    for flag, what in SOURCES.items():
        group.add_argument(f"--{flag}", type=Path, metavar="FILE", help=f"{what}{use}")


def sources_of(args: argparse.Namespace) -> Sources:
    """The files given, by flag."""
    return {flag: getattr(args, flag) for flag in SOURCES if getattr(args, flag) is not None}


def as_flags(files: Sources) -> list[str | Path]:
    """For the command line of another script."""
    return [word for flag, path in files.items() for word in (f"--{flag}", path)]


def facts_of_bases(bases: Bases) -> dict[str, str]:
    """As flat text, for the head of a file: `hiera` and `hiera_sha256`."""
    facts = {}
    for flag, base in bases.items():
        key = flag.removesuffix("_path")
        facts |= {key: base.name, f"{key}_sha256": base.sha256}
    return facts


def bases_in(facts: Mapping[str, str]) -> dict[str, Base]:
    """The reverse of `facts_of_bases`, with other facts beside them."""
    keys = {flag: flag.removesuffix("_path") for flag in SOURCES}
    return {flag: Base(facts[key], facts.get(f"{key}_sha256", "")) for flag, key in keys.items() if key in facts}
