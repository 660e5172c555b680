"""Masks as run lengths: the codes of COCO, CVAT and Label Studio. A list of counts starts with the zeros."""

from collections.abc import Sequence

import numpy as np

BRUSH_SIZES = (3, 4, 8, 16)  # Label Studio: the numbers of bits for the length of a run


def count_runs(values: np.ndarray) -> list[int]:
    """bool (N,) -> the lengths of the runs of zeros, ones, zeros, ... The first length may be 0."""
    edges = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(values)]])).tolist()
    return [0, *counts] if len(values) and values[0] else counts


def expand_runs(counts: Sequence[int], total: int) -> np.ndarray:
    """The inverse of `count_runs`. Raises ValueError if the counts do not add up to `total`."""
    lengths = np.array(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or (lengths > total).any() or lengths.sum() != total:
        raise ValueError(f"the run lengths do not add up to {total} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def parse_coco_counts(text: str) -> list[int]:
    """Reads the compressed counts of COCO. Raises ValueError for damaged text.

    A character has 5 bits of a number and a bit that says whether more follow. From the fourth number on, the text has
    the difference to the number two places before. pycocotools does not check the text: for damaged text, it returns
    random memory.
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        code -= 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("the compressed run lengths are damaged")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        value -= (code >> 4 & 1) << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths are incomplete")
    return counts


def encode_brush(mask: np.ndarray) -> list[int]:
    """bool (H, W) -> the bytes of Label Studio's brush: run lengths of 4 equal channels with the values 0 and 255."""
    bits = [f"{4 * mask.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in BRUSH_SIZES)]
    for number, count in enumerate(count_runs(mask.ravel())):
        value, left = f"{255 * (number % 2):08b}", 4 * count
        while left:
            run = min(left, 1 << BRUSH_SIZES[-1])
            kind = next(index for index, size in enumerate(BRUSH_SIZES) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{BRUSH_SIZES[kind]}b}{value}")
            left -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode_brush(code: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The inverse: bool (height, width), true where the alpha channel is above half. ValueError for damaged bytes."""
    data = bytes(list(code))
    bits, text = np.unpackbits(np.frombuffer(data, np.uint8)), f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    total, place, start = 4 * size[0] * size[1], 0, 53  # 32 + 5 + 4 x 4 bits of the head
    if int(text[:32], 2) != total or text[32:37] != "00111":
        raise ValueError(f"the brush is not of an image of {size[1]}x{size[0]} pixels")
    lengths = [int(text[index : index + 4], 2) + 1 for index in range(37, 53, 4)]
    values = np.zeros(total, np.uint8)
    while place < total:
        length = lengths[int(text[start + 1 : start + 3], 2)]
        repeated, count = text[start] == "1", int(text[start + 3 : start + 3 + length], 2) + 1
        start += 3 + length
        stop = start + (8 if repeated else 8 * count)
        if stop > len(bits) or place + count > total:
            raise ValueError("the brush is damaged")
        values[place : place + count] = np.packbits(bits[start:stop])
        place, start = place + count, stop
    return values.reshape(*size, 4)[..., 3] > 127
