"""The two halves of a model for prompts as the released ONNX files have them: an image's encoder, and a decoder that
takes every prompt as points.

S side of the image, g of its embedding, N points, M masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.framing import MEAN, STD
from ..layers.sam_vit import MLP
from ..models.sam_med2d import SAMMed2D, stretched


@dataclass(frozen=True)
class Options:
    """What the released exporter can do too, under its flags' names.

    Attributes:
        return_single_mask: M is 1. For one or two points, corners and padding counted, the mask of the highest quality
            among the last three; for more, the first, as SAM has it. The model itself always takes one of the three.
        resize_longest_side: for images that SAM's way brought to S: longest side S, padded at the bottom and right.
        use_stability_score: `iou_predictions` are stability scores of the masks at 4g, not the model's expectation.
        return_extra_metrics: `stability_scores` and `areas` too, of the masks at the image's size.
        use_preprocess: the encoder takes an image of any size and stretches it.
        gelu_approximate: GELU by tanh.
        opset: ONNX's; none: the exporter's own.
    """

    return_single_mask: bool = False
    resize_longest_side: bool = False
    use_stability_score: bool = False
    return_extra_metrics: bool = False
    use_preprocess: bool = False
    gelu_approximate: bool = False
    opset: int | None = None


RELEASED = Options()


class FromPixels(nn.Module):
    """An image encoder that takes images of any size."""

    def __init__(self, encoder: nn.Module, side: int):
        super().__init__()
        self.encoder, self.side = encoder, side
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, image: Tensor) -> Tensor:
        """Float (H, W, 3) in 0..255, channels as trained: blue, green, red -> (1, 256, g, g).

        Stretched by nearest pixels, never padded.
        """
        rows, columns = (torch.arange(self.side) * length // self.side for length in image.shape[:2])
        pixels = (image[rows[:, None], columns] - self.mean) / self.std
        return self.encoder(pixels.permute(2, 0, 1)[None])


class Decoder(nn.Module):
    """
    Attributes:
        outputs: names of what `forward` gives.
    """

    def __init__(self, model: SAMMed2D, options: Options):
        super().__init__()
        self.prompts, self.masks, self.side, self.options = (
            model.prompt_encoder,
            model.mask_decoder,
            model.side,
            options,
        )
        self.register_buffer("places", model.prompt_encoder.get_dense_pe())
        extra = ("stability_scores", "areas") if options.return_extra_metrics else ()
        self.outputs = ("masks", "iou_predictions", *extra, "low_res_masks")

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Logits (1, M, height, width), their expected IoU (1, M), logits (1, M, 4g, 4g); M is 4 or 1.

        Args:
            image_embeddings: (1, 256, g, g)
            point_coords: (1, N, 2), x and y in the square that the encoder sees; N is at least 1.
            point_labels: (1, N): 1 in the object, 0 in the background, 2 and 3 a box's first and last corner, -1 no
                point. Where there is no box, a point (0, 0) with label -1 must follow the others.
            mask_input: (1, 1, 4g, 4g), probabilities; `has_mask_input`, (1,), is 1, or 0 with any numbers as a mask.
            orig_im_size: (2,), height and width, which the square is stretched to.
        """
        low, qualities = self.masks.predict_masks(
            image_embeddings,
            self.places,
            self.embedded(point_coords, point_labels),
            self.embedded_mask(mask_input, has_mask_input),
        )
        if self.options.use_stability_score:
            qualities = stability(low)
        if self.options.return_single_mask:
            low, qualities = single(low, qualities, torch.ones_like(point_labels).sum(1))
        masks = self.enlarged(low, orig_im_size)
        extra = (stability(masks), areas(masks > 0)) if self.options.return_extra_metrics else ()
        return masks, qualities, *extra, low

    def embedded(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(1, N, 2), (1, N) -> (1, N, 256)"""
        points = self.prompts.embedded_points(coords, labels)
        for corner in (2, 3):
            points = points + (labels == corner)[..., None] * self.prompts.point_embeddings[corner].weight
        return points

    def embedded_mask(self, mask: Tensor, given: Tensor) -> Tensor:
        """(1, 1, 4g, 4g), (1,) -> (1, 256, g, g)"""
        without = self.prompts.no_mask_embed.weight[:, :, None, None]
        return given * self.prompts.mask_downscaling(mask) + (1 - given) * without

    def enlarged(self, low: Tensor, size: Tensor) -> Tensor:
        square = stretched(low, self.side)
        if self.options.resize_longest_side:
            rows, columns = as_size((size * (self.side / size.max()) + 0.5).floor(), self.side)
            square = square[..., :rows, :columns]
        return stretched(square, as_size(size))


def as_size(size: Tensor, limit: int | None = None) -> tuple[int, int]:
    """What the exporter cannot see from the values of a tensor (2,): that they are sides of a picture."""
    height, width = (side.item() for side in size.to(torch.int64))
    for side in (height, width):
        torch._check(side >= 1)
        if limit is not None:
            torch._check(side <= limit)
    return height, width


def single(masks: Tensor, qualities: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 4, h, w), (1, 4) and how many points there are, (1,) -> (1, 1, h, w), (1, 1)"""
    index = torch.where(points > 2, 0, 1 + qualities[:, 1:].argmax(1))[:, None]
    return masks.take_along_dim(index[..., None, None], 1), qualities.gather(1, index)


def stability(masks: Tensor) -> Tensor:
    """(1, M, h, w) -> (1, M): of the pixels with logits above -1 the part that is above 1; 0 where there are none."""
    return areas(masks > 1) / areas(masks > -1).clamp(min=1)


def areas(masks: Tensor) -> Tensor:
    """Bool (1, M, h, w) -> float (1, M), in pixels."""
    return masks.sum((2, 3)).float()


def approximate_gelu(model: nn.Module) -> None:
    """By tanh, in place."""
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
        elif isinstance(module, MLP) and module.activation is F.gelu:
            module.activation = partial(F.gelu, approximate="tanh")
