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

from sam2unet.atomic import make_folder, write_atomic
from sam2unet.cli import Parser, add_mask_values, main
from sam2unet.data.audit import Audit, audit_folders
from sam2unet.data.findings import PROBLEM, WARNING
from sam2unet.data.reading import FOREGROUND, MaskCoding, open_image, read_image, read_mask
from sam2unet.errors import UserError, print_line, printable
from sam2unet.recipe import ForegroundRule, make_foreground_rule
from sam2unet.runtime.parallel import map_files

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
        "--save_path", type=Path, metavar="DIR", help="folder for contact_sheet.png, which shows odd pairs first"
    )
    return p


def run(args: argparse.Namespace) -> None:
    if args.save_path is not None:
        if args.save_path.resolve() in {folder.resolve() for folder in (args.images, args.masks, args.other) if folder}:
            raise UserError(f"--save_path {args.save_path} is a folder of inputs; give another folder")
        make_folder(args.save_path)
        refuse_other_picture(args.save_path / SHEET)
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    audit = audit_folders(args.images, args.masks, args.other, rule)
    for finding in audit.findings:
        print_line(f"{finding.level:<9}{finding.title:<17}{finding.text}")
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


def contact_sheet(audit: Audit, mask_threshold: ForegroundRule) -> Image.Image:
    """Draws near duplicates side by side, odd pairs, and a selection of the others, from small masks to large ones."""
    sections = {f"{title}: {len(tiles)} of {total}": tiles for title, tiles, total in choose_tiles(audit) if tiles}
    rows = [LINE * 2 + (HEIGHT + 2 * LINE + GAP) * -(-len(tiles) // COLUMNS) for tiles in sections.values()]
    sheet = Image.new("RGB", (GAP + (WIDTH + GAP) * COLUMNS, GAP + sum(rows)), PAPER)
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(15)
    top = GAP
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


def choose_tiles(audit: Audit) -> list[tuple[str, list[SheetTile], int]]:
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
    plain = [SheetTile(*pair, f"foreground {audit.masks[pair.mask].foreground:.1%}", odd=False) for pair in spread]
    return [
        ("pictures of near duplicates", twins, 2 * len(audit.twins)),
        ("odd pairs", [SheetTile(*pair, text) for pair, text in zip(odd[:ODD], texts, strict=False)], len(odd)),
        ("other pairs, from the smallest mask to the largest", plain, len(rest)),
    ]


def draw_tile(tile: SheetTile, mask_threshold: ForegroundRule) -> Image.Image:
    """Draws the image with the outline of its mask, at most WIDTH x HEIGHT. An image that cannot be read is grey."""
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
