"""Predict a map for every image of a folder."""

import argparse
from pathlib import Path

from sam2unet.cli import Parser, main
from sam2unet.engine import predict_files
from sam2unet.engine.opening import Way
from sam2unet.engine.outputs import Outputs
from sam2unet.engine.predict_files import Files


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "--checkpoint", type=Path, required=True, help="SAM2-UNet-<epoch>.pth, released or ours; .safetensors"
    )
    p.add_argument("--hiera_path", type=Path, help="SAM 2 checkpoint that a .safetensors one was trained from")
    p.add_argument(
        "--test_image_path", type=Path, required=True, help="folder, image, list of files (.txt) or quoted pattern"
    )
    p.add_argument("--test_gt_path", type=Path, help="folder of masks: maps get their size instead of the images'")
    p.add_argument("--save_path", type=Path, required=True, help="folder for the maps, 8-bit grey PNG")
    p.add_argument("--size", type=int, help="input side; default: recipe.yaml's beside the checkpoint, or 352")
    p.add_argument("--no_minmax", action="store_true", help="probabilities; default: each map stretched to 0..255")
    p.add_argument("--threshold", type=float, metavar="T", help="binary maps: 255 above T, from 0 to 1, else 0")
    p.add_argument("--recursive", action="store_true", help="folders inside the folder too; the maps' tree is the same")
    p.add_argument("--skip_existing", action="store_true", help="leave out images whose map is there")
    p.add_argument("--on_bad_image", choices=("stop", "skip"), default="stop", help="at a file that cannot be read")
    p.add_argument("--batch_size", type=int, default=1, help="images at once; default: 1")
    p.add_argument("--workers", type=int, help="threads that read, and as many that write; default: one per core")
    p.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    return p


def run(args: argparse.Namespace) -> None:
    predict_files.run(
        args.checkpoint,
        Files(
            args.test_image_path,
            args.save_path,
            masks=args.test_gt_path,
            recursive=args.recursive,
            skip_existing=args.skip_existing,
            on_bad_image=args.on_bad_image,
        ),
        Way(size=args.size),
        Outputs(threshold=args.threshold),
        minmax=not args.no_minmax,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        hiera_path=args.hiera_path,
    )


if __name__ == "__main__":
    main(parser, run)
