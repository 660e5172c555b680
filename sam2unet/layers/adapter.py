from torch import Tensor, nn

from .hiera import Block, Hiera


class Adapted(nn.Module):
    """A frozen block behind a small trained bottleneck (arXiv 2408.08870, section 3.2)."""

    def __init__(self, block: Block, width: int = 32):
        super().__init__()
        self.block = block
        self.prompt_learn = nn.Sequential(
            nn.Linear(block.dim_in, width), nn.GELU(), nn.Linear(width, block.dim_in), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> what the block makes of `x + prompt_learn(x)`."""
        return self.block(x + self.prompt_learn(x))


def add_adapters(trunk: Hiera, std: float | None = None) -> Hiera:
    """Freeze `trunk` and put an adapter before each of its blocks, in place: `blocks.N` becomes `blocks.N.block`.

    Args:
        std: of the adapters' first weights, biases zero; None for PyTorch's own initialisation.
    """
    trunk.requires_grad_(False)
    trunk.blocks = nn.ModuleList(Adapted(block) for block in trunk.blocks)
    if std is not None:
        for block in trunk.blocks:
            for linear in (block.prompt_learn[0], block.prompt_learn[2]):
                nn.init.trunc_normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)
    return trunk
