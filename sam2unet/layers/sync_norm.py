"""BatchNorm over the images of several processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SumOverProcesses(torch.autograd.Function):
    """Adds up a tensor of the same shape over all processes. Each process receives the sum.

    Each process uses the sum in its own loss, so the gradient of an input is the sum of all processes' gradients.
    """

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return SumOverProcesses.apply(gradient)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes. Unlike PyTorch's `SyncBatchNorm`, it also runs on CPUs.

    Gives the same numbers as one process with all images. First the processes add up their values to get the mean. Then
    they add up the squared distances to this mean. Sums of squares without the mean would lose precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), in the dtype of `x`. B may differ between processes."""
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        sums_and_count = torch.cat([wide.sum((0, 2, 3)), wide.new_full((1,), x.numel() / x.shape[1])])
        *sums, count = SumOverProcesses.apply(sums_and_count).split([x.shape[1], 1])
        mean = sums[0] / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.num_batches_tracked is not None and self.momentum is not None
            assert self.running_mean is not None and self.running_var is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def sync_batchnorm_(model: nn.Module) -> None:
    """Turns each BatchNorm2d of `model` into a `SyncBatchNorm2d`, in place. Weights and names do not change."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
