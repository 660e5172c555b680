"""Predict a map for every image of a folder, or for every frame of a video."""

import argparse
from pathlib import Path

from sam2unet.cli import Parser, main
from sam2unet.engine import predict_files
from sam2unet.engine.maps import Averaging, Tile
from sam2unet.engine.opening import Way
from sam2unet.engine.outputs import NUMBERS, Outputs
from sam2unet.engine.predict_files import Files
from sam2unet.engine.speed import PRECISIONS
from sam2unet.sources import add_sources, sources_of


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "--checkpoint", type=Path, required=True, help="<title>-<epoch>.pth, released or ours; .safetensors; .onnx"
    )
    add_sources(p)
    p.add_argument(
        "--test_image_path", type=Path, required=True, help="folder, image, video, list of files (.txt), quoted pattern"
    )
    p.add_argument("--test_gt_path", type=Path, help="folder of masks: maps get their size instead of the images'")
    p.add_argument("--save_path", type=Path, required=True, help="folder for the maps, 8-bit grey PNG")
    p.add_argument("--size", type=int, help="input side; default: that of the training, if known, or the released one")
    p.add_argument("--no_minmax", action="store_true", help="probabilities; default: each map stretched to 0..255")
    p.add_argument("--threshold", type=float, metavar="T", help="binary maps: 255 above T, from 0 to 1, else 0")
    p.add_argument("--components", type=int, default=0, metavar="MIN_AREA", help="blacken parts of fewer pixels")
    p.add_argument("--tta", metavar="flip,scale", help="average over the mirrored image, 0.75 and 1.25 of the size")
    p.add_argument("--tile", metavar="SIDE,OVERLAP", help="cut large images into squares, blended where they overlap")
    p.add_argument("--overlay", action="store_true", help="photographs under their maps too, in overlay/")
    p.add_argument("--contours", action="store_true", help="photographs with outlines too, in contours/")
    p.add_argument(
        "--save_prob",
        nargs="?",
        const=NUMBERS[0],
        choices=NUMBERS,
        help="probabilities too, not stretched, in prob/NAME.npz as `probability`; float16 if not said otherwise",
    )
    p.add_argument("--recursive", action="store_true", help="folders inside the folder too; the maps' tree is the same")
    p.add_argument("--skip_existing", action="store_true", help="leave out images whose map is there")
    p.add_argument("--on_bad_image", choices=("stop", "skip"), default="stop", help="at a file that cannot be read")
    p.add_argument("--batch_size", type=int, help="images at once; default: 1, or what --fast chooses")
    p.add_argument("--workers", type=int, help="threads that read, and as many that write; default: one per core")
    p.add_argument(
        "--fast", action="store_true", help="turn on what suits the device of --amp, --compile and more, and say so"
    )
    p.add_argument(
        "--amp", choices=PRECISIONS, help="half precision in the model; default: off, or what --fast chooses"
    )
    p.add_argument(
        "--compile", action="store_true", help="PyTorch fuses operations; minutes at the start; same but for rounding"
    )
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
        Way(
            size=args.size,
            amp=args.amp or ("auto" if args.fast else "off"),
            averaging=Averaging.read(args.tta) if args.tta else Averaging(),
            tile=Tile.read(args.tile) if args.tile else None,
            compile=args.compile,
        ),
        Outputs(
            threshold=args.threshold,
            components=args.components,
            overlay=args.overlay,
            contours=args.contours,
            probability=args.save_prob,
        ),
        minmax=not args.no_minmax,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        sources=sources_of(args),
        fast=args.fast,
    )


if __name__ == "__main__":
    main(parser, run)
