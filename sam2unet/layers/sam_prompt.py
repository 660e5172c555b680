"""SAM's prompt encoder (arXiv 2304.02643, appendix A): points, boxes and masks as vectors. Names are the checkpoints'.

Coordinates are (x, y) in pixels of the image that the encoder sees. B prompts, N points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .sam_vit import WIDTH, LayerNorm2d


class PromptEncoder(nn.Module):
    """`side` of the image in pixels, `grid` of its embedding in tokens."""

    def __init__(self, side: int, grid: int):
        super().__init__()
        self.side = side
        self.grid = grid
        self.pe_layer = RandomFourier(WIDTH)
        # For background points, foreground points, the first corner of a box, the last.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, WIDTH) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, WIDTH)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, kernel_size=2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, WIDTH, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, WIDTH)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Any of the three -> sparse (B, tokens, 256), points before the corners of boxes, and dense (B, 256, g, g).

        Args:
            points: coordinates (B, N, 2) and labels (B, N): 1 for foreground, 0 for background, -1 for no point.
            boxes: (B, 4) or (B, 1, 4) as x0, y0, x1, y1.
            masks: (B, 1, 4g, 4g), the last answer; in SAM-Med2D as probabilities, where SAM takes logits.
        """
        sparse = []
        if points is not None:
            sparse.append(self.embedded_points(*points))
            if boxes is None:  # a place for a box that is not there, only ever beside points
                sparse.append(self.not_a_point_embed.weight.expand(len(sparse[0]), 1, -1))
        if boxes is not None:
            sparse.append(self.embedded_boxes(boxes))
        count = len(sparse[0]) if sparse else 1 if masks is None else len(masks)
        if not sparse:
            sparse.append(self.no_mask_embed.weight.new_zeros(count, 0, WIDTH))
        if masks is None:
            dense = self.no_mask_embed.weight[:, :, None, None].expand(count, -1, self.grid, self.grid)
        else:
            dense = self.mask_downscaling(masks)
        return torch.cat(sparse, dim=1), dense

    def embedded_points(self, coordinates: Tensor, labels: Tensor) -> Tensor:
        """(B, N, 2) and (B, N) -> (B, N, 256). Labels above 1 add nothing to the position."""
        code = self.code_of(coordinates)
        for label in (0, 1):
            code = code + (labels == label)[..., None] * self.point_embeddings[label].weight
        return torch.where((labels == -1)[..., None], self.not_a_point_embed.weight, code)

    def embedded_boxes(self, boxes: Tensor) -> Tensor:
        """(..., 4) -> (B, 2, 256), the corners"""
        corners = torch.cat([self.point_embeddings[2].weight, self.point_embeddings[3].weight])
        return self.code_of(boxes.reshape(-1, 2, 2)) + corners

    def code_of(self, coordinates: Tensor) -> Tensor:
        """(..., 2) in pixels, integers welcome -> (..., 256), for the centres of these pixels."""
        return self.pe_layer((coordinates + 0.5) / self.side)

    def get_dense_pe(self) -> Tensor:
        """The position codes of the embedding's cells, (1, 256, g, g). The name is SAM's."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        centres = (torch.arange(self.grid, dtype=matrix.dtype, device=matrix.device) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]


class RandomFourier(nn.Module):
    """Sines and cosines of random projections of a place (arXiv 2006.10739). The projections are never trained."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) in [0, 1] -> (..., width)"""
        matrix = self.positional_encoding_gaussian_matrix
        placed = 2 * places.to(matrix.dtype) - 1
        # Not as a matrix product, which autocast would round to tenths of a radian.
        angles = 2 * math.pi * (placed[..., None] * matrix).sum(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
