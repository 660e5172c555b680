"""Draws maps on photographs. Photographs are uint8 RGB (H, W, 3), masks bool (H, W), maps float (H, W) in [0, 1]."""

import cv2
import numpy as np
from numpy import ndarray

from ..data.images.pictures import encode_image

VIEW = 900  # longest side of the pictures on the page, in pixels; small pictures let sliders react at once
THUMBNAIL = 180  # longest side of a thumbnail, in pixels
PREDICTION, TRUTH = (230, 30, 165), (255, 225, 0)  # colours that are rare in photographs
# An outline has a light line between dark lines. One of both is visible on every photograph: for each grey value, the
# contrast of one of them is at least 3.
LIGHT_PREDICTION, DARK = (255, 150, 225), (0, 0, 0)
ONLY_FIRST, ONLY_SECOND = (255, 140, 20), (40, 150, 255)
BOTH, NEITHER = (180, 180, 180), (60, 60, 60)  # means of the grey values in `draw_differences`
# Colours of objects. They are easy to distinguish from each other, and from the green and red of points.
OBJECTS = (
    *((40, 150, 255), (255, 140, 20), (190, 90, 255), (255, 225, 0)),
    *((0, 200, 200), (255, 110, 180), (150, 110, 60), (150, 220, 90)),
)


def get_colour(number: int) -> tuple[int, int, int]:
    """Returns the colour of the object with this number. The first number is 1. The colours repeat."""
    return OBJECTS[(number - 1) % len(OBJECTS)]


def tint(photo: ndarray, mask: ndarray, opacity: float, colour: tuple[int, int, int] = PREDICTION) -> ndarray:
    """Returns a copy in which the mask has the colour. `opacity` 0: the photograph stays; 1: the colour covers it."""
    picture = photo.copy()
    picture[mask] = np.rint((1 - opacity) * photo[mask] + opacity * np.array(colour)).astype(np.uint8)
    return picture


def draw_outline(
    picture: ndarray, mask: ndarray, colour: tuple[int, int, int], edge: tuple[int, int, int] = DARK
) -> ndarray:
    """Returns a copy with the outline of the mask: a line of `colour` between lines of the colour `edge`."""
    width = max(1, round(max(mask.shape) / 320))
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    picture = cv2.drawContours(picture.copy(), lines, -1, edge, 3 * width, cv2.LINE_AA)
    return cv2.drawContours(picture, lines, -1, colour, width)  # not smooth: smoothing would darken a thin line


def draw_overlay(photo: ndarray, mask: ndarray, opacity: float, truth: ndarray | None = None) -> ndarray:
    """Draws the predicted mask with its colour and its outline, then the outline of the true mask on top."""
    picture = draw_outline(tint(photo, mask, opacity), mask, LIGHT_PREDICTION) if mask.any() else photo
    return picture if truth is None else draw_outline(picture, truth, TRUTH)


def draw_differences(photo: ndarray, first: ndarray, second: ndarray) -> ndarray:
    """Draws the photograph in grey. Pixels of one mask only have its colour. Pixels of both masks are light."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    picture = np.repeat((grey // 2)[..., None], 3, axis=2)
    picture[first & second] = grey[first & second, None] // 2 + 110
    picture = tint(picture, first & ~second, 0.85, ONLY_FIRST)
    return tint(picture, second & ~first, 0.85, ONLY_SECOND)


def scale_down(picture: ndarray, factor: float, interpolation: int = cv2.INTER_AREA) -> ndarray:
    """Multiplies both sides of a picture or a map (H, W, ...) by `factor`. Does not enlarge it."""
    size = [max(1, round(side * min(1, factor))) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=interpolation)


def shrink_to_view(picture: ndarray, interpolation: int = cv2.INTER_AREA) -> ndarray:
    """Shrinks a picture or a map (H, W, ...) so that its longer side has at most VIEW pixels."""
    return scale_down(picture, VIEW / max(picture.shape[:2]), interpolation)


def to_jpeg(picture: ndarray) -> bytes:
    """Encodes uint8 (H, W), or RGB (H, W, 3)."""
    return encode_image(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 88])
