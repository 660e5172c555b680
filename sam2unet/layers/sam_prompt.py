"""SAM's prompt encoder (arXiv 2304.02643, appendix A): turns points, boxes and masks into embeddings.

The attributes have the names of the released checkpoints. Coordinates are (x, y), in pixels of the square image that
the image encoder takes. Letters: B prompts, N points per prompt, g side of the image embedding.
"""

import math

import torch
from torch import Tensor, nn

from .sam_vit import WIDTH, LayerNorm2d


class PromptEncoder(nn.Module):
    """Turns prompts into sparse embeddings (points and boxes) and a dense one (masks), for images of `side` pixels."""

    def __init__(self, side: int, grid: int):
        super().__init__()
        self.side, self.grid = side, grid
        self.pe_layer = RandomFourier(WIDTH)
        # For background points, foreground points, the top left corner of a box, the bottom right corner.
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
        self, points: tuple[Tensor, Tensor] | None = None, boxes: Tensor | None = None, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns sparse embeddings (B, tokens, 256) and dense embeddings (B, 256, g, g).

        The sparse tokens are the points, then the two corners of the box. Without points and boxes there are none.

        Args:
            points: coordinates (B, N, 2) and labels (B, N): 1 for foreground, 0 for background, -1 for no point.
            boxes: (B, 4) or (B, 1, 4) as x0, y0, x1, y1.
            masks: (B, 1, 4g, 4g), a previous prediction. SAM-Med2D takes probabilities here, SAM takes logits.
        """
        sparse = []
        if points is not None:
            sparse.append(self.embed_points(*points))
            if boxes is None:  # as in SAM, a token for "no point" stands for the missing box
                sparse.append(self.not_a_point_embed.weight.expand(len(sparse[0]), 1, -1))
        if boxes is not None:
            sparse.append(self.embed_boxes(boxes))
        count = len(sparse[0]) if sparse else 1 if masks is None else len(masks)
        if not sparse:
            sparse.append(self.no_mask_embed.weight.new_zeros(count, 0, WIDTH))
        if masks is None:
            dense = self.no_mask_embed.weight[:, :, None, None].expand(count, -1, self.grid, self.grid)
        else:
            dense = self.mask_downscaling(masks)
        return torch.cat(sparse, dim=1), dense

    def embed_points(self, coordinates: Tensor, labels: Tensor) -> Tensor:
        """Coordinates (B, N, 2) and labels (B, N) -> (B, N, 256). For labels above 1, the position alone."""
        code = self.encode_positions(coordinates)
        for label in (0, 1):
            code = code + (labels == label)[..., None] * self.point_weight(label)
        return torch.where((labels == -1)[..., None], self.not_a_point_embed.weight, code)

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """(B, 4) or (B, 1, 4) -> (B, 2, 256), the top left and the bottom right corner."""
        corners = torch.cat([self.point_weight(2), self.point_weight(3)])
        return self.encode_positions(boxes.reshape(-1, 2, 2)) + corners

    def point_weight(self, index: int) -> Tensor:
        """Returns the embedding (1, 256) of a kind of point: the index into `point_embeddings`."""
        embedding = self.point_embeddings[index]
        assert isinstance(embedding, nn.Embedding)
        return embedding.weight

    def encode_positions(self, coordinates: Tensor) -> Tensor:
        """Coordinates (..., 2) in pixels, of any number type -> (..., 256). Encodes the centres of these pixels."""
        return self.pe_layer((coordinates + 0.5) / self.side)

    def get_dense_pe(self) -> Tensor:
        """Returns the position embeddings of the image embedding's cells, (1, 256, g, g). The name is SAM's."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        centres = (torch.arange(self.grid, dtype=matrix.dtype, device=matrix.device) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]


class RandomFourier(nn.Module):
    """Random Fourier features of a position (arXiv 2006.10739): sines and cosines of random projections.

    The projections are drawn once and never trained. They are a buffer, so they are in the state dict.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, positions: Tensor) -> Tensor:
        """Positions (..., 2) in [0, 1] -> (..., width), values in [-1, 1]"""
        matrix = self.positional_encoding_gaussian_matrix
        centred = 2 * positions.to(matrix.dtype) - 1
        # A sum, because autocast would compute a matrix product in half precision: errors of tenths of a radian.
        angles = 2 * math.pi * (centred[..., None] * matrix).sum(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
