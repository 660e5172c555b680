"""Known faults of published data, and the faults that a check finds. Masks and images with a fault are left out."""

import re
from enum import IntFlag
from functools import lru_cache
from typing import NamedTuple


class Fault(IntFlag):
    """What is wrong with an image or a mask. Several can be true."""

    UNREADABLE = 1
    SIZE = 2  # the mask has another size than its image
    EMPTY = 4
    CODING = 8  # not a mask with the values 0/1 or 0/255: other values, a label map, colours
    SOFT = 16  # some values lie between background and foreground; only tests of prompts leave out such masks
    KNOWN = 32  # a fault of `KNOWN_FAULTS`
    ONES = 64  # not a fault: the values are 0 and 1, not 0 and 255
    CHECKED = 128  # not a fault: the file was read


WORDS = {
    Fault.UNREADABLE: "cannot be read",
    Fault.SIZE: "masks have another size than their image",
    Fault.EMPTY: "masks are empty",
    Fault.CODING: "masks are not 0/1 or 0/255",
    Fault.SOFT: "masks have soft edges",
    Fault.KNOWN: "have a known fault",
}
BAD = Fault.UNREADABLE | Fault.SIZE | Fault.EMPTY | Fault.CODING | Fault.KNOWN


class KnownFault(NamedTuple):
    """A part of SA-Med2D-20M whose masks would teach something wrong."""

    dataset: str  # a regular expression for the name of the data set, in lower case
    words: str


KNOWN_FAULTS = (
    KnownFault("brain_?ptm.*", "its images are masks"),
    KnownFault("qubiq.*brain.?growth.*", "its images are masks"),
    KnownFault("ichallenge_?adam_?task2.*", "its masks are inverted"),
)


@lru_cache
def find_known_fault(dataset: str) -> KnownFault | None:
    """Returns the known fault of a data set of SA-Med2D-20M, or None."""
    return next((fault for fault in KNOWN_FAULTS if re.fullmatch(fault.dataset, dataset.lower())), None)
