"""Converts annotations between masks and the formats of other tools, and results of test.py to these formats.

SOURCE is a file (coco, cvat, label_studio) or a folder (all others). docs/annotations.md describes the formats.
"""

import argparse
from pathlib import Path

from ..classes import Classes
from ..cli import Parser, add_mask_values
from ..data.pairs import list_images
from ..errors import UserError
from ..recipe import make_foreground_rule

FORMATS = ("masks", "classes", "objects", "coco", "labelme", "yolo", "cvat", "label_studio", "voc", "isat")


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = (*FORMATS, "predictions")
    p.add_argument("source", type=Path, metavar="SOURCE", help="the annotations to read")
    p.add_argument("--from", dest="source_format", required=True, choices=sources, help="format of SOURCE")
    p.add_argument("--to", dest="target_format", required=True, choices=FORMATS, help="format to write")
    p.add_argument("--save_path", type=Path, required=True, metavar="DIR", help="a new folder for the annotations")
    p.add_argument("--images", type=Path, metavar="DIR", help="the images; their names and sizes are checked")
    p.add_argument("--empty", choices=("keep", "skip"), default="keep", help="images without objects; default: keep")
    add_reading_flags(p.add_argument_group("objects to read"))
    add_writing_flags(p.add_argument_group("objects to write"))
    return p


def add_reading_flags(group: argparse._ArgumentGroup) -> None:
    words = "YAML file with the classes; objects of other classes are left out"
    group.add_argument("--classes", type=Path, metavar="FILE", help=words)
    words = "class of the objects if SOURCE has no classes; default: object"
    group.add_argument("--class_name", default="object", metavar="NAME", help=words)
    words = "what is an object in masks and maps: a connected region (default), or all pixels of a class"
    group.add_argument("--objects", choices=("regions", "classes"), default="regions", help=words)
    words = "a pixel with a predicted probability above X belongs to an object; default: 0.5"
    group.add_argument("--threshold", type=float, default=0.5, metavar="X", help=words)
    add_mask_values(group)


def add_writing_flags(group: argparse._ArgumentGroup) -> None:
    words = "polygons can be edited (default); masks are exact; uncompressed are exact lists of numbers, for coco"
    group.add_argument("--shapes", choices=("polygons", "masks", "uncompressed"), default="polygons", help=words)
    words = "polygons are simplified by X pixels, if the IoU stays above 0.98; 0 is exact; default: 1"
    group.add_argument("--tolerance", type=float, default=1.0, metavar="X", help=words)
    words = "the list of SAM-Med2D that --to objects writes; default: train"
    group.add_argument("--part", choices=("train", "test"), default="train", help=words)
    root = "/data/local-files/?d="
    words = f"what label_studio puts before the names of images; default: {root}"
    group.add_argument("--image_root", default=root, metavar="URL", help=words)


def run(args: argparse.Namespace) -> None:
    try:
        from ..annotations import formats
        from ..annotations.conversion import ClassNames, Conversion, ConvertOptions
    except ModuleNotFoundError as e:
        if e.name not in ("pycocotools", "defusedxml"):
            raise
        raise UserError(f'annotations need the package {e.name}: pip install "sam2unet[annotations]"') from e
    if not 0 <= args.threshold <= 1 or not 0 <= args.tolerance <= 100:
        raise UserError("--threshold must be from 0 to 1, and --tolerance from 0 to 100")
    options = ConvertOptions(
        shapes=args.shapes,
        tolerance=args.tolerance,
        split_regions=args.objects == "regions",
        keep_empty=args.empty == "keep",
        class_name=args.class_name,
        rule=make_foreground_rule(args.mask_threshold, args.foreground),
        threshold=args.threshold,
        part=args.part,
        image_root=args.image_root,
    )
    names = ClassNames(Classes.read(args.classes) if args.classes else None)
    images = list_images(args.images) if args.images else {}
    formats.run(args.source, args.source_format, args.save_path, args.target_format, Conversion(options, images, names))
