"""A list of buttons with small pictures. `choose.js` sends the number of the pressed button."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .draw import THUMBNAIL, scale_down, to_jpeg


class Thumbnail(NamedTuple):
    """A picture with its names."""

    picture: np.ndarray  # uint8 RGB (H, W, 3), of any size
    description: str  # what the picture is, for assistive technology, which then reads the name
    name: str  # is shown under the picture


def thumbnails_html(items: Sequence[Thumbnail], chosen: int | None = None) -> str:
    """The buttons. The one with the index `chosen` is marked."""
    return f'<div class="thumbnails">{"".join(button_html(i, item, i == chosen) for i, item in enumerate(items))}</div>'


def button_html(index: int, item: Thumbnail, is_chosen: bool) -> str:
    source = encode_source(scale_down(item.picture, THUMBNAIL / max(item.picture.shape[:2])))
    name = html.escape(item.name)
    return (
        f'<button type="button" data-index="{index}"{" aria-current=true" * is_chosen} title="{name}">'
        f'<img alt="{html.escape(item.description)}" src="{source}"><span>{name}</span></button>'
    )


def encode_source(picture: np.ndarray) -> str:
    """Returns a picture as the value of `src`."""
    return f"data:image/jpeg;base64,{base64.b64encode(to_jpeg(picture)).decode()}"
