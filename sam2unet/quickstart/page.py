"""Writes `overview.html`: the result of a quickstart as one page for people. It needs no network and no other file."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from ..atomic import write_atomic
from ..data.images.masks import read_mask
from ..data.images.pictures import CYAN, outline_
from ..data.images.reading import read_image
from ..recipe import ForegroundRule
from ..runtime.parallel import map_files
from ..runtime.versions import versions
from ..scoring.report.page import TEMPLATE, escape
from ..scoring.report.pictures import encode_webp, shrink
from .judge import Judgement, MapFacts

SHOWN = 6  # of the worst images, and of the best ones
SIDE, MAX_BYTES = 320, 60_000  # longer side of a picture in pixels, and the size of its file
MASK_COLOR = (255, 200, 0)
PACKAGES = ("sam2unet", "torch", "numpy", "pillow")


@dataclass(frozen=True)
class Story:
    """What the page tells beside the pictures. Each text is one sentence or more."""

    title: str
    judgement: Judgement
    advice: Sequence[str]
    work: Sequence[str]  # what was done
    command: str
    files: Sequence[tuple[str, str]]  # name and meaning of the files beside the page


def write_overview_page(story: Story, maps: Path, rule: ForegroundRule, path: Path) -> None:
    """Writes the page, completely or not at all. `maps` holds the maps, 8-bit PNG files."""
    images = story.judgement.sort()
    worst = images[: SHOWN if len(images) > 2 * SHOWN else (len(images) + 1) // 2]
    best = images[: len(worst) - 1 : -1][:SHOWN]
    level = story.judgement.level

    def draw(facts: MapFacts) -> str:
        return draw_row(facts, maps, rule, level)

    template = Template(Path(__file__).with_name("overview.html").read_text("utf-8"))
    page = template.substitute(
        title=escape(story.title),
        day=date.today().isoformat(),
        style=TEMPLATE.with_suffix(".css").read_text("utf-8"),
        mask_color=f"rgb{MASK_COLOR}",
        map_color=f"rgb{CYAN}",
        verdict=list_lines(story.judgement.describe()),
        advice=list_lines(story.advice),
        worst="".join(map_files(draw, worst)),
        best="".join(map_files(draw, best)),
        count=len(images),
        threshold=f"{story.judgement.threshold:.2f}",
        work=list_lines(story.work),
        command=escape(story.command),
        files="".join(f"<dt>{escape(name)}<dd>{escape(meaning)}" for name, meaning in story.files),
        versions=escape(", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())),
    )
    with write_atomic(path) as file:
        file.write(page.encode())


def list_lines(lines: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}" for line in lines)


def draw_row(facts: MapFacts, maps: Path, rule: ForegroundRule, level: int) -> str:
    """Returns the HTML of an image: the photograph, the photograph with both outlines, and the map.

    The outline of the map is at the grey level `level`.
    """
    name = facts.pair.image.name
    with Image.open(maps / f"{facts.pair.image.stem}.png") as file:
        grey = file.convert("L")
    photo, mask = read_image(facts.pair.image), read_mask(facts.pair.mask, rule)
    photo = shrink(photo if photo.size == mask.size else photo.resize(mask.size), SIDE)
    outlined = np.array(photo)
    objects = grey.point(lambda value: 255 * (value > level))
    for picture, color in ((mask, MASK_COLOR), (objects, CYAN)):
        outline_(outlined, np.asarray(picture.resize(photo.size, Image.Resampling.BILINEAR)), color)
    pictures = {
        f"photograph {name}": photo,
        f"outlines on {name}": Image.fromarray(outlined),
        f"map of {name}": shrink(grey, SIDE),
    }
    images = "".join(
        f'<img src="data:image/webp;base64,{encode_webp(picture, MAX_BYTES)}" alt="{escape(text)}">'
        for text, picture in pictures.items()
    )
    words = f"Dice {facts.dice:.2f}, {facts.wrong:.1%} of the pixels wrong, highest probability {facts.top:.2f}"
    return f"<figure>{images}<figcaption><b>{escape(name)}</b> {words}</figcaption></figure>"
