from typing import TypeVar

from torch import Tensor, nn

from .trunk import Trunk

TrunkType = TypeVar("TrunkType", bound=Trunk)


class AdaptedBlock(nn.Module):
    """A frozen block of a trunk with a small trained adapter before it (arXiv 2408.08870, section 3.2).

    The attributes have the names of the released checkpoints. `prompt_learn` is the adapter.

    Args:
        block: takes tokens with `block.dim_in` channels.
        width: the number of channels inside the adapter.
    """

    def __init__(self, block: nn.Module, width: int = 32):
        super().__init__()
        self.block = block
        assert isinstance(block.dim_in, int)
        self.prompt_learn = nn.Sequential(
            nn.Linear(block.dim_in, width), nn.GELU(), nn.Linear(width, block.dim_in), nn.GELU()
        )

    def forward(self, x: Tensor, *inputs: Tensor | None) -> Tensor:
        """Tokens (B, H, W, block.dim_in) -> the output of `block` for `x + prompt_learn(x)` and its other inputs."""
        return self.block(x + self.prompt_learn(x), *inputs)


def add_adapters(trunk: TrunkType, std: float | None = None) -> TrunkType:
    """Freezes `trunk` and puts an adapter before each of its blocks. Changes `trunk` in place and returns it.

    In the state dict, `blocks.N.` becomes `blocks.N.block.`. `std` is the standard deviation of the adapters' initial
    weights; their biases are then zero. None keeps PyTorch's default initialisation. The released SAM2-UNet uses the
    default, SAM2-UNeXT and SAM3-UNet 0.02.
    """
    trunk.requires_grad_(False)
    blocks = [AdaptedBlock(block) for block in trunk.blocks]
    trunk.blocks = nn.ModuleList(blocks)
    if std is not None:
        for layer in (layer for block in blocks for layer in block.prompt_learn):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
    return trunk
