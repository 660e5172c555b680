"""Train a model on folders of images and masks, or on lists. For several GPUs: torchrun --nproc_per_node=N train.py."""

import argparse
from pathlib import Path

from ..choices import CACHE_PLACES
from ..cli import (
    Parser,
    add_data_flag,
    add_index_flags,
    add_mask_values,
    add_recipe_flags,
    list_arguments,
    locate_recipe_file,
    read_index_flags,
    read_recipe_flags,
)
from ..recipe import Recipe, Study
from ..released_flags import add_released_flags, translate_train_flags
from ..weights.weight_files import add_weight_flags, read_weight_flags


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    data = p.add_argument_group("data")
    data.add_argument("--train_image_path", type=Path, nargs="+", default=[], help="folders of images")
    data.add_argument(
        "--train_mask_path", type=Path, nargs="+", default=[], help="folders of their masks, with the same names"
    )
    add_data_flag(data, "training")
    data.add_argument("--data_path", type=Path, help="for sam_med2d, instead: folder with image2label_train.json")
    add_index_flags(data)
    data.add_argument(
        "--balance", metavar="dataset|modality", help="with --index: draw each data set or modality equally often"
    )
    data.add_argument("--val_image_path", type=Path, help="folder of validation images; default: no validation")
    data.add_argument("--val_mask_path", type=Path, help="folder of their masks")
    data.add_argument("--val_data_path", type=Path, help="for sam_med2d: folder with label2image_test.json")
    data.add_argument(
        "--val_fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="validate with this fraction of the training images",
    )
    data.add_argument("--folds", type=int, metavar="N", help="cross-validation: number of parts of the images")
    data.add_argument("--fold", type=int, metavar="K", help="validate with part K, from 1 to N; train with the others")
    data.add_argument(
        "--group",
        metavar="REGEX",
        help="images stay in one part if this expression finds the same text in their names, e.g. '^[^_]+'",
    )
    data.add_argument("--val_every", type=int, default=1, metavar="N", help="validate after every N epochs; default: 1")
    data.add_argument(
        "--on_bad_image",
        choices=("stop", "skip"),
        default="stop",
        help="what to do if a file cannot be read; default: stop",
    )
    weights = p.add_argument_group("weights and results")
    add_weight_flags(weights, " that training starts from; default: random weights")
    weights.add_argument("--init_from", type=Path, help="a checkpoint of this model that training starts from")
    weights.add_argument("--save_path", type=Path, help="folder for checkpoints, logs and last.pt")
    weights.add_argument(
        "--save",
        choices=("full", "trainable"),
        default="full",
        help="weights in checkpoints: all, or only those that no file of pretrained weights holds; default: full",
    )
    weights.add_argument(
        "--save_minutes",
        type=float,
        default=10,
        metavar="M",
        help="save last.pt, which --resume needs, at least every M minutes; default: 10",
    )
    weights.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="keep only the N newest numbered checkpoints and validation pictures of this run; default: all",
    )
    weights.add_argument(
        "--resume",
        metavar="auto|FILE",
        help="continue a run: from a copy of its last.pt, or with auto from last.pt in --save_path if it exists",
    )
    weights.add_argument(
        "--best_metric", help="metric that decides which epoch is the best; default: mDice; sam_med2d: box Dice"
    )
    weights.add_argument(
        "--tensorboard", action="store_true", help="write the content of metrics.jsonl for TensorBoard too"
    )
    recipe = p.add_argument_group("recipe", "--config sets the values that you do not give as flags")
    recipe.add_argument(
        "--config",
        type=locate_recipe_file,
        help="a file of configs/, or only its name, for example polyp; default: the released recipe of the model",
    )
    add_recipe_flags(recipe, "recipe")
    add_mask_values(recipe)
    add_recipe_flags(recipe, "classes")
    add_recipe_flags(recipe, "volumes")
    prompts = p.add_argument_group("recipe of sam_med2d", "the defaults are those of the released code")
    add_recipe_flags(prompts, "prompts")
    departures = p.add_argument_group("changes to the released recipe", "none of these is on by default")
    add_recipe_flags(departures, "departures")
    speed = p.add_argument_group("speed and memory", "the defaults compute the same as the released script")
    speed.add_argument(
        "--fast",
        action="store_true",
        help="choose --amp, --compile, --channels_last, --fused and --cache for the device, and print the choice",
    )
    add_recipe_flags(speed, "speed")
    speed.add_argument(
        "--compile",
        action="store_true",
        help="PyTorch fuses operations; the start takes minutes; results differ by rounding only",
    )
    speed.add_argument(
        "--channels_last",
        action="store_true",
        help="another memory layout in the decoder; results differ by rounding only",
    )
    speed.add_argument("--fused", action="store_true", help="AdamW in one kernel; results differ by rounding only")
    speed.add_argument(
        "--grad_checkpointing",
        action="store_true",
        help="compute the trunk twice: much less memory, a third more time, same result",
    )
    speed.add_argument(
        "--cache",
        choices=CACHE_PLACES,
        default="off",
        help="keep resized images and masks, so that each file is read once; same result; default: off",
    )
    machine = p.add_argument_group("machine")
    machine.add_argument("--device", help="cuda, cuda:1, cpu, ...; default: a GPU if there is one")
    machine.add_argument(
        "--workers", type=int, help="number of processes that read images; default: one per core, at most 8"
    )
    machine.add_argument(
        "--deterministic", action="store_true", help="bit-identical results on a GPU too; slower there"
    )
    add_released_flags(p)
    return p


def run(args: argparse.Namespace) -> None:
    from ..task import RunData  # torch takes seconds to import, and --help does not need it
    from ..training.run import Hardware, RunFolder, train
    from ..training.speed import Speed

    translate_train_flags(args)
    speed = Speed(args.compile, args.channels_last, args.fused, args.grad_checkpointing, args.cache)
    train(
        Recipe.read(args.config, **read_recipe_flags(args)),
        RunData(
            images=args.train_image_path,
            masks=args.train_mask_path,
            lists=args.data_path,
            index=read_index_flags(args),
            val_images=args.val_image_path,
            val_masks=args.val_mask_path,
            val_lists=args.val_data_path,
            val_fraction=args.val_fraction,
            folds=args.folds,
            fold=args.fold,
            group=args.group,
            on_bad_image=args.on_bad_image,
        ),
        RunFolder(
            folder=args.save_path,
            save=args.save,
            save_minutes=args.save_minutes,
            keep=args.keep,
            resume=args.resume,
            val_every=args.val_every,
            best_metric=args.best_metric,
            tensorboard=args.tensorboard,
            arguments=list_arguments(args, parser()),
        ),
        Hardware(args.device, args.workers, args.deterministic, speed, args.fast),
        weight_paths=read_weight_flags(args),
        init_from=args.init_from,
        study=Study.read(args.config),
    )
