"""Checks a data set before training: reads every file and lists everything that is wrong or unusual.

Exit status: 0 if you can train on it, even with warnings; 1 if training would be wrong; 2 for wrong arguments.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from sam2unet.atomic import make_folder, refuse_existing, write_atomic
from sam2unet.classes import Classes
from sam2unet.cli import Parser, add_mask_values, add_recipe_flags, main
from sam2unet.data.audit import Audit, audit_folders, find_classes
from sam2unet.data.class_pictures import draw_class_legend, tint_classes_
from sam2unet.data.findings import PROBLEM, WARNING, MaskFacts, describe_shares
from sam2unet.data.reading import FOREGROUND, MaskCoding, open_image, read_image, read_mask
from sam2unet.errors import UserError, print_line, printable
from sam2unet.recipe import MaskRule, make_foreground_rule
from sam2unet.runtime.parallel import map_files
from sam2unet.slice_view import SliceView

SPREAD, ODD, TWINS = 48, 120, 24  # largest number of other pairs, odd pairs and near duplicates on the contact sheet
COLUMNS, WIDTH, HEIGHT, LINE, GAP = (
    6,
    256,
    192,
    16,
    10,
)  # pixels, except COLUMNS (even)
SHEET = "contact_sheet.png"
INK, RED, PAPER, OUTLINE = (30, 30, 30), (190, 20, 20), (255, 255, 255), (255, 225, 0)


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images to train on")
    p.add_argument("masks", type=Path, metavar="MASKS", help="folder of their masks")
    p.add_argument(
        "--other", type=Path, metavar="TEST_IMAGES", help="folder of test images, which should not occur in IMAGES"
    )
    add_mask_values(p)
    p.add_argument(
        "--classes", metavar="FILE|auto", help="YAML file with the classes of the masks; auto: find them in the masks"
    )
    add_recipe_flags(p, "volumes")
    p.add_argument("--write_classes", type=Path, metavar="FILE", help="with --classes auto: new file for the classes")
    p.add_argument(
        "--save_path", type=Path, metavar="DIR", help="folder for contact_sheet.png, which shows odd pairs first"
    )
    return p


def run(args: argparse.Namespace) -> None:
    if args.save_path is not None:
        if args.save_path.resolve() in {folder.resolve() for folder in (args.images, args.masks, args.other) if folder}:
            raise UserError(f"--save_path {args.save_path} is a folder of inputs; give another folder")
        make_folder(args.save_path)
        refuse_other_picture(args.save_path / SHEET)
    rule = choose_rule(args)
    view = SliceView(args.axis, args.window, args.context or 0)
    audit = audit_folders(args.images, args.masks, args.other, rule, view)
    for finding in audit.findings:
        print_line(f"{finding.level:<9}{finding.title:<17}{finding.text}")
    if args.write_classes:
        write_classes(args.write_classes, rule, audit, args.masks)
        print_line(f"{'':<9}{'classes file':<17}{args.write_classes}: change the names in it")
    if args.save_path is not None:
        with write_atomic(args.save_path / SHEET) as file:
            contact_sheet(audit, rule).save(file, "PNG", pnginfo=origin_note())
        print_line(f"{'':<9}{'contact sheet':<17}{args.save_path / SHEET}")
    problems, warnings = audit.count(PROBLEM), audit.count(WARNING)
    print_line()
    print_line(
        f"problems {problems}, warnings {warnings}: {'do not train on this yet' if problems else 'fit to train on'}"
    )
    if problems:
        sys.exit(1)


def choose_rule(args: argparse.Namespace) -> MaskRule:
    """Returns what the values of the masks mean. Raises UserError for flags that do not go together."""
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    if args.classes is not None and rule is not None:
        raise UserError("--classes and --mask_threshold or --foreground both say what mask values mean; give one")
    if args.write_classes:
        if args.classes != "auto":
            raise UserError("--write_classes writes the classes that --classes auto finds; give both")
        refuse_existing(args.write_classes)
        if not args.write_classes.parent.is_dir():
            raise UserError(f"no such folder: {args.write_classes.parent}; make it, or give another --write_classes")
    if args.classes is None:
        return rule
    return find_classes(args.masks) if args.classes == "auto" else Classes.read(Path(args.classes))


def write_classes(path: Path, classes: Classes, audit: Audit, mask_folder: Path) -> None:
    """Writes the classes, each with its share of the pixels and its number of masks in a comment."""
    shares = describe_shares(audit.masks.values()) if audit.masks else []
    lines = classes.to_yaml().splitlines()
    notes = [f"in {mask_folder}; change the names; the first class is the background", *map(str.strip, shares)]
    lines = [f"{line}  # {printable(note)}" for line, note in zip(lines, notes, strict=False)]
    with write_atomic(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def origin_note() -> PngInfo:
    """Returns a note for the PNG file. It tells the next call that it may replace the file."""
    info = PngInfo()
    info.add_text("Software", "sam2unet")
    return info


def refuse_other_picture(path: Path) -> None:
    """UserError if the file exists and is not a contact sheet."""
    if path.exists():
        with open_image(path) as image:
            if image.info.get("Software") != "sam2unet":
                raise UserError(f"{path} was not made by this script and is not overwritten; give another --save_path")


class SheetTile(NamedTuple):
    """A picture on the contact sheet, with a text below it."""

    image: Path
    mask: Path | None
    text: str
    odd: bool = True


def contact_sheet(audit: Audit, mask_threshold: MaskRule) -> Image.Image:
    """Draws near duplicates side by side, odd pairs, and a selection of the others, from small masks to large ones.

    With `Classes`, a legend of their colours is at the top.
    """
    classes = mask_threshold if isinstance(mask_threshold, Classes) else None
    sections = choose_tiles(audit, classes)
    sections = {f"{title}: {len(tiles)} of {total}": tiles for title, tiles, total in sections if tiles}
    width = GAP + (WIDTH + GAP) * COLUMNS
    legend = draw_class_legend(classes, width) if classes else np.empty((0, width, 3), np.uint8)
    rows = [LINE * 2 + (HEIGHT + 2 * LINE + GAP) * -(-len(tiles) // COLUMNS) for tiles in sections.values()]
    sheet = Image.new("RGB", (width, len(legend) + GAP + sum(rows)), PAPER)
    sheet.paste(Image.fromarray(legend))
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(15)
    top = len(legend) + GAP
    for (title, tiles), height in zip(sections.items(), rows, strict=True):
        draw.text((GAP, top), title, INK, bold)
        pictures = map_files(partial(draw_tile, mask_threshold=mask_threshold), tiles)
        for number, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
            x = GAP + number % COLUMNS * (WIDTH + GAP)
            y = top + LINE * 2 + number // COLUMNS * (HEIGHT + 2 * LINE + GAP)
            sheet.paste(picture, (x, y + HEIGHT - picture.height))
            draw.text((x, y + HEIGHT + 1), shorten_text(tile.image.name, font), INK, font)
            draw.text((x, y + HEIGHT + LINE), shorten_text(tile.text, font), RED if tile.odd else INK, font)
        top += height
    return sheet


def choose_tiles(audit: Audit, classes: Classes | None = None) -> list[tuple[str, list[SheetTile], int]]:
    """Returns for each section its title, its tiles, and the number of tiles that it would have without a limit."""
    marks: dict[Path, list[str]] = {}
    for finding in audit.findings:
        for path, mark in finding.marks.items():
            marks.setdefault(path, []).append(mark)
    masks = dict(audit.pairs)
    twins = []
    for other, image, distance in audit.twins[:TWINS]:
        twins.append(SheetTile(image, masks.get(image), "this set"))
        twins.append(SheetTile(other, None, f"other set, {distance} bits differ"))
    odd = [pair for pair in audit.pairs if pair.image in marks or pair.mask in marks]
    texts = [", ".join(marks.get(pair.mask, []) + marks.get(pair.image, [])) for pair in odd]
    rest = sorted(set(audit.pairs) - set(odd), key=lambda pair: (audit.masks[pair.mask].foreground, pair))
    spread = [rest[i] for i in np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)]
    plain = [SheetTile(*pair, describe_mask(audit.masks[pair.mask], classes), odd=False) for pair in spread]
    return [
        ("pictures of near duplicates", twins, 2 * len(audit.twins)),
        ("odd pairs", [SheetTile(*pair, text) for pair, text in zip(odd[:ODD], texts, strict=False)], len(odd)),
        (f"other pairs, from the smallest {'foreground' if classes else 'mask'} to the largest", plain, len(rest)),
    ]


def describe_mask(mask: MaskFacts, classes: Classes | None) -> str:
    """Returns the share of the foreground, or the three largest classes with their shares."""
    if classes is None:
        return f"foreground {mask.foreground:.1%}"
    shares = mask.pixels / mask.pixels.sum()
    largest = [index for index in np.argsort(-shares[:-1], kind="stable")[:3] if shares[index]]
    return ", ".join(f"{classes.names[index]} {shares[index]:.0%}" for index in largest)


def draw_tile(tile: SheetTile, mask_threshold: MaskRule) -> Image.Image:
    """Draws the image, at most WIDTH x HEIGHT, with the outline of its mask or in the colours of its classes.

    An image that cannot be read is grey.
    """
    try:
        picture = read_image(tile.image)
    except UserError:
        return Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 200))
    picture.thumbnail((WIDTH, HEIGHT))
    if tile.mask is None:
        return picture
    try:
        try:
            mask = read_mask(tile.mask, mask_threshold)
        except MaskCoding:
            mask = read_mask(tile.mask, 0)  # the most likely meaning
    except UserError:
        return picture
    if isinstance(mask_threshold, Classes):
        indices = np.asarray(mask.resize(picture.size, Image.Resampling.NEAREST))
        return Image.fromarray(tint_classes_(np.array(picture), indices, mask_threshold))
    # A pixel of the picture is inside if any of its mask pixels is foreground, that is, if their average is not 0.
    inside = mask.point(lambda grey: 255 * (grey > FOREGROUND)).resize(picture.size, Image.Resampling.BOX)
    inside = ImageOps.expand(inside.point(lambda grey: 255 * (grey > 0)), 2)  # for an outline along the border
    border = (2, 2, 2 + picture.width, 2 + picture.height)
    wider, narrower = inside.filter(ImageFilter.MaxFilter(3)), inside.filter(ImageFilter.MinFilter(3))
    # A dark line around a bright one is visible on every background.
    for colour, outer, inner in ((INK, wider, inside), (OUTLINE, inside, narrower)):
        picture.paste(colour, mask=ImageChops.subtract(outer, inner).crop(border))
    return picture


def shorten_text(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Returns the text. If it is wider than a tile, its middle is left out."""
    cut = text = printable(text)
    while font.getlength(cut) > WIDTH:
        keep = (len(cut) - 2) // 2
        cut = f"{text[:keep]}…{text[-keep:]}"
    return cut


if __name__ == "__main__":
    main(parser, run)
