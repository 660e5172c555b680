"""The Python interface of SAM-Med2D: set an image, then predict the masks of points, boxes and mask prompts.

Letters: K prompts, N points per prompt, g side of the image embedding. `height` and `width` are the image's, in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.images.photos import Picture, to_photo
from ..errors import UserError
from ..families.settings import get_settings
from ..families.table import find_family_of
from ..models.sam_med2d import SAMMed2D, select_best
from ..runtime.device import check_output
from .framing import Frame, Framing, normalise_square
from .rounds import to_mask_prompt

Numbers = Sequence | np.ndarray | Tensor


class PromptResult(NamedTuple):
    """The predictions for K prompts.

    Attributes:
        logits: float32 (K, height, width), before the sigmoid. Values above 0 are foreground.
        quality: float32 (K,), the IoU that the model expects. It can leave [0, 1].
        prompt: float32 (K, 1, 4g, 4g), for the argument `mask` of the next call. Probabilities, or logits if
            `Prompter` has `mask_prompt="logits"`.
    """

    logits: np.ndarray
    quality: np.ndarray
    prompt: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """The masks, bool (K, height, width)."""
        return self.logits > 0


class Prompter:
    """Predicts masks for prompts. `set_image` runs the large encoder once. Each prompt runs the small decoder only.

    Raises UserError if the model is not a SAM-Med2D.

    Args:
        model: a SAM-Med2D, in training or evaluation mode: both give the same numbers.
        framing: how an image becomes the square that the model takes. None: as in the training of the model. The size
            is always the model's. `Framing(padding=False)` resizes small images, as the released predictor does.
        mask_prompt: the form in which a predicted mask is a prompt: `probability` or `logits`. None: as in the training
            of the model.
    """

    def __init__(self, model: SAMMed2D, framing: Framing | None = None, mask_prompt: str | None = None):
        if not isinstance(model, SAMMed2D):
            raise UserError(f"{find_family_of(model).title} takes no prompts; use sam2unet.predict for its map")
        self.model = model
        settings = get_settings(model)
        self.framing = replace(framing or Framing(rgb=settings.rgb), size=model.side)
        self.mask_prompt = mask_prompt or settings.mask_prompt
        self.multimask = settings.multimask
        self.frame: Frame | None = None
        self.embedding: Tensor | None = None

    @torch.inference_mode()
    def set_image(self, image: Picture) -> Prompter:
        """Encodes an image, which is one of the kinds that `sam2unet.predict` takes. Returns the prompter itself.

        Raises UserError if the image cannot be read, or the model's output is not finite.
        """
        square, frame = self.framing.square(to_photo(image))
        pixels = square[None].to(self.model.prompt_encoder.no_mask_embed.weight.device)
        embedding = self.model.image_encoder(normalise_square(pixels, [frame]))
        check_output(embedding, "off")
        self.frame, self.embedding = frame, embedding
        return self

    @torch.inference_mode()
    def predict(
        self,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        box: Numbers | None = None,
        mask: Numbers | None = None,
        multimask: bool | None = None,
    ) -> PromptResult:
        """Predicts one mask per prompt. A prompt can combine points, a box and a mask.

        All coordinates are in pixels of the original image. Raises UserError if no image is set, there is no prompt,
        shapes or labels do not fit, a value is not a number, or the model's output is not finite.

        Args:
            points: (N, 2), x and y; (K, N, 2) for K prompts.
            labels: (N,) or (K, N): 1 for foreground, 0 for background, -1 for no point.
            box: (4,) or (K, 4), x0, y0, x1, y1.
            mask: (1, 4g, 4g) or (K, 1, 4g, 4g), `prompt` of an earlier result, which the model refines.
            multimask: True: take the best of three masks by their expected IoU. False: take the mask that SAM has for
                unambiguous prompts. None: as in the training of the model.
        """
        if self.frame is None or self.embedding is None:
            raise UserError("no image is set; call set_image first")
        side = 4 * self.model.image_encoder.grid
        shapes = {"points": (-1, 2), "labels": (-1,), "box": (4,), "mask": (1, side, side)}
        values = zip(shapes, (points, labels, box, mask), strict=True)
        device = self.embedding.device
        prompts = {name: to_batch(name, value, shapes[name], device) for name, value in values if value is not None}
        count = check_prompts(prompts)
        to_square = self.frame.to_square
        clicks = (to_square(prompts["points"]), prompts["labels"]) if "points" in prompts else None
        boxes = to_square(prompts["box"].unflatten(1, (2, 2))).flatten(1) if "box" in prompts else None
        embedding = self.embedding.expand(count, -1, -1, -1)
        multimask = self.multimask if multimask is None else multimask
        low, quality = select_best(*self.model.decode(embedding, clicks, boxes, prompts.get("mask"), multimask))
        check_output(low, "off")
        return PromptResult(
            self.frame.restore(low)[:, 0].float().cpu().numpy(),
            quality[:, 0].float().cpu().numpy(),
            to_mask_prompt(low.float(), self.mask_prompt).cpu().numpy(),
        )


def to_batch(name: str, value: Numbers, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns `value` as float32 (K, *shape) on `device`. -1 in `shape` stands for any number."""
    try:
        array = value.detach() if isinstance(value, Tensor) else np.asarray(value, np.float32)
        tensor = torch.as_tensor(array, dtype=torch.float32, device=device)
    except (TypeError, ValueError) as e:
        raise UserError(f"{name} is not an array of numbers ({e})") from e
    if tensor.ndim == len(shape):
        tensor = tensor[None]
    fits = tensor.ndim == len(shape) + 1 and len(tensor) > 0 and tensor.numel() > 0
    if not fits or any(side not in (-1, length) for side, length in zip(shape, tensor.shape[1:], strict=True)):
        wanted = ", ".join("N" if side == -1 else str(side) for side in shape)
        raise UserError(f"{name} has shape {tuple(np.shape(value))}; wanted ({wanted}) or (K, {wanted})")
    if not tensor.isfinite().all():
        raise UserError(f"{name} has a value that is not a finite number")
    return tensor


def check_prompts(batches: Mapping[str, Tensor]) -> int:
    """Returns the number of prompts, K. Raises UserError if there is none, or if the prompts do not fit together."""
    if ("points" in batches) != ("labels" in batches):
        raise UserError("points need labels, and labels need points; give both")
    if not batches:
        raise UserError("there is no prompt; give points with labels, a box or a mask")
    counts = {len(batch) for batch in batches.values()}
    if len(counts) > 1:
        numbers = ", ".join(f"{len(batch)} for {name}" for name, batch in batches.items())
        raise UserError(f"the numbers of prompts differ: {numbers}")
    if "points" in batches:
        points, labels = batches["points"].shape[1], batches["labels"].shape[1]
        if points != labels:
            raise UserError(f"{points} points have {labels} labels; give one label per point")
        if not torch.isin(batches["labels"], batches["labels"].new_tensor([-1, 0, 1])).all():
            raise UserError("a label must be 1 for foreground, 0 for background, or -1 for no point")
    return counts.pop()
