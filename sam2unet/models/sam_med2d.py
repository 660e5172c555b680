from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.sam_mask import MaskDecoder
from ..layers.sam_prompt import PromptEncoder
from ..layers.sam_vit import SamViT


class SAMMed2D(nn.Module):
    """SAM for small images, with an adapter in each block of its image encoder (arXiv 2308.16184, section 3.2).

    Freezes `image_encoder`, except for its adapters. The attributes have the names of the released checkpoints. The
    arguments of the parts have the names of segment-anything.

    Letters: B prompts, M masks per prompt, S side of the image in pixels, g side of the image embedding.
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
        """Returns logits (B, M, 4g, 4g), before the sigmoid, and the IoU that the model expects for each, (B, M).

        Args:
            embedding: (1 or B, 256, g, g), the output of the image encoder.
            points, boxes, masks: the prompts, as in `PromptEncoder.forward`. Masks are probabilities.
            multimask: M is 3, else 1.
            train_prompts: gradients reach the prompt encoder.
        """
        with torch.set_grad_enabled(train_prompts and torch.is_grad_enabled()):
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return self.mask_decoder(embedding, self.prompt_encoder.get_dense_pe(), sparse, dense, multimask)

    def forward(self, batch: Mapping[str, Tensor], multimask_output: bool = True) -> dict[str, Tensor]:
        """Encodes images and decodes prompts. The keys of `batch` and of the result are those of the released model.

        Raises UserError if the image is not S x S.

        Args:
            batch: `image`: normalised images (I, 3, S, S). Or `image_embeddings` of an earlier result; then only the
                mask decoder gets gradients.
                `point_coords` and `point_labels`, `boxes`, `mask_inputs`: any of them, for B prompts, as in
                `PromptEncoder.forward`. Each image has B / I prompts, which follow one another.
                `original_size`: height and width of the returned masks; S x S if missing.
            multimask_output: M is 3, else 1.

        Returns:
            `masks` (B, M, height, width) and `low_res_logits` (B, M, 4g, 4g), both before the sigmoid;
            `iou_predictions` (B, M), the IoU that the model expects; `image_embeddings` (B, 256, g, g).
        """
        points = (batch["point_coords"], batch["point_labels"]) if batch.get("point_coords") is not None else None
        boxes, mask_prompts = batch.get("boxes"), batch.get("mask_inputs")
        encode = "image" in batch
        embedding = self.image_encoder(batch["image"]) if encode else batch["image_embeddings"].detach()
        prompts = (batch.get("point_coords"), boxes, mask_prompts)
        count = len(next((prompt for prompt in prompts if prompt is not None), embedding))
        embedding = embedding.repeat_interleave(count // len(embedding), dim=0)
        low, quality = self.decode(embedding, points, boxes, mask_prompts, multimask_output, train_prompts=encode)
        masks = resize_logits(low, self.side)
        if "original_size" in batch:
            height, width = map(int, batch["original_size"])
            masks = resize_logits(masks, (height, width))
        return {"masks": masks, "iou_predictions": quality, "low_res_logits": low, "image_embeddings": embedding}

    @property
    def side(self) -> int:
        """S, the side of an image, in pixels."""
        return self.image_encoder.img_size


def select_best(masks: Tensor, qualities: Tensor) -> tuple[Tensor, Tensor]:
    """Selects the mask with the highest expected IoU for each prompt. Training, test and prediction use this rule.

    Args:
        masks: (B, M, h, w)
        qualities: (B, M), the expected IoU. If several are equal, the first counts.

    Returns:
        The masks (B, 1, h, w) and their expected IoU (B, 1).
    """
    index = qualities.argmax(dim=1, keepdim=True)
    return masks.take_along_dim(index[..., None, None], dim=1), qualities.gather(1, index)


def resize_logits(logits: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(B, M, h, w) -> (B, M, *size). Bilinear; corners are not aligned. One number means a square."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
