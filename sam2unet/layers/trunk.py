"""What the image encoders of SAM, SAM 2 and SAM 3 have in common."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Trunk(nn.Module):
    """An image encoder that is a sequence of blocks.

    Attributes:
        blocks: each subclass makes them.
        checkpointing: save memory in training (arXiv 1604.06174). Activations inside a block are not kept. The
            backward pass computes them again.
    """

    blocks: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.checkpointing = False

    def run_block(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Returns the output of `block` for `inputs`."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
