"""Look at a data set before training on it: every file is read, and all that is wrong or odd with it is listed.

Exit status: 0 if it can be trained on, whatever the warnings, 1 if that would be wrong, 2 on bad arguments.
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
from sam2unet.data.audit import PROBLEM, WARNING, Inspection, audit_folders
from sam2unet.data.reading import FOREGROUND, MaskCoding, open_image, read_image, read_mask
from sam2unet.errors import UserError, print_line, printable
from sam2unet.recipe import ForegroundRule, make_foreground_rule
from sam2unet.runtime.parallel import map_files

SPREAD, ODD, TWINS = 48, 120, 24  # pairs that the contact sheet shows at most: of all, of odd ones, of near duplicates
COLUMNS, WIDTH, HEIGHT, LINE, GAP = 6, 256, 192, 16, 10  # pixels, but for COLUMNS, an even number: twins stand together
SHEET = "contact_sheet.png"
INK, RED, PAPER, OUTLINE = (30, 30, 30), (190, 20, 20), (255, 255, 255), (255, 225, 0)


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images to train on")
    p.add_argument("masks", type=Path, metavar="MASKS", help="folder of their masks")
    p.add_argument("--other", type=Path, metavar="TEST_IMAGES", help="test images, none of which should be in IMAGES")
    add_mask_values(p)
    p.add_argument("--save_path", type=Path, metavar="DIR", help="gets contact_sheet.png, odd pairs first")
    return p


def run(args: argparse.Namespace) -> None:
    if args.save_path is not None:
        if args.save_path.resolve() in {folder.resolve() for folder in (args.images, args.masks, args.other) if folder}:
            raise UserError(f"--save_path {args.save_path} is a folder of inputs; give another")
        make_folder(args.save_path)
        refuse_other_picture(args.save_path / SHEET)
    rule = make_foreground_rule(args.mask_threshold, args.foreground)
    found = audit_folders(args.images, args.masks, args.other, rule)
    for finding in found.findings:
        print_line(f"{finding.level:<9}{finding.title:<17}{finding.text}")
    if args.save_path is not None:
        with write_atomic(args.save_path / SHEET) as file:
            contact_sheet(found, rule).save(file, "PNG", pnginfo=made_here())
        print_line(f"{'':<9}{'contact sheet':<17}{args.save_path / SHEET}")
    problems, warnings = found.count(PROBLEM), found.count(WARNING)
    print_line()
    print_line(
        f"problems {problems}, warnings {warnings}: {'do not train on this yet' if problems else 'fit to train on'}"
    )
    if problems:
        sys.exit(1)


def made_here() -> PngInfo:
    """A note in the file, by which the next call knows that it may replace it."""
    info = PngInfo()
    info.add_text("Software", "sam2unet")
    return info


def refuse_other_picture(path: Path) -> None:
    """UserError if a contact sheet would overwrite a picture that is none."""
    if path.exists():
        with open_image(path) as image:
            if image.info.get("Software") != "sam2unet":
                raise UserError(f"{path} is not of this script and is not overwritten; give another --save_path")


class Tile(NamedTuple):
    image: Path
    mask: Path | None
    words: str
    odd: bool = True


def contact_sheet(found: Inspection, mask_threshold: ForegroundRule) -> Image.Image:
    """Near duplicates side by side, odd pairs, then a spread of the others from the smallest mask to the largest."""
    sections = {f"{title}: {len(tiles)} of {total}": tiles for title, tiles, total in chosen(found) if tiles}
    rows = [LINE * 2 + (HEIGHT + 2 * LINE + GAP) * -(-len(tiles) // COLUMNS) for tiles in sections.values()]
    sheet = Image.new("RGB", (GAP + (WIDTH + GAP) * COLUMNS, GAP + sum(rows)), PAPER)
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(15)
    top = GAP
    for (title, tiles), height in zip(sections.items(), rows, strict=True):
        draw.text((GAP, top), title, INK, bold)
        pictures = map_files(partial(picture_of, mask_threshold=mask_threshold), tiles)
        for number, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
            x = GAP + number % COLUMNS * (WIDTH + GAP)
            y = top + LINE * 2 + number // COLUMNS * (HEIGHT + 2 * LINE + GAP)
            sheet.paste(picture, (x, y + HEIGHT - picture.height))
            draw.text((x, y + HEIGHT + 1), fitting(tile.image.name, font), INK, font)
            draw.text((x, y + HEIGHT + LINE), fitting(tile.words, font), RED if tile.odd else INK, font)
        top += height
    return sheet


def chosen(found: Inspection) -> list[tuple[str, list[Tile], int]]:
    """Title of a section, its tiles, and of how many they are."""
    marks: dict[Path, list[str]] = {}
    for finding in found.findings:
        for path, words in finding.marks.items():
            marks.setdefault(path, []).append(words)
    mask_of = dict(found.pairs)
    twins = []
    for other, image, distance in found.twins[:TWINS]:
        twins += [Tile(image, mask_of.get(image), "this set"), Tile(other, None, f"other set, {distance} bits differ")]
    odd = [pair for pair in found.pairs if pair.image in marks or pair.mask in marks]
    words = [", ".join(marks.get(pair.mask, []) + marks.get(pair.image, [])) for pair in odd]
    rest = sorted(set(found.pairs) - set(odd), key=lambda pair: (found.masks[pair.mask].foreground, pair))
    spread = [rest[i] for i in np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)]
    plain = [Tile(*pair, f"foreground {found.masks[pair.mask].foreground:.1%}", odd=False) for pair in spread]
    return [
        ("pictures of near duplicates", twins, 2 * len(found.twins)),
        ("odd pairs", [Tile(*pair, said) for pair, said in zip(odd[:ODD], words, strict=False)], len(odd)),
        ("other pairs, from the smallest mask to the largest", plain, len(rest)),
    ]


def picture_of(tile: Tile, mask_threshold: ForegroundRule) -> Image.Image:
    """At most WIDTH x HEIGHT, with the mask's outline; grey where the image cannot be read."""
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
            mask = read_mask(tile.mask, 0)  # what it most likely means
    except UserError:
        return picture
    # Averaged and not zero: a pixel of the picture is inside where any of the mask's that it stands for is.
    inside = mask.point(lambda grey: 255 * (grey > FOREGROUND)).resize(picture.size, Image.Resampling.BOX)
    inside = ImageOps.expand(inside.point(lambda grey: 255 * (grey > 0)), 2)  # an outline also along the border
    border = (2, 2, 2 + picture.width, 2 + picture.height)
    wider, narrower = inside.filter(ImageFilter.MaxFilter(3)), inside.filter(ImageFilter.MinFilter(3))
    # Dark around bright, to be seen on any ground.
    for colour, outer, inner in ((INK, wider, inside), (OUTLINE, inside, narrower)):
        picture.paste(colour, mask=ImageChops.subtract(outer, inner).crop(border))
    return picture


def fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text, its middle left out where it is wider than a tile."""
    cut = text = printable(text)
    while font.getlength(cut) > WIDTH:
        keep = (len(cut) - 2) // 2
        cut = f"{text[:keep]}…{text[-keep:]}"
    return cut


if __name__ == "__main__":
    main(parser, run)
