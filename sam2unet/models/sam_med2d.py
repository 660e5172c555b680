from __future__ import annotations

from collections.abc import Mapping

import torch
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
        train_prompts: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The image encoder's (1 or B, 256, g, g) and B prompts -> logits (B, M, 4g, 4g), expected IoU (B, M).

        M is 3 with `multimask`, else 1. Prompts are as in `PromptEncoder.forward`; mask prompts are probabilities.
        Without `train_prompts` no gradient reaches the prompt encoder.
        """
        with torch.set_grad_enabled(train_prompts and torch.is_grad_enabled()):
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )

    def forward(self, batch: Mapping[str, Tensor], multimask_output: bool = True) -> dict[str, Tensor]:
        """The released model's own way in and out, which training uses too.

        Args:
            batch: `image` (B, 3, S, S), normalised, and any of `point_coords` with `point_labels`, `boxes`,
                `mask_inputs`, of P prompts, P / B of each image; `original_size`, the height and width to stretch the
                masks to. Without it they stay as large as the image. With `image_embeddings` of an earlier answer in
                place of `image`, the decoder alone gets gradients.

        Returns:
            `masks` (P, M, *original_size) and `low_res_logits` (P, M, 4g, 4g), both logits, `iou_predictions` (P, M),
            `image_embeddings` (P, 256, g, g).
        """
        points = (batch["point_coords"], batch["point_labels"]) if batch.get("point_coords") is not None else None
        boxes, inputs = batch.get("boxes"), batch.get("mask_inputs")
        first = "image" in batch
        embedding = self.image_encoder(batch["image"]) if first else batch["image_embeddings"].detach()
        prompts = next((given for given in (batch.get("point_coords"), boxes, inputs) if given is not None), embedding)
        embedding = embedding.repeat_interleave(len(prompts) // len(embedding), dim=0)
        low, quality = self.decode(embedding, points, boxes, inputs, multimask_output, train_prompts=first)
        masks = stretched(low, self.side)
        if "original_size" in batch:
            masks = stretched(masks, tuple(map(int, batch["original_size"])))
        return {"masks": masks, "iou_predictions": quality, "low_res_logits": low, "image_embeddings": embedding}

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
