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

from ..layers.sam_vit import SamMLP
from ..models.sam_med2d import SAMMed2D, resize_logits, select_best
from ..prompts.framing import SAM_MEAN, SAM_STD


@dataclass(frozen=True)
class GraphOptions:
    """What the files can do beyond the defaults. The released exporter has all but the first, under these names.

    Attributes:
        return_all_masks: M is 4: the mask for prompts that leave no doubt, then the three of which the model takes one.
            The released exporter returns these by default. Here M is 1 by default, the mask of `Prompter.predict`.
        resize_longest_side: for images that SAM's way brought to S: longest side S, padded at the bottom and right.
        use_stability_score: `iou_predictions` are stability scores of the masks at 4g, not the model's expectation.
            The expectation still selects the mask.
        return_extra_metrics: `stability_scores` and `areas` too, of the masks at the image's size.
        use_preprocess: the encoder takes an image of any size and stretches it.
        gelu_approximate: GELU by tanh.
        opset: ONNX's; none: the exporter's own.
    """

    return_all_masks: bool = False
    resize_longest_side: bool = False
    use_stability_score: bool = False
    return_extra_metrics: bool = False
    use_preprocess: bool = False
    gelu_approximate: bool = False
    opset: int | None = None


RELEASED = GraphOptions()


class FromPixels(nn.Module):
    """An image encoder that takes images of any size."""

    def __init__(self, encoder: nn.Module, side: int):
        super().__init__()
        self.encoder, self.side = encoder, side
        self.register_buffer("mean", torch.tensor(SAM_MEAN))
        self.register_buffer("std", torch.tensor(SAM_STD))

    def forward(self, image: Tensor) -> Tensor:
        """Float (H, W, 3) in 0..255, channels as trained: blue, green, red -> (1, 256, g, g).

        Stretched by nearest pixels, never padded.
        """
        rows, columns = (torch.arange(self.side) * length // self.side for length in image.shape[:2])
        pixels = (image[rows[:, None], columns] - self.mean) / self.std
        return self.encoder(pixels.permute(2, 0, 1)[None])


class Decoder(nn.Module):
    """
    Args:
        multimask: how the model was trained: to take the best of three masks, or the fourth alone.

    Attributes:
        outputs: names of what `forward` gives.
    """

    def __init__(self, model: SAMMed2D, options: GraphOptions, multimask: bool = True):
        super().__init__()
        self.prompts, self.masks, self.side = model.prompt_encoder, model.mask_decoder, model.side
        self.options, self.multimask = options, multimask
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
        """Logits (1, M, height, width), their expected IoU (1, M), logits (1, M, 4g, 4g); M is 1 or 4.

        Args:
            image_embeddings: (1, 256, g, g)
            point_coords: (1, N, 2), x and y in the square that the encoder sees; N is 0 for a mask alone.
            point_labels: (1, N): 1 in the object, 0 in the background, 2 and 3 a box's first and last corner, -1 no
                point. Where there is no box, a point (0, 0) with label -1 follows the others; `end_points` adds it if
                it is missing.
            mask_input: (1, 1, 4g, 4g), probabilities; `has_mask_input`, (1,), is 1, or 0 with any numbers as a mask.
            orig_im_size: (2,), height and width, which the square is stretched to.
        """
        low, qualities = self.predict(image_embeddings, point_coords, point_labels, mask_input, has_mask_input)
        if not self.options.return_all_masks:
            low, qualities = select_best(low[:, self.trained], qualities[:, self.trained])
        return self.answer(low, qualities, orig_im_size)

    @property
    def trained(self) -> slice:
        """Of the four masks those that the training selects from."""
        return slice(1, None) if self.multimask else slice(0, 1)

    def predict(
        self, embedding: Tensor, coords: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `forward` takes them -> all masks, logits (1, 4, 4g, 4g), and their expected IoU (1, 4)."""
        points = self.embedded(*end_points(coords, labels))
        return self.masks.predict_masks(embedding, self.places, points, self.embedded_mask(mask, has_mask))

    def answer(self, low: Tensor, qualities: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Of the masks to return, (1, M, 4g, 4g) and (1, M) -> what `forward` gives."""
        masks = self.enlarged(low, size)
        extra = (stability(masks), areas(masks > 0)) if self.options.return_extra_metrics else ()
        return masks, stability(low) if self.options.use_stability_score else qualities, *extra, low

    def embedded(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(1, N, 2), (1, N) -> (1, N, 256)"""
        points = self.prompts.embed_points(coords, labels)
        for corner in (2, 3):
            points = points + (labels == corner)[..., None] * self.prompts.point_embeddings[corner].weight
        return points

    def embedded_mask(self, mask: Tensor, given: Tensor) -> Tensor:
        """(1, 1, 4g, 4g), (1,) -> (1, 256, g, g)"""
        without = self.prompts.no_mask_embed.weight[:, :, None, None]
        return given * self.prompts.mask_downscaling(mask) + (1 - given) * without

    def enlarged(self, low: Tensor, size: Tensor) -> Tensor:
        square = resize_logits(low, self.side)
        if self.options.resize_longest_side:
            rows, columns = to_size((size * (self.side / size.max()) + 0.5).floor(), self.side)
            square = square[..., :rows, :columns]
        return resize_logits(square, to_size(size))


def to_size(size: Tensor, limit: int | None = None) -> tuple[int, int]:
    """What the exporter cannot see from the values of a tensor (2,): that they are sides of a picture."""
    height, width = (side.item() for side in size.to(torch.int64))
    for side in (height, width):
        torch._check(side >= 1)
        if limit is not None:
            torch._check(side <= limit)
    return height, width


def end_points(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Adds the last point, label -1, to points (1, N, 2), (1, N) that have neither it nor a box's corner.

    The model puts it after points without a box. Clients of the released files do not send it.
    """
    is_point = (labels == 0) | (labels == 1)
    count, all_of_them = is_point.sum(), torch.ones_like(labels).sum()  # not any() and all(): a mask alone has none
    missing = (count > 0) & (count == all_of_them)
    kept = torch.cat([torch.ones_like(is_point[0]), missing[None]])
    coords = torch.cat([coords, coords.new_zeros(1, 1, 2)], dim=1)
    labels = torch.cat([labels, labels.new_full((1, 1), -1)], dim=1)
    return coords[:, kept], labels[:, kept]


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
        elif isinstance(module, SamMLP) and module.activation is F.gelu:
            module.activation = partial(F.gelu, approximate="tanh")
