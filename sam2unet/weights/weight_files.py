"""Files of published weights that training starts from, by the flags that name them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

WEIGHT_FLAGS = {  # flag -> what the file is
    "hiera_path": "SAM 2 checkpoint",
    "dinov2_path": "for SAM2-UNeXT, DINOv2 weights, timm's or Meta's file,",
    "sam_checkpoint": "for SAM-Med2D, a checkpoint of SAM or SAM-Med2D",
}


@dataclass(frozen=True)
class WeightFile:
    """The file that a frozen part of a model was taken from. The SHA-256 decides; the name is for people."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256[:16]}..."


WeightPaths = Mapping[str, Path]  # files given, by flag
WeightFiles = Mapping[str, WeightFile]  # by flag
NO_FILES: Mapping = MappingProxyType({})


def add_weight_flags(group: argparse._ActionsContainer, use: str = " that a .safetensors one was trained from") -> None:
    """A flag for each of `WEIGHT_FLAGS`; `use` ends its help."""
    for flag, what in WEIGHT_FLAGS.items():
        group.add_argument(f"--{flag}", type=Path, metavar="FILE", help=f"{what}{use}")


def read_weight_flags(args: argparse.Namespace) -> WeightPaths:
    """The files given, by flag."""
    return {flag: getattr(args, flag) for flag in WEIGHT_FLAGS if getattr(args, flag) is not None}


def to_flags(files: WeightPaths) -> list[str | Path]:
    """For the command line of another script."""
    return [word for flag, path in files.items() for word in (f"--{flag}", path)]


def weight_files_to_facts(weight_files: WeightFiles) -> dict[str, str]:
    """As flat text, for the head of a file: `hiera` and `hiera_sha256`."""
    facts = {}
    for flag, base in weight_files.items():
        key = flag.removesuffix("_path")
        facts |= {key: base.name, f"{key}_sha256": base.sha256}
    return facts


def weight_files_from_facts(facts: Mapping[str, str]) -> dict[str, WeightFile]:
    """The reverse of `weight_files_to_facts`, with other facts beside them."""
    keys = {flag: flag.removesuffix("_path") for flag in WEIGHT_FLAGS}
    return {flag: WeightFile(facts[key], facts.get(f"{key}_sha256", "")) for flag, key in keys.items() if key in facts}
