"""Overlays, differences and outlines on the page for maps."""

import numpy as np

from sam2unet.demo import draw


def test_overlay_and_differences():
    photo = np.full((60, 80, 3), 100, np.uint8)
    found, other = np.zeros((2, 60, 80), bool)
    found[10:40, 10:40] = True
    other[20:50, 10:40] = True
    drawn = draw.draw_overlay(photo, found, 0.5, other)
    assert drawn[15, 25].tolist() == np.rint(50 + np.array(draw.PREDICTION) / 2).tolist()
    for row, colour in ((10, draw.LIGHT_PREDICTION), (49, draw.TRUTH)):
        assert drawn[row, 25].tolist() == list(colour)
    assert (drawn[55] == 100).all() and (photo == 100).all()
    assert (draw.draw_overlay(photo, found, 0)[15, 25] == 100).all()
    drawn = draw.draw_differences(photo, found, other)
    assert drawn[15, 25, 0] > drawn[15, 25, 2] and drawn[45, 25, 0] < drawn[45, 25, 2]
    assert drawn[30, 25].tolist() == [160] * 3 and drawn[55, 25].tolist() == [50] * 3


def luminance(colour: np.ndarray) -> np.ndarray:
    """The relative luminance of WCAG 2."""
    share = np.asarray(colour) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def test_an_outline_is_visible_on_a_photograph_of_any_colour():
    """One of its two colours has a contrast of at least 3 to the photograph, as WCAG 2 asks of graphics."""
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    steps = np.array([0, 36, 73, 109, 146, 182, 219, 255], np.uint8)
    for colour in np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3):
        picture = draw.draw_overlay(np.tile(colour, (9, 9, 1)), mask, 0)
        levels = np.sort(np.stack([luminance(picture.reshape(-1, 3)), np.full(81, luminance(colour))]), axis=0)
        assert ((levels[1] + 0.05) / (levels[0] + 0.05)).max() >= 3, colour
