from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Total(torch.autograd.Function):
    """Sum over processes, the same in each; so is the gradient of what each makes of it."""

    @staticmethod
    def forward(ctx: object, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return Total.apply(gradient)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, on any device; PyTorch's own runs on GPUs alone.

    The same numbers as one process with all the images: each adds up its values, squares come after the mean is known.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), of which every process has its own B."""
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        own = torch.cat([wide.sum((0, 2, 3)), wide.new_tensor([x.numel() / x.shape[1]])])
        *sums, count = Total.apply(own).split([x.shape[1], 1])
        mean = sums[0] / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = Total.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def synchronised(model: nn.Module) -> None:
    """Turn every BatchNorm2d of `model` into the above, in place; weights and names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
