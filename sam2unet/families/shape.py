"""The values that decide which weights a network has, and the shapes of these weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FLAGS = {"True": True, "False": False}  # as text in a file of weights


@dataclass(frozen=True)
class NetworkShape:
    """The shape of a network. A value that is None is not requested: the weight file or the builder decides it."""

    encoder: str | None = None  # the size of the trunk or of SAM's encoder, for example `large` or `vit_b`
    dino: str | None = None  # the size of DINO, for example `large` or `v3_small`
    size: int | None = None  # the side of the square input in pixels, if the weights depend on it (SAM-Med2D)
    encoder_adapter: bool | None = None  # whether the encoder has adapters, if a network can have none (SAM-Med2D)
    class_count: int | None = None  # the channels of the outputs; None for one, foreground and background

    def to_dict(self) -> dict[str, Any]:
        """Returns the values that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def to_facts(self) -> dict[str, str]:
        """Returns the values that are not None as text, as files of weights store them."""
        return {name: str(value) for name, value in self.to_dict().items()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, str], names: Iterable[str]) -> NetworkShape | None:
        """Reads the values `names` from the text in a file of weights. Returns None if one has no known form.

        Only `class_count` may be absent.
        """
        values: dict[str, Any] = {name: facts[name] for name in names if name in facts or name != "class_count"}
        for name in values.keys() & {"size", "class_count"}:
            text = facts[name]
            values[name] = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
        if "encoder_adapter" in values:
            values["encoder_adapter"] = FLAGS.get(facts["encoder_adapter"])
        return None if None in values.values() else cls(**values)
