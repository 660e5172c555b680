"""Pictures of a map on its photograph; arrays are uint8 RGB (H, W, 3), bool (H, W) and float maps (H, W) in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np
from numpy import ndarray

FOUND, TRUTH = (230, 30, 165), (255, 225, 0)  # colours that few photographs have
ONLY_FIRST, ONLY_SECOND = (255, 140, 20), (40, 150, 255)
OBJECTS = (  # told apart by most eyes, and from the green and red of points
    (40, 150, 255),
    (255, 140, 20),
    (190, 90, 255),
    (255, 225, 0),
    (0, 200, 200),
    (255, 110, 180),
    (150, 110, 60),
    (150, 220, 90),
)


def colour_of(number: int) -> tuple[int, int, int]:
    """Of the object of that number, from 1."""
    return OBJECTS[(number - 1) % len(OBJECTS)]


def tint(photo: ndarray, where: ndarray, opacity: float, colour: tuple[int, int, int] = FOUND) -> ndarray:
    mixed = photo.copy()
    mixed[where] = np.rint((1 - opacity) * photo[where] + opacity * np.array(colour)).astype(np.uint8)
    return mixed


def outline(picture: ndarray, where: ndarray, colour: tuple[int, int, int], factor: int = 1) -> ndarray:
    """`factor` of the usual width."""
    width = factor * max(1, round(max(where.shape) / 320))
    lines, _ = cv2.findContours(where.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), lines, -1, colour, width, cv2.LINE_AA)


def overlay(photo: ndarray, found: ndarray, opacity: float, truth: ndarray | None = None) -> ndarray:
    """What was found, tinted and with its outline; the outline of the true mask on top."""
    picture = outline(tint(photo, found, opacity), found, FOUND) if found.any() else photo
    return picture if truth is None else outline(picture, truth, TRUTH)


def differences(photo: ndarray, first: ndarray, second: ndarray) -> ndarray:
    """The photograph in grey; strong where one map alone found something, lighter where both did."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    picture = np.repeat((grey // 2)[..., None], 3, axis=2)
    picture[first & second] = grey[first & second, None] // 2 + 110
    picture = tint(picture, first & ~second, 0.85, ONLY_FIRST)
    return tint(picture, second & ~first, 0.85, ONLY_SECOND)


def glow(photo: ndarray, found: ndarray, height: int = 240) -> ndarray:
    """A small picture that no threshold changes: the more a pixel is foreground, the more of the colour it has."""
    scale = min(1, height / photo.shape[0])
    size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    photo, found = (cv2.resize(array, size, interpolation=cv2.INTER_AREA) for array in (photo, found))
    weight = 0.65 * found[..., None]
    return np.rint((1 - weight) * photo + weight * np.array(FOUND)).astype(np.uint8)


def to_jpeg(picture: ndarray) -> bytes:
    """uint8 (H, W), or (H, W, 3) RGB."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    return data.tobytes()
