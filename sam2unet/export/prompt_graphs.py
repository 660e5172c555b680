"""The two parts of a model for prompts, as in the released ONNX files: an image encoder and a decoder.

The decoder takes every prompt as points. Letters: S side of the image, g of its embedding, N points, M masks.
"""

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
    """Options of the exported files. All but the first have the names of the released exporter."""

    # return M = 4 masks: the mask for clear prompts, then the three masks that the model selects from. The released
    # exporter returns these by default. Here the default is M = 1, the mask that `Prompter.predict` returns.
    return_all_masks: bool = False
    # the image was resized as in SAM: its longest side to S, then padded bottom and right
    resize_longest_side: bool = False
    # `iou_predictions` are the stability scores of the masks at 4g, not the IoU that the model predicts. The
    # predicted IoU still selects the mask.
    use_stability_score: bool = False
    # also return `stability_scores` and `areas` of the masks in the size of the image
    return_extra_metrics: bool = False
    use_preprocess: bool = False  # the encoder takes an image of any size and resizes it
    # the encoder takes the colours in the reverse order of the training, which is blue first in the released weights
    reverse_colours: bool = False
    gelu_approximate: bool = False  # approximate GELU with tanh
    opset: int | None = None  # the ONNX opset. None uses the default of PyTorch's exporter.


RELEASED = GraphOptions()


class FromPixels(nn.Module):
    """An image encoder that takes images of any size."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, side: int):
        super().__init__()
        self.encoder, self.side = encoder, side
        self.register_buffer("mean", torch.tensor(SAM_MEAN))
        self.register_buffer("std", torch.tensor(SAM_STD))

    def forward(self, image: Tensor) -> Tensor:
        """Float (H, W, 3) in 0..255, blue, green, red -> (1, 256, g, g). Resizes to the nearest pixel, never pads."""
        rows, columns = (torch.arange(self.side) * length // self.side for length in image.shape[:2])
        pixels = (image[rows[:, None], columns] - self.mean) / self.std
        return self.encoder(pixels.permute(2, 0, 1)[None])


class ReverseColours(nn.Module):
    """An image encoder that takes normalised images with the colours in the reverse order of the training.

    Clients subtract and divide by SAM's constants for red, green and blue. The training used the same constants in the
    same order for blue, green and red. So the graph also exchanges the constants, not only the channels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (SAM_MEAN, SAM_STD))
        self.register_buffer("scale", (std.flip(0) / std).float())
        self.register_buffer("shift", ((mean.flip(0) - mean) / std).float())

    def forward(self, image: Tensor) -> Tensor:
        """(1, 3, S, S) -> (1, 256, g, g)"""
        return self.encoder(image.flip(1) * self.scale + self.shift)


