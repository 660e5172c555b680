"""SAM's mask decoder (arXiv 2304.02643, appendix A) as SAM-Med2D calls it. Names are the checkpoints'.

Letters: B prompts, T tokens, P cells of the embedding, g its side, C channels. Tokens are (B, T, C), cells (B, P, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sam_vit import MLP, WIDTH, LayerNorm2d

MASKS = 4  # the first for prompts that leave no doubt, three more for those that do
HEADS = 8


class MaskDecoder(nn.Module):
    """Lets tokens and the image attend to each other, then makes a mask from each mask token."""

    def __init__(self):
        super().__init__()
        self.transformer = TwoWay()
        self.iou_token = nn.Embedding(1, WIDTH)
        self.mask_tokens = nn.Embedding(MASKS, WIDTH)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 4, kernel_size=2, stride=2),
            LayerNorm2d(WIDTH // 4),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Head(WIDTH, WIDTH // 8) for _ in range(MASKS))
        self.iou_prediction_head = Head(WIDTH, MASKS)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, M, 4g, 4g) and their expected IoU (B, M); M is 3 with `multimask_output`, else 1.

        Args:
            image_embeddings: (1 or B, 256, g, g). Several prompts on each of several images: the caller repeats them.
            image_pe: (1, 256, g, g), the prompt encoder's `get_dense_pe()`.
            sparse_prompt_embeddings: (B, any, 256).
            dense_prompt_embeddings: (B, 256, g, g).
        """
        masks, qualities = self.predict_masks(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, chosen], qualities[:, chosen]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, all four. The name is SAM's."""
        source = image_embeddings + dense_prompt_embeddings
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(source), -1, -1), sparse_prompt_embeddings], dim=1)
        tokens, cells = self.transformer(tokens, source.flatten(2).mT, image_pe.flatten(2).mT)

        fine = self.output_upscaling(cells.mT.unflatten(2, source.shape[2:]))
        heads = zip(self.output_hypernetworks_mlps, tokens[:, 1 : 1 + MASKS].unbind(1), strict=True)
        weights = torch.stack([head(token) for head, token in heads], dim=1)  # (B, 4, 32)
        return torch.einsum("bmc,bchw->bmhw", weights, fine), self.iou_prediction_head(tokens[:, 0])


class TwoWay(nn.Module):
    """Two layers of attention in both directions, and one more of the tokens to the image."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(first=i == 0) for i in range(2))
        self.final_attn_token_to_image = Attention(WIDTH // 2)
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, cells and the position codes of cells (1, P, C) -> tokens, cells"""
        entered = tokens  # stands for the tokens' places
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, entered, places)
        seen = self.final_attn_token_to_image(tokens + entered, cells + places, cells)
        return self.norm_final_attn(tokens + seen), cells


class TwoWayLayer(nn.Module):
    """The first layer's tokens attend to each other without places, and their old values are not added."""

    def __init__(self, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = Attention(WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.cross_attn_token_to_image = Attention(WIDTH // 2)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = MLP(WIDTH, 8 * WIDTH, F.relu)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.norm4 = nn.LayerNorm(WIDTH)
        self.cross_attn_image_to_token = Attention(WIDTH // 2)

    def forward(self, tokens: Tensor, cells: Tensor, entered: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + entered
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        placed_cells = cells + places
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + entered, placed_cells, cells))
        tokens = self.norm3(tokens + self.mlp(tokens))
        cells = self.norm4(cells + self.cross_attn_image_to_token(placed_cells, tokens + entered, tokens))
        return tokens, cells


class Attention(nn.Module):
    """Multi-head attention of 256 channels through `inner` ones."""

    def __init__(self, inner: int):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, inner)
        self.k_proj = nn.Linear(WIDTH, inner)
        self.v_proj = nn.Linear(WIDTH, inner)
        self.out_proj = nn.Linear(inner, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, T, C), (B, T', C), (B, T', C) -> (B, T, C)"""
        q, k, v = (by_head(proj(x)) for proj, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def by_head(x: Tensor) -> Tensor:
    """(B, T, inner) -> (B, heads, T, inner / heads)"""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Head(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))
