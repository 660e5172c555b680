"""Predict a map for every image of a folder or frame of a video; with SAM-Med2D, score answers to prompts."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import FLOAT_TYPES, PRECISIONS
from ..cli import (
    Parser,
    add_boolean,
    add_data_flag,
    add_index_flags,
    add_mask_values,
    add_recipe_flags,
    read_index_flags,
    replace_data_flag,
)
from ..errors import UserError
from ..recipe import CHOICES
from ..released_flags import add_released_flags, translate_test_flags
from ..runtime.shards import Shard
from ..weights.weight_files import add_weight_flags, read_weight_flags

if TYPE_CHECKING:  # torch takes seconds to import, and --help does not need it
    from ..families.load import Checkpoint

# Flags that only one kind of model has. The others refuse them.
OF_MAPS = (
    "test_image_path test_gt_path no_minmax threshold components tta tile overlay contours save_prob uncertainty "
    "calibrated save_slices dicom_seg window axis context recursive skip_existing archive workers fast exact compile"
).split()
OF_RECIPE = ("multimask", "rgb", "mask_prompt", "mask_threshold", "foreground", "seed")
OF_PROMPTS = [
    *"data_path boxes_prompt point_num iter_point prompt_path save_pred encoder_adapter metrics model_type".split(),
    *OF_RECIPE,
]


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        help="<title>-<epoch>.pth, released or trained here; .safetensors; .onnx. The maps of several are averaged",
    )
    add_weight_flags(p)
    p.add_argument("--save_path", type=Path, help="folder for maps, or for the scores of answers to prompts")
    p.add_argument(
        "--size",
        "--image_size",
        type=int,
        help="side of the square input; default: the side of the training, or the released side if that is not known",
    )
    p.add_argument(
        "--on_bad_image", choices=("stop", "skip"), default="stop", help="what to do with a file that cannot be read"
    )
    p.add_argument(
        "--batch_size",
        type=int,
        help="images at once; default: 1, or what --fast chooses. Prompts: masks of an image at once; default: 16",
    )
    p.add_argument(
        "--amp", choices=PRECISIONS, help="half precision in the model; default: off, or what --fast chooses"
    )
    p.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    p.add_argument(
        "--shard",
        metavar="I/N",
        help="do share I of N, for example in a job array; all jobs have one --save_path",
    )
    add_map_flags(p.add_argument_group("maps of images"))
    add_prompt_flags(
        p.add_argument_group(
            "answers to prompts (SAM-Med2D)",
            "default: box, 1, 3 and 5 points, as in the paper; else all kinds that are given",
        )
    )
    add_released_flags(p)
    p.add_argument("--lr_scheduler", help=argparse.SUPPRESS)
    return p


def add_map_flags(maps: argparse._ArgumentGroup) -> None:
    add_switch = partial(maps.add_argument, action="store_true")
    maps.add_argument(
        "--test_image_path",
        type=Path,
        help="folder, image, video, list of files (.txt), or pattern in quotes",
    )
    maps.add_argument(
        "--test_gt_path", type=Path, help="folder of masks: a map gets the size of its mask, not of its image"
    )
    add_data_flag(maps, "testing")
    add_index_flags(maps)
    add_switch("--no_minmax", help="write probabilities; default: each map is stretched to 0..255")
    maps.add_argument(
        "--threshold", type=float, metavar="T", help="write 255 where the value is above T (0 to 1), else 0"
    )
    maps.add_argument(
        "--components", type=int, default=0, metavar="MIN_AREA", help="parts with fewer pixels become background"
    )
    maps.add_argument(
        "--tta",
        metavar="flip,scale",
        help="average over the image and its mirror image (flip), and over 0.75, 1 and 1.25 of the size (scale)",
    )
    maps.add_argument(
        "--tile", metavar="SIDE,OVERLAP", help="cut large images into overlapping squares, and blend their maps"
    )
    add_switch("--overlay", help="also write images with their maps on them, in overlay/")
    add_switch("--contours", help="also write images with outlines, in contours/")
    maps.add_argument(
        "--save_prob",
        nargs="?",
        const=FLOAT_TYPES[0],
        choices=FLOAT_TYPES,
        help="also write the probabilities, not stretched, in prob/NAME.npz as `probability`; default type: float16",
    )
    add_switch(
        "--uncertainty",
        help="also write the entropy of the probabilities, in uncertainty/, and name the most uncertain images",
    )
    add_switch("--save_slices", help="for volumes: also write the map of each slice, in slices/CASE/NUMBER.png")
    add_switch("--dicom_seg", help="for DICOM: write SEG objects; default: NIfTI")
    add_recipe_flags(maps, "volumes")
    add_switch("--calibrated", help="use the temperature from sam2unet calibrate; best with --no_minmax")
    add_switch(
        "--recursive",
        help="also predict the images in folders inside the folder; the maps have the same tree of folders",
    )
    add_switch("--skip_existing", help="leave out images that have a map")
    add_switch("--archive", help="write maps into tar files of about 10,000 files, maps-00000.tar, ...")
    maps.add_argument(
        "--workers",
        type=int,
        help="number of threads that read, and of threads that write; default: one per core, at most 8",
    )
    add_switch(
        "--fast", help="turn on what is faster on the device: --amp, --compile and more; the script prints its choice"
    )
    add_switch(
        "--exact", help="compute in the order of the released script; without it, maps may differ by one grey level"
    )
    add_switch(
        "--compile",
        help="compile the model with PyTorch, which takes minutes at the start; maps differ by rounding only",
    )


def add_prompt_flags(prompts: argparse._ArgumentGroup) -> None:
    prompts.add_argument("--data_path", type=Path, help="folder with label2image_test.json, {mask: image}")
    add_boolean(prompts, "boxes_prompt", "prompt with boxes; default: True")
    prompts.add_argument("--point_num", type=int, nargs="+", default=[], metavar="N", help="prompt with N points")
    prompts.add_argument(
        "--iter_point",
        type=int,
        nargs="+",
        default=[],
        metavar="K",
        help="prompt with one point, then add K - 1 clicks where the answer is wrong",
    )
    prompts.add_argument(
        "--prompt_path",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="files of prompts that an earlier test wrote",
    )
    add_boolean(prompts, "save_pred", "write predicted masks, in a folder for each kind of prompt; default: False")
    add_boolean(prompts, "encoder_adapter", "False: leave out the adapters; default: as in the checkpoint")
    add_boolean(
        prompts,
        "multimask",
        "best of the last three masks of the decoder; False: its first mask; default: as trained, or True",
    )
    add_boolean(
        prompts, "rgb", "True: red, green, blue; False: the reverse; default: as trained, or False, as released"
    )
    prompts.add_argument(
        "--mask_prompt",
        choices=CHOICES["mask_prompt"],
        help="the form in which an answer becomes the next prompt; default: as trained, or probability",
    )
    add_mask_values(prompts)
    prompts.add_argument("--seed", type=int, help="for points and clicks; default: that of the training, or 1024")


def run(args: argparse.Namespace) -> None:
    from ..data.index.select import warn_of_training_cases
    from ..families.load import Checkpoint
    from ..masks.prediction.open import read_model_file
    from ..runtime.processes import Processes

    translate_test_flags(args)
    checkpoints = [read_model_file(path) for path in args.checkpoint]
    checkpoint = checkpoints[0]
    takes_lists = any(isinstance(file, Checkpoint) and file.family.task == "prompts" for file in checkpoints)
    if takes_lists and len(checkpoints) > 1:
        raise UserError("several checkpoints are averaged only for maps of images; give one checkpoint for prompts")
    replace_data_flag(args, "test", takes_lists)
    args.query = read_index_flags(args)
    if args.query and (args.test_image_path or args.test_gt_path or args.data_path):
        raise UserError("--index takes the place of --test_image_path, --test_gt_path and --data_path; leave them out")
    if args.query:
        args.data_path, args.test_image_path = (args.index, None) if takes_lists else (None, args.index)
    with Processes.from_environment().silence_other_ranks():
        for file in checkpoints if args.query else ():
            path = file.path if isinstance(file, Checkpoint) else file
            warn_of_training_cases(args.query, path.with_name("run.json"))
    if isinstance(checkpoint, Checkpoint) and takes_lists:
        check_flags(args, checkpoint.family.title, "data_path", OF_MAPS)
        score_answers(checkpoint, args)
    else:
        title = checkpoint.family.title if isinstance(checkpoint, Checkpoint) else str(checkpoint)
        check_flags(args, title, "test_image_path", OF_PROMPTS)
        predict_maps(checkpoints, args)


def check_flags(args: argparse.Namespace, title: str, needed: str, others: Sequence[str]) -> None:
    """Raises UserError if the flag `needed` is missing, or if the user gave flags of the `others`."""
    defaults = parser()
    if wrong := [name for name in others if getattr(args, name) != defaults.get_default(name)]:
        raise UserError(f"{title} has no use for --{' --'.join(wrong)}; it takes --{needed}")
    if getattr(args, needed) is None:
        raise UserError(f"--{needed}, which {title} takes, is missing")


def predict_maps(checkpoints: "list[Path | Checkpoint]", args: argparse.Namespace) -> None:
    from ..masks.files import predict_folder
    from ..masks.files.outputs import PredictOutputs
    from ..masks.prediction.options import Averaging, PredictOptions
    from ..masks.prediction.tiles import Tile

    predict_folder.run(
        checkpoints,
        predict_folder.PredictFiles(
            args.test_image_path,
            args.save_path,
            masks=args.test_gt_path,
            recursive=args.recursive,
            skip_existing=args.skip_existing,
            on_bad_image=args.on_bad_image,
            shard=Shard.read(args.shard) if args.shard is not None else Shard(),
            index=args.query,
            archive=args.archive,
            view={"axis": args.axis, "window": args.window, "context": args.context},
        ),
        PredictOptions(
            size=args.size,
            amp=args.amp or ("auto" if args.fast else "off"),
            averaging=Averaging.read(args.tta) if args.tta is not None else Averaging(),
            tile=Tile.read(args.tile) if args.tile is not None else None,
            exact=args.exact,
            compile=args.compile,
            calibrated=args.calibrated,
        ),
        PredictOutputs(
            threshold=args.threshold,
            components=args.components,
            overlay=args.overlay,
            contours=args.contours,
            probability=args.save_prob,
            uncertainty=args.uncertainty,
            slices=args.save_slices,
            dicom_seg=args.dicom_seg,
        ),
        minmax=not args.no_minmax,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        weight_paths=read_weight_flags(args),
        fast=args.fast,
    )


def score_answers(checkpoint: "Checkpoint", args: argparse.Namespace) -> None:
    from ..prompts.files import score_list

    score_list.run(
        checkpoint,
        score_list.PromptTestFiles(
            args.data_path,
            args.save_path,
            prompts=args.prompt_path,
            save_masks=bool(args.save_pred),
            on_bad_image=args.on_bad_image,
            shard=Shard.read(args.shard) if args.shard is not None else Shard(),
            index=args.query,
        ),
        score_list.PromptTestFlags(args.boxes_prompt, args.point_num, args.iter_point),
        {name: tuple(value) if isinstance(value := getattr(args, name), list) else value for name in OF_RECIPE},
        size=args.size,
        adapters=args.encoder_adapter,
        amp=args.amp or "off",
        batch_size=args.batch_size,
        device=args.device,
        weight_paths=read_weight_flags(args),
    )
