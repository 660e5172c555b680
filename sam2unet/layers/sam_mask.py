"""SAM's mask decoder (arXiv 2304.02643, appendix A), as SAM-Med2D uses it.

The attributes and the arguments of `MaskDecoder` have the names of the released code and checkpoints. Letters: B
prompts, T tokens, g side of the image embedding, P = g * g its cells, C channels, M masks per prompt. Tokens are (B, T,
C). The cells of the image embedding are (B, P, C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sam_vit import WIDTH, LayerNorm2d, SamMLP

MASKS = 4  # the first for unambiguous prompts, the other three for ambiguous ones
HEADS = 8  # of each attention


class MaskDecoder(nn.Module):
    """Lets tokens and the image embedding attend to each other, then turns each mask token into a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, WIDTH)
        self.mask_tokens = nn.Embedding(MASKS, WIDTH)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 4, kernel_size=2, stride=2),
            LayerNorm2d(WIDTH // 4),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLPHead(WIDTH, WIDTH // 8) for _ in range(MASKS))
        self.iou_prediction_head = MLPHead(WIDTH, MASKS)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Returns logits (B, M, 4g, 4g), before the sigmoid, and the IoU that the model expects for each, (B, M).

        M is 3 with `multimask_output`, else 1. The expected IoU has no sigmoid, so it can leave [0, 1].

        Args:
            image_embeddings: (1 or B, 256, g, g). For several prompts on each of several images, the caller repeats
                the embeddings.
            image_pe: (1, 256, g, g), the prompt encoder's `get_dense_pe()`.
            sparse_prompt_embeddings: (B, any number, 256).
            dense_prompt_embeddings: (B, 256, g, g).
        """
        masks, qualities = self.predict_masks(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        selection = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, selection], qualities[:, selection]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Does the work of `forward` for all four masks: M is 4. The name is SAM's."""
        embedding = image_embeddings + dense_prompt_embeddings
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (5, C)
        tokens = torch.cat([output_tokens.expand(len(embedding), -1, -1), sparse_prompt_embeddings], dim=1)
        tokens, cells = self.transformer(tokens, embedding.flatten(2).mT, image_pe.flatten(2).mT)

        fine = self.output_upscaling(cells.mT.unflatten(2, embedding.shape[2:]))  # (B, 32, 4g, 4g)
        heads = zip(self.output_hypernetworks_mlps, tokens[:, 1 : 1 + MASKS].unbind(1), strict=True)
        weights = torch.stack([head(token) for head, token in heads], dim=1)  # (B, 4, 32)
        return torch.einsum("bmc,bchw->bmhw", weights, fine), self.iou_prediction_head(tokens[:, 0])


class TwoWayTransformer(nn.Module):
    """Two layers of attention in both directions, then one attention from the tokens to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(first=i == 0) for i in range(2))
        self.final_attn_token_to_image = Attention(WIDTH // 2)
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, cells: Tensor, cell_positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C), cells (B, P, C), position embeddings of the cells (1, P, C) -> new tokens, new cells."""
        token_positions = tokens  # the tokens before the first layer serve as their position embeddings
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, token_positions, cell_positions)
        update = self.final_attn_token_to_image(tokens + token_positions, cells + cell_positions, cells)
        return self.norm_final_attn(tokens + update), cells


class TwoWayLayer(nn.Module):
    """Self-attention of the tokens, tokens to image, an MLP, image to tokens; after each a residual sum and a norm.

    With `first`, the self-attention has neither position embeddings nor a residual path.
    """

    def __init__(self, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = Attention(WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.cross_attn_token_to_image = Attention(WIDTH // 2)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = SamMLP(WIDTH, 8 * WIDTH, F.relu)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.norm4 = nn.LayerNorm(WIDTH)
        self.cross_attn_image_to_token = Attention(WIDTH // 2)

    def forward(
        self, tokens: Tensor, cells: Tensor, token_positions: Tensor, cell_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shapes are as in `TwoWayTransformer.forward`. `token_positions` is (B, T, C)."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            q = tokens + token_positions
            tokens = self.norm1(tokens + self.self_attn(q, q, tokens))
        positioned_cells = cells + cell_positions
        update = self.cross_attn_token_to_image(tokens + token_positions, positioned_cells, cells)
        tokens = self.norm2(tokens + update)
        tokens = self.norm3(tokens + self.mlp(tokens))
        update = self.cross_attn_image_to_token(positioned_cells, tokens + token_positions, tokens)
        return tokens, self.norm4(cells + update)


class Attention(nn.Module):
    """Multi-head attention from 256 to 256 channels. Queries, keys and values have `inner` channels."""

    def __init__(self, inner: int):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, inner)
        self.k_proj = nn.Linear(WIDTH, inner)
        self.v_proj = nn.Linear(WIDTH, inner)
        self.out_proj = nn.Linear(inner, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, T, C), (B, T', C), (B, T', C) -> (B, T, C)"""
        q, k, v = (split_heads(proj(x)) for proj, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def split_heads(x: Tensor) -> Tensor:
    """(B, T, inner) -> (B, HEADS, T, inner / HEADS)"""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class MLPHead(nn.Module):
    """Three linear layers with ReLU between them: (..., dim) -> (..., out)."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))
