"""SAM-Med2D for people: one image, and objects in it asked for by points, boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.framing import Frame, Framing, normalised
from ..errors import UserError
from ..families import family_of
from ..models.sam_med2d import SAMMed2D, best
from ..steps import as_mask_prompt
from .maps import check_output
from .predict import Picture, photo_of

Numbers = Sequence | np.ndarray | Tensor
RELEASED = Framing()


class Prompted(NamedTuple):
    """Answers to K prompts for an image of height x width.

    Attributes:
        logits: float32 (K, height, width), above 0 in the object.
        quality: float32 (K,), the IoU that the model expects.
        prompt: float32 (K, 1, 4g, 4g) for `mask` of the next call: probabilities at the model's resolution, or what
            `mask_prompt` says.
    """

    logits: np.ndarray
    quality: np.ndarray
    prompt: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """bool (K, height, width)"""
        return self.logits > 0


class Prompter:
    """Encodes an image once; then each prompt costs the small decoder alone.

    Args:
        model: a SAM-Med2D, in any mode: it has no layer that training changes.
        framing: how images become squares, as in training, but for their size, which is the model's. With
            `Framing(padding=False)` small images are stretched, as the released predictor does.
        mask_prompt: how an answer is a prompt for the next, as in training: `probability`, or `logits`.
    """

    def __init__(self, model: SAMMed2D, framing: Framing = RELEASED, mask_prompt: str = "probability"):
        if not isinstance(model, SAMMed2D):
            raise UserError(f"{family_of(model).title} takes no prompts; sam2unet.predict gives its map")
        self.model = model
        self.framing = replace(framing, size=model.side)
        self.mask_prompt = mask_prompt
        self.frame: Frame | None = None
        self.embedding: Tensor | None = None

    @torch.inference_mode()
    def set_image(self, image: Picture) -> Prompter:
        """What `sam2unet.predict` takes: a file, a Pillow image, an RGB array or tensor; UserError as there."""
        square, frame = self.framing.square(photo_of(image))
        pixels = square[None].to(self.model.prompt_encoder.no_mask_embed.weight.device)
        self.embedding = self.model.image_encoder(normalised(pixels, [frame]))
        check_output(self.embedding, "off")
        self.frame = frame
        return self

    @torch.inference_mode()
    def predict(
        self,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        box: Numbers | None = None,
        mask: Numbers | None = None,
        multimask: bool = True,
    ) -> Prompted:
        """One mask per prompt. A prompt may join points, a box and a mask. All coordinates are the image's own pixels.

        Args:
            points: (N, 2), x and y; (K, N, 2) for K prompts.
            labels: (N,) or (K, N): 1 in the object, 0 in the background, -1 for no point.
            box: (4,) or (K, 4), x0, y0, x1, y1.
            mask: `prompt` of an earlier answer, (1, 4g, 4g) or (K, 1, 4g, 4g), to be refined.
            multimask: the best of three masks by the expected quality, as trained; without, the fourth that the model
                has for prompts that leave no doubt.

        Raises:
            UserError: no image set, no prompt, shapes or labels that do not go together, or no numbers.
        """
        if self.frame is None:
            raise UserError("no image is set; call set_image first")
        side = 4 * self.model.image_encoder.grid
        given = {
            "points": self.batch_of("points", points, (-1, 2)),
            "labels": self.batch_of("labels", labels, (-1,)),
            "box": self.batch_of("box", box, (4,)),
            "mask": self.batch_of("mask", mask, (1, side, side)),
        }
        count = checked(given)
        clicks = boxes = None
        if points is not None:
            clicks = self.frame.to_square(given["points"]), given["labels"]
        if box is not None:
            boxes = self.frame.to_square(given["box"].unflatten(1, (2, 2))).flatten(1)
        embedding = self.embedding.expand(count, -1, -1, -1)
        low, quality = best(*self.model.decode(embedding, clicks, boxes, given["mask"], multimask))
        check_output(low, "off")
        return Prompted(
            self.frame.restore(low)[:, 0].float().cpu().numpy(),
            quality[:, 0].float().cpu().numpy(),
            as_mask_prompt(low.float(), self.mask_prompt).cpu().numpy(),
        )

    def batch_of(self, name: str, value: Numbers | None, shape: tuple[int, ...]) -> Tensor | None:
        """As float32 (K, *shape) on the model's device; K is 1 if not given."""
        if value is None:
            return None
        try:
            tensor = torch.as_tensor(np.asarray(value, np.float32), device=self.embedding.device)
        except (TypeError, ValueError) as e:
            raise UserError(f"{name} is not an array of numbers ({e})") from e
        if tensor.ndim == len(shape):
            tensor = tensor[None]
        fits = tensor.ndim == len(shape) + 1 and len(tensor) > 0 and tensor.numel() > 0
        if not fits or any(side not in (-1, found) for side, found in zip(shape, tensor.shape[1:], strict=True)):
            wanted = ", ".join("N" if side == -1 else str(side) for side in shape)
            raise UserError(f"{name} has shape {tuple(np.shape(value))}; wanted ({wanted}) or (K, {wanted})")
        if not tensor.isfinite().all():
            raise UserError(f"{name} has a value that is no number")
        return tensor


def checked(given: Mapping[str, Tensor | None]) -> int:
    """How many prompts these are; UserError where they do not go together."""
    found = {name: batch for name, batch in given.items() if batch is not None}
    if ("points" in found) != ("labels" in found):
        raise UserError("points and labels go together")
    if not found:
        raise UserError("nothing to look for; give points with labels, a box or a mask")
    counts = {len(batch) for batch in found.values()}
    if len(counts) > 1:
        raise UserError(f"prompts of different numbers: {', '.join(f'{len(b)} {name}' for name, b in found.items())}")
    if "points" in found:
        points, labels = found["points"].shape[1], found["labels"].shape[1]
        if points != labels:
            raise UserError(f"{points} points have {labels} labels; give one each")
        if not torch.isin(found["labels"], found["labels"].new_tensor([-1, 0, 1])).all():
            raise UserError("a label is 1 in the object, 0 in the background, or -1 for no point")
    return counts.pop()
