"""How maps are computed: the options of test.py and of the Python API."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...limits import shorten
from .tiles import Tile

SCALES = (0.75, 1.0, 1.25)  # factors of the input side for test-time averaging


@dataclass(frozen=True)
class Averaging:
    """What test-time augmentation averages over, as probabilities.

    Attributes:
        flip: also predict the mirrored image.
        scales: factors of the input side.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def read(cls, text: str) -> Averaging:
        """Reads `flip`, `scale`, or both with a comma between them."""
        words = text.split(",")
        if unknown := [word for word in words if word not in ("flip", "scale")]:
            word = shorten(unknown[0]) or "empty word"
            raise UserError(f"tta is {shorten(text)}, and there is no {word}; wanted flip, scale or both")
        return cls("flip" in words, SCALES if "scale" in words else (1.0,))


@dataclass(frozen=True)
class PredictOptions:
    """How maps are computed. The defaults compute what the released test script computes.

    Attributes:
        size: the input side. None: the side that the model was trained at, or the released side if that is unknown.
        amp: off, bf16 or fp16; `choose_fast_options` replaces auto.
        exact: compute as the released test script does, operation by operation. On the same device and with the same
            versions, the maps have the released bits. Without it, they may differ by one grey level.
        fold: fold BatchNorm and, on a CPU, pack weights; see `faster.py`. Outputs change by rounding only.
        compile: compile the model with PyTorch. Outputs change by rounding only.
        calibrated: divide the logits by the temperature of the checkpoint, see `calibration.py`.
    """

    size: int | None = None
    amp: str = "off"
    exact: bool = False
    averaging: Averaging = Averaging()
    tile: Tile | None = None
    fold: bool = False
    compile: bool = False
    calibrated: bool = False

    def __post_init__(self) -> None:
        if self.exact and (self.fold or self.compile or self.amp != "off"):
            raise UserError("--exact computes as the released script; give it without --fast, --compile and --amp")
