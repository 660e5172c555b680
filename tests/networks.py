"""Networks of a few small blocks, as sizes that only the tests know: `--encoder micro`.

`python -m tests.networks SCRIPT FLAGS` runs a script that knows them too.
"""

import runpy
import sys
from pathlib import Path

from sam2unet.layers import dino, hiera, sam3_vit, sam_vit

MICRO = dict(dim=8, heads=1, depths=(1, 1, 1, 1), global_blocks=(3,), grid=7, windows=(8, 4, 14, 7))  # a Hiera
TINY = dict(dim=32, depth=2, heads=2, global_blocks=(1,))  # a SamViT
SAM3 = dict(dim=32, depth=3, heads=2, hidden=48, global_blocks=(1,))  # a Sam3ViT
DINO = f"local-dir:{Path(__file__).with_name('micro_dino')}"  # timm reads the width and the depth from this folder


def add_sizes() -> None:
    """Adds the size `micro` to this process and to those that are forked from it."""
    hiera.SIZES["micro"] = MICRO
    sam3_vit.SIZES["micro"] = SAM3
    sam_vit.SIZES["micro"] = TINY
    dino.SIZES["micro"], dino.WIDTHS[32] = DINO, "micro"


if __name__ == "__main__":
    add_sizes()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
