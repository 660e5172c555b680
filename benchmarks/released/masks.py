"""The released way of training, for comparison: the same mathematics in the order of the released script.

- Worker processes decode, resize, flip and normalise files as Pillow images.
- Attention cuts its windows before anything else, so that padding is computed like the image.
- DINO's map is resized before its channels are reduced.
- The loss computes its edge weights for each output, as means over 31 x 31 pixels.
- AdamW gets every parameter.
"""

from __future__ import annotations

import types
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from sam2unet.data.batches import Draw
from sam2unet.data.pairs import Pair
from sam2unet.data.reading import read_image, read_mask
from sam2unet.layers.windows import WindowAttention, cut_windows, join_windows, max_pool
from sam2unet.losses import structure_loss
from sam2unet.models.sam2unext import SAM2UNeXT


class ReleasedFolder(Dataset):
    """Item: image (3, S, S) normalised and mask (1, S, S), for a draw of `data.batches`."""

    def __init__(self, pairs: Sequence[Pair], size: int):
        self.pairs = pairs
        self.resize_image = transforms.Resize((size, size))
        self.resize_mask = transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC)
        self.to_tensor = transforms.ToTensor()
        self.normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        pair = self.pairs[draw.index]
        image, mask = self.resize_image(read_image(pair.image)), self.resize_mask(read_mask(pair.mask))
        for flip in [transforms.functional.hflip] * draw.mirror + [transforms.functional.vflip] * draw.tip:
            image, mask = flip(image), flip(mask)
        return self.normalise(self.to_tensor(image)), self.to_tensor(mask)


def use_released_order_(model: nn.Module) -> nn.Module:
    """Changes attention, and the fusion of SAM2-UNeXT's encoders, to the released order, in place."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.forward = types.MethodType(attend_to_windows, module)
        elif isinstance(module, SAM2UNeXT):
            module.fuse = resize_and_fuse
    return model


def attend_to_windows(self: WindowAttention, x: Tensor) -> Tensor:
    batch, height, width, _ = x.shape
    side = self.window or None
    if side:
        x = cut_windows(x, (side, side), x.new_zeros(x.shape[-1])).view(-1, side, side, x.shape[-1])
    windows, rows, columns, _ = x.shape
    q, k, v = self.qkv(x).reshape(windows, rows * columns, 3, self.heads, -1).unbind(2)
    if self.pools:
        q = max_pool(q.reshape(windows, rows, columns, -1))
        rows, columns = q.shape[1:3]
        q = q.reshape(windows, rows * columns, self.heads, -1)
        height, width = height // 2, width // 2
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    out = self.proj(out.transpose(1, 2).reshape(windows, rows, columns, -1))
    if not side:
        return out
    return join_windows(out.flatten(1, 2), (rows, columns), (batch, height, width))


def resize_and_fuse(x: Tensor, dino: Tensor, align: nn.Conv2d, reduce: nn.Conv2d) -> Tensor:
    dino = F.interpolate(align(dino), size=x.shape[2:], mode="bilinear", align_corners=False)
    return reduce(torch.cat([x, dino], dim=1))


def build_released_adamw(model: nn.Module, lr: float = 1e-3, weight_decay: float = 5e-4) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": model.parameters(), "initia_lr": lr}], lr=lr, weight_decay=weight_decay)


def compute_edge_weight(masks: Tensor) -> Tensor:
    return 1 + 5 * torch.abs(F.avg_pool2d(masks, kernel_size=31, stride=1, padding=15) - masks)


def take_released_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, masks: Tensor) -> Tensor:
    """Takes one optimizer step. Returns the loss before the step."""
    optimizer.zero_grad()
    loss = sum(structure_loss(logits, masks, weight=compute_edge_weight(masks)) for logits in model(images))
    loss.backward()
    optimizer.step()
    return loss.detach()
