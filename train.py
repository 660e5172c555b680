"""Train a model on a folder of images and a folder of masks."""

import argparse
from pathlib import Path

from sam2unet.cli import Parser, main
from sam2unet.config import Recipe
from sam2unet.engine import train


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    files = p.add_argument_group("files")
    files.add_argument(
        "--hiera_path", type=Path, help="SAM 2 checkpoint, e.g. sam2_hiera_large.pt; none: random weights"
    )
    files.add_argument("--train_image_path", type=Path, required=True, help="folder of images")
    files.add_argument("--train_mask_path", type=Path, required=True, help="folder of masks, named as the images")
    files.add_argument("--save_path", type=Path, required=True, help="folder for checkpoints")
    recipe = p.add_argument_group("recipe", "what is left out comes from --config")
    recipe.add_argument("--config", type=Path, default=Path(__file__).parent / "configs/sam2unet.yaml")
    recipe.add_argument("--encoder", help="tiny, small, base_plus or large; default: that of --hiera_path, or large")
    recipe.add_argument("--epoch", type=int, help="passes over the data")
    recipe.add_argument("--lr", type=float, help="learning rate of the first epoch")
    recipe.add_argument("--batch_size", type=int)
    recipe.add_argument("--weight_decay", type=float)
    recipe.add_argument("--size", type=int, help="side in pixels that images are resized to, a multiple of 32")
    recipe.add_argument("--seed", type=int, help="for weights, order and flips")
    recipe.add_argument("--mask_threshold", type=int, metavar="N", help="mask values above N are foreground; cut hard")
    machine = p.add_argument_group("machine")
    machine.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    machine.add_argument("--workers", type=int, help="processes that read images; default: one per core, at most 8")
    return p


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    given = {name: flags[name] for name in vars(Recipe()) if name in flags}
    train.run(
        Recipe.read(args.config, **given),
        args.train_image_path,
        args.train_mask_path,
        args.save_path,
        hiera_path=args.hiera_path,
        device=args.device,
        workers=args.workers,
    )


if __name__ == "__main__":
    main(parser, run)
