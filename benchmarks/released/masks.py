"""The released way of training, for comparison: the same mathematics in the order of the released script."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from sam2unet.data.batches import Draw
from sam2unet.data.pairs import Pair
from sam2unet.data.reading import read_image, read_mask
from sam2unet.layers.sam3_vit import RotaryAttention, Sam3ViT
from sam2unet.layers.windows import WindowAttention, cut_windows, join_windows, max_pool
from sam2unet.losses import structure_loss
from sam2unet.models.sam2unext import SAM2UNeXT
from sam2unet.recipe import Recipe
from sam2unet.training.trainer import seed_update


def make_image_transform(side: int) -> transforms.Compose:
    """Returns a function from a photograph to the input (3, S, S)."""
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), normalise])


class ReleasedFolder(Dataset):
    """Item: image (3, S, S) normalised and mask (1, S, S), for a draw of `data.batches`."""

    def __init__(self, pairs: Sequence[Pair], size: int):
        self.pairs, self.to_image = pairs, make_image_transform(size)
        bicubic = transforms.InterpolationMode.BICUBIC
        self.to_mask = transforms.Compose([transforms.Resize((size, size), bicubic), transforms.ToTensor()])

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        pair = self.pairs[draw.index]
        axes = [-1] * draw.mirror + [-2] * draw.tip
        return self.to_image(read_image(pair.image)).flip(axes), self.to_mask(read_mask(pair.mask)).flip(axes)


def use_released_order_(model: nn.Module) -> nn.Module:
    """Changes attention, and the fusion of SAM2-UNeXT's encoders, to the released order, in place.

    Attention cuts its windows first, so padding is computed like the image. DINO's map is resized before its channels
    are reduced.
    """
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.forward = types.MethodType(attend_to_windows, module)
        elif isinstance(module, RotaryAttention):
            module.forward = types.MethodType(attend_to_rotated_windows, module)
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


def attend_to_rotated_windows(self: RotaryAttention, x: Tensor, rotations: Tensor) -> Tensor:
    grid, window = x.shape[:3], tuple(rotations.shape[1:3])
    x = cut_windows(x, window, x.new_zeros(x.shape[-1]))
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    factors = torch.complex(*rotations.flatten(1, 2))
    pairs = (torch.view_as_complex(part.float().unflatten(-1, (-1, 2)).contiguous()) for part in (q, k))
    q, k = (torch.view_as_real(pair * factors).flatten(-2).to(x.dtype) for pair in pairs)
    out = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return join_windows(out, window, grid)


def resize_and_fuse(x: Tensor, dino: Tensor, align: nn.Conv2d, reduce: nn.Conv2d) -> Tensor:
    dino = F.interpolate(align(dino), size=x.shape[2:], mode="bilinear", align_corners=False)
    return reduce(torch.cat([x, dino], dim=1))


def take_released_updates(
    model: nn.Module, recipe: Recipe, device: torch.device, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[Tensor]:
    """Takes an optimizer step for each batch. Yields the loss before the step. AdamW gets every parameter.

    Blocks of SAM 3 are computed a second time for the backward pass.
    """
    for module in model.modules():
        if isinstance(module, Sam3ViT):
            module.checkpointing = True
    groups = [{"params": use_released_order_(model).parameters(), "initia_lr": recipe.lr}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    for number, (images, masks) in enumerate(batches):
        seed_update(recipe.seed, number)  # so that the model draws what it draws in our way
        images, masks, loss = images.to(device), masks.to(device), 0
        optimizer.zero_grad()
        for logits in model(images):  # the edge weights are computed for each output
            weight = 1 + 5 * torch.abs(F.avg_pool2d(masks, kernel_size=31, stride=1, padding=15) - masks)
            loss = loss + structure_loss(logits, masks, weight=weight)
        loss.backward()
        optimizer.step()
        yield loss.detach()
