"""Predict maps of millions of images with a Ray cluster: one process for each GPU or core, on all machines.

SOURCE is a folder, an address such as s3://bucket/images, or a text file with a path or an address per line. --index
takes its place. Every machine must see SOURCE and --save_path at the same place. The work is divided into blocks of
images. Ray does a block again if its process or machine fails. The rows of a block are written at its end. So the same
command goes on where an earlier one stopped, and no image is missing or comes twice.
"""

import argparse
from pathlib import Path

from ..cli import Parser, add_index_flags, read_index_flags
from ..errors import UserError
from ..limits import check_numbers
from ..runtime.versions import import_extra
from ..weights.weight_files import add_weight_flags, read_weight_flags


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", nargs="?", metavar="SOURCE", help="folder, address of a folder, or list of files (.txt)")
    add_index_flags(p)
    p.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of a model for maps, or .onnx file")
    add_weight_flags(p)
    p.add_argument("--save_path", type=Path, required=True, metavar="DIR", help="folder for maps and maps.csv")
    p.add_argument("--size", type=int, help="input side; default: that of the training")
    p.add_argument("--no_minmax", action="store_true", help="probabilities; default: each map stretched to 0..255")
    p.add_argument("--actors", type=int, help="number of processes; default: one for each GPU, or for each core")
    p.add_argument("--gpus", type=float, help="GPUs of a process; default: 1 if the cluster has GPUs, otherwise 0")
    p.add_argument("--batch_size", type=int, default=1, help="images at once; default: 1")
    p.add_argument("--address", help="address of a running cluster; default: start one on this machine")
    return p


def run(args: argparse.Namespace) -> None:
    import torch

    from ..masks.files.predict_blocks import BlockOptions, list_images_to_predict, merge_rows, run_blocks
    from ..masks.prediction.open import open_predictor
    from ..masks.prediction.options import PredictOptions

    if (args.source is None) == (args.index is None):
        raise UserError("give SOURCE or --index")
    check_numbers({name: getattr(args, name) for name in ("size", "actors", "gpus", "batch_size")})
    weight_paths, model_options = read_weight_flags(args), PredictOptions(size=args.size)
    # A wrong checkpoint or flag gives one error here, and not one in each process.
    open_predictor(args.checkpoint, torch.device("cpu"), weight_paths, model_options)
    import_extra("ray.data", 'predict-ray needs Ray: pip install "sam2unet[ray]"')
    images = list_images_to_predict(args.source, read_index_flags(args), args.checkpoint)
    options = BlockOptions(
        args.checkpoint.resolve(),
        args.save_path.resolve(),
        args.size,
        not args.no_minmax,
        args.batch_size,
        dict(weight_paths),
    )
    run_blocks(images, options, args.actors, args.gpus, args.address)
    merge_rows(options.folder, len(images))
