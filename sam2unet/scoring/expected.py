"""The published figures, for comparison with measured ones."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from ..errors import UserError

FILE = Path(__file__).with_name("expected.yaml")


Figures = Mapping[str, Mapping[str, float]]  # data set -> metric -> published figure


def read_figures(name: str) -> Figures:
    """Returns the figures of a paper, for example "sam2-unet". Raises UserError if there is no such paper."""
    papers = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    if name not in papers:
        raise UserError(f"no published figures are known for {name!r}; give one of {', '.join(papers)}")
    return papers[name]


def find_figures(figures: Figures, dataset: str) -> Mapping[str, float]:
    """Returns the figures of a data set, or {}. Case, spaces and hyphens do not matter: `cod 10k` is COD10K."""
    return next((row for name, row in figures.items() if simplify_name(name) == simplify_name(dataset)), {})


def simplify_name(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).casefold()
