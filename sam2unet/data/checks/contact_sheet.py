"""The contact sheet of a data set: one picture that shows odd pairs first."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from ...atomic import write_atomic
from ...classes import Classes
from ...errors import UserError, printable
from ...recipe import MaskRule
from ...runtime.parallel import map_files
from ..images.class_pictures import draw_class_legend, tint_classes_
from ..images.masks import FOREGROUND, MaskCoding, read_mask
from ..images.reading import open_image, read_image
from ..volumes.slices import Source
from .audit import Audit
from .findings import MaskFacts

SPREAD, ODD, TWINS = 48, 120, 24  # largest number of other pairs, odd pairs and near duplicates on the contact sheet
COLUMNS, WIDTH, HEIGHT, LINE, GAP = 6, 256, 192, 16, 10  # pixels, except COLUMNS, which is even
SHEET = "contact_sheet.png"
INK, RED, PAPER, OUTLINE = (30, 30, 30), (190, 20, 20), (255, 255, 255), (255, 225, 0)


def make_origin_note() -> PngInfo:
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


def write_contact_sheet(path: Path, audit: Audit, rule: MaskRule) -> None:
    with write_atomic(path) as file:
        draw_contact_sheet(audit, rule).save(file, "PNG", pnginfo=make_origin_note())


class SheetTile(NamedTuple):
    """A picture on the contact sheet, with a text below it."""

    image: Source
    mask: Source | None
    text: str
    odd: bool = True


def draw_contact_sheet(audit: Audit, mask_threshold: MaskRule) -> Image.Image:
    """Draws near duplicates side by side, odd pairs, and a selection of the others, from small masks to large ones.

    With `Classes`, a legend of their colours is at the top.
    """
    classes = mask_threshold if isinstance(mask_threshold, Classes) else None
    chosen = choose_tiles(audit, classes)
    sections = {f"{title}: {len(tiles)} of {total}": tiles for title, tiles, total in chosen if tiles}
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
    marks: dict[Source, list[str]] = {}
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
    plain_pairs = (pair for pair in audit.pairs if pair.image not in marks and pair.mask not in marks)
    rest = sorted(plain_pairs, key=lambda pair: audit.masks[pair.mask].foreground)
    spread = [rest[i] for i in np.linspace(0, len(rest) - 1, min(SPREAD, len(rest))).round().astype(int)]
    plain = [SheetTile(p.image, p.mask, describe_mask(audit.masks[p.mask], classes), odd=False) for p in spread]
    return [
        ("pictures of near duplicates", twins, 2 * len(audit.twins)),
        ("odd pairs", [SheetTile(*p, text) for p, text in zip(odd[:ODD], texts, strict=False)], len(odd)),
        (f"other pairs, from the smallest {'foreground' if classes else 'mask'} to the largest", plain, len(rest)),
    ]


def describe_mask(mask: MaskFacts, classes: Classes | None) -> str:
    """Returns the share of the foreground, or the three largest classes with their shares."""
    if classes is None or mask.pixels is None:
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


def shorten_text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Returns the text. If it is wider than a tile, its middle is left out."""
    cut = text = printable(text)
    while font.getlength(cut) > WIDTH:
        keep = (len(cut) - 2) // 2
        cut = f"{text[:keep]}…{text[-keep:]}"
    return cut
