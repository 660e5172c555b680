"""The published figures, for comparison with measured ones."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from ..errors import UserError

FILE = Path(__file__).with_name("expected.yaml")


class Figures(Mapping[str, dict[str, float]]):
    """Data set -> metric -> published figure. Case, spaces and hyphens do not matter: `cod 10k` is COD10K."""

    def __init__(self, datasets: dict[str, dict[str, float]]):
        self.datasets = datasets
        self.names = {simplify_name(name): name for name in datasets}

    def __getitem__(self, name: str) -> dict[str, float]:
        return self.datasets[self.names[simplify_name(name)]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.datasets)

    def __len__(self) -> int:
        return len(self.datasets)


def read_figures(name: str) -> Figures:
    """Returns the figures of a paper, for example "sam2-unet". Raises UserError if there is no such paper."""
    papers = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    if name not in papers:
        raise UserError(f"no published figures are known for {name!r}; give one of {', '.join(papers)}")
    return Figures(papers[name])


def simplify_name(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).casefold()