class Decoder(nn.Module):
    """The prompt encoder and the mask decoder. `outputs` are the names of the tensors that `forward` returns.

    The model was trained to return the best of three masks (`multimask`), or the other mask.
    """

    grid_embedding: Tensor

    def __init__(self, model: SAMMed2D, options: GraphOptions, multimask: bool = True):
        super().__init__()
        self.prompts, self.masks, self.side = model.prompt_encoder, model.mask_decoder, model.side
        self.options, self.multimask = options, multimask
        self.register_buffer("grid_embedding", model.prompt_encoder.get_dense_pe())
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
        """Returns logits (1, M, height, width), their predicted IoU (1, M), and logits (1, M, 4g, 4g). M is 1 or 4.

        Args:
            image_embeddings: (1, 256, g, g)
            point_coords: (1, N, 2), x and y in the square that the encoder sees; N is 0 for a mask alone.
            point_labels: (1, N): 1 object, 0 background, 2 and 3 the first and the last corner of a box, -1 no point.
                Without a box, a point (0, 0) with label -1 must be the last point. `add_end_point` adds it if it is
                missing.
            mask_input: (1, 1, 4g, 4g), probabilities.
            has_mask_input: (1,), 1, or 0 to ignore `mask_input`.
            orig_im_size: (2,), height and width of the returned masks.
        """
        low, qualities = self.predict(image_embeddings, point_coords, point_labels, mask_input, has_mask_input)
        if not self.options.return_all_masks:
            low, qualities = select_best(low[:, self.trained], qualities[:, self.trained])
        return self.answer(low, qualities, orig_im_size)

    @property
    def trained(self) -> slice:
        """The masks, of the four, that the training selects from."""
        return slice(1, None) if self.multimask else slice(0, 1)

    def predict(
        self, embedding: Tensor, coords: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs as in `forward` -> the logits of all masks (1, 4, 4g, 4g), and their predicted IoU (1, 4)."""
        points = self.embed_points(*add_end_point(coords, labels))
        return self.masks.predict_masks(embedding, self.grid_embedding, points, self.embed_mask(mask, has_mask))

    def answer(self, low: Tensor, qualities: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Masks to return (1, M, 4g, 4g) and their predicted IoU (1, M) -> the outputs of `forward`."""
        masks = self.enlarge_masks(low, size)
        extra = (compute_stability(masks), count_foreground(masks > 0)) if self.options.return_extra_metrics else ()
        return masks, compute_stability(low) if self.options.use_stability_score else qualities, *extra, low

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(1, N, 2), (1, N) -> (1, N, 256)"""
        points = self.prompts.embed_points(coords, labels)
        for corner in (2, 3):
            points = points + (labels == corner)[..., None] * self.prompts.point_weight(corner)
        return points

    def embed_mask(self, mask: Tensor, has_mask: Tensor) -> Tensor:
        """(1, 1, 4g, 4g), (1,) -> (1, 256, g, g)"""
        without = self.prompts.no_mask_embed.weight[:, :, None, None]
        return has_mask * self.prompts.mask_downscaling(mask) + (1 - has_mask) * without

    def enlarge_masks(self, low: Tensor, size: Tensor) -> Tensor:
        """(1, M, 4g, 4g), (2,) -> (1, M, height, width)"""
        square = resize_logits(low, self.side)
        if self.options.resize_longest_side:
            rows, columns = to_size((size * (self.side / size.max()) + 0.5).floor(), self.side)
            square = square[..., :rows, :columns]
        return resize_logits(square, to_size(size))


def to_size(size: Tensor, limit: int | None = None) -> tuple[int, int]:
    """Converts a tensor (2,) to (height, width), and tells the exporter the range of these numbers."""
    height, width = (side.item() for side in size.to(torch.int64))
    for side in (height, width):
        torch._check(side >= 1)
        if limit is not None:
            torch._check(side <= limit)
    return height, width


def add_end_point(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Adds a last point with label -1 to points (1, N, 2), (1, N) that have neither this point nor a box.

    The model expects it after points without a box. Clients of the released files do not send it.
    """
    is_point = (labels == 0) | (labels == 1)
    count, total = is_point.sum(), torch.ones_like(labels).sum()  # not any() and all(): N is 0 for a mask alone
    missing = (count > 0) & (count == total)
    kept = torch.cat([torch.ones_like(is_point[0]), missing[None]])
    coords = torch.cat([coords, coords.new_zeros(1, 1, 2)], dim=1)
    labels = torch.cat([labels, labels.new_full((1, 1), -1)], dim=1)
    return coords[:, kept], labels[:, kept]


def compute_stability(masks: Tensor) -> Tensor:
    """Logits (1, M, h, w) -> (1, M): the number of pixels above 1, divided by the number above -1. 0 if both are 0."""
    return count_foreground(masks > 1) / count_foreground(masks > -1).clamp(min=1)


def count_foreground(masks: Tensor) -> Tensor:
    """Bool (1, M, h, w) -> float (1, M)"""
    return masks.sum((2, 3)).float()


def approximate_gelu_(model: nn.Module) -> None:
    """Makes every GELU use the tanh approximation, in place."""
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
        elif isinstance(module, SamMLP) and module.activation is F.gelu:
            module.activation = partial(F.gelu, approximate="tanh")
