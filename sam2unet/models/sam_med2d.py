from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.sam_mask import MaskDecoder
from ..layers.sam_prompt import PromptEncoder
from ..layers.sam_vit import SamViT


class SAMMed2D(nn.Module):
    """SAM at a small image size with an adapter in each block of its encoder (arXiv 2308.16184).

    Freezes `image_encoder` but for its adapters. Attributes bear the names of the released checkpoints, and the parts
    are called as those of segment-anything are.
    """

    def __init__(self, image_encoder: SamViT):
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(image_encoder.img_size, image_encoder.grid)
        self.mask_decoder = MaskDecoder()
        for name, parameter in image_encoder.named_parameters():
            parameter.requires_grad_(".Adapter." in name)

    def decode(
        self,
        embedding: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The image encoder's (1 or B, 256, g, g) and B prompts -> logits (B, M, 4g, 4g), expected IoU (B, M).

        M is 3 with `multimask`, else 1. Prompts are as in `PromptEncoder.forward`; mask prompts are probabilities.
        """
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )

    def forward(self, batch: Mapping[str, Tensor], multimask_output: bool = True) -> dict[str, Tensor]:
        """The released model's own way in and out; training and testing call the parts.

        Args:
            batch: `image` (B, 3, S, S), normalised, and any of `point_coords` with `point_labels`, `boxes`,
                `mask_inputs`; `original_size`, the height and width to stretch the masks to.

        Returns:
            `masks` (B, M, *original_size) and `low_res_logits` (B, M, 4g, 4g), both logits, `iou_predictions` (B, M).
        """
        points = (batch["point_coords"], batch["point_labels"]) if batch.get("point_coords") is not None else None
        embedding = self.image_encoder(batch["image"])
        low, quality = self.decode(embedding, points, batch.get("boxes"), batch.get("mask_inputs"), multimask_output)
        height, width = map(int, batch["original_size"])
        masks = stretched(stretched(low, self.side), (height, width))
        return {"masks": masks, "iou_predictions": quality, "low_res_logits": low}

    @property
    def side(self) -> int:
        """Of the images that it sees, in pixels."""
        return self.image_encoder.img_size


def best(masks: Tensor, qualities: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M, h, w) and (B, M) -> of each item the mask that is expected to be best, (B, 1, h, w), and (B, 1).

    The first of equals. Training, testing and prediction all select in this way.
    """
    index = qualities.argmax(dim=1, keepdim=True)
    return masks.take_along_dim(index[..., None, None], dim=1), qualities.gather(1, index)


def stretched(logits: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(B, M, h, w) -> (B, M, *size), bilinear, corners not aligned."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
