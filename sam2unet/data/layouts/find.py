"""Finds known data sets in a listing, and compares them with the published counts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from re import Pattern
from typing import NamedTuple

from ...errors import shortlist
from ..pairs import find_duplicates
from .listing import ListedFolder, Listing, list_folders
from .table import COUNTS, LAYOUTS, OTHER_SPLITS, VARYING, Layout, to_expression

PUBLISHED, OTHER_COUNT, WRONG_SPLIT, UNUSABLE = range(4)  # from the best to the worst


@dataclass(frozen=True)
class DataCopy:
    """A copy of a data set in the downloads. `rank` says how well it fits, and `verdict` says it in words."""

    name: str  # as in configs/, or `?`
    images: ListedFolder
    masks: ListedFolder | None
    pairs: tuple[tuple[str, str], ...]  # file names of image and mask
    rank: int
    verdict: str

    def location(self, root: Path = Path("/")) -> str:
        """Returns the folders relative to `root`, for example `CAMO/{Images/Train,GT}`."""
        folders = [folder.path.relative_to(root).parts for folder in (self.images, self.masks) if folder]
        common = 0
        while all(common < len(parts) - 1 and parts[common] == folders[0][common] for parts in folders):
            common += 1
        ends = ["/".join(parts[common:]) for parts in folders]
        return "/".join((*folders[0][:common], f"{{{','.join(ends)}}}" if len(ends) > 1 else ends[0]))


class Expressions(NamedTuple):
    """The expressions of a layout for the keys of its folders."""

    layout: Layout
    images: Pattern[str]
    masks: Pattern[str]


def compile_layouts(layouts: Iterable[Layout] = LAYOUTS) -> list[Expressions]:
    return [
        Expressions(layout, *(to_expression("/".join(filter(None, (layout.folder, last)))) for last in layout[2:4]))
        for layout in layouts
    ]


def find_copies(downloads: Path, without: Path | None = None) -> tuple[list[DataCopy], list[str]]:
    """Returns all copies of known data sets below a folder, or in a ZIP file, sorted, and notes for the user.

    `downloads` is an absolute path. `without` is a folder that is not searched. Raises UserError if `downloads` cannot
    be read.
    """
    rows = compile_layouts()
    # The same layouts without the name of the data set in the path
    layouts = (row._replace(folder=row.folder.partition("**")[2].strip("/")) for row in LAYOUTS if "**" in row.folder)
    rows_without_name = compile_layouts(layouts)

    def is_wanted(key: str) -> bool:
        return any(row.images.fullmatch(key) or row.masks.fullmatch(key) for row in (*rows, *rows_without_name))

    listing = list_folders(downloads, is_wanted, without)
    copies: list[DataCopy] = []
    for folder in listing.folders:
        copies += find_by_name(folder, rows, listing) or find_by_count(folder, rows_without_name, listing)
    order = [*COUNTS, "?"]
    return sorted(copies, key=lambda copy: order.index(copy.name)), listing.notes


def find_by_name(images: ListedFolder, rows: Sequence[Expressions], listing: Listing) -> list[DataCopy]:
    """Returns the copies whose image folder is `images`, by the name of the data set in the path."""
    matches = [(row, match.end("above")) for row in rows if (match := row.images.fullmatch(images.key))]
    nearest = max((above for _, above in matches), default=0)  # of several names in a path, the last one counts
    copies: dict[tuple, DataCopy] = {}
    for row, above in matches:
        for masks in find_mask_folders(images, row, listing) if above == nearest else ():
            copies.setdefault((row.layout.name, masks.path), judge_copy(row.layout, images, masks, listing))
    if matches and not copies:
        name = matches[0][0].layout.name
        return [DataCopy(name, images, None, (), UNUSABLE, "no mask folder beside it")]
    # Several data sets can be in one folder. The rule for stems may leave nothing of one of them.
    return [copy for copy in copies.values() if copy.pairs] or [*copies.values()][:1]


def find_by_count(images: ListedFolder, rows: Sequence[Expressions], listing: Listing) -> Iterator[DataCopy]:
    """Yields the copies whose image folder is `images`, by the published count. The path does not name the set."""
    others: dict[Path, list[DataCopy]] = {}
    for row in rows:
        if row.images.fullmatch(images.key):
            for masks in find_mask_folders(images, row, listing):
                copy = judge_copy(row.layout, images, masks, listing)
                if copy.rank == PUBLISHED:
                    yield replace(copy, verdict=f"{copy.verdict}; recognised by its count")
                    return
                others.setdefault(masks.path, []).append(copy)
    for copies in others.values():
        names = " or ".join(dict.fromkeys(copy.name.removesuffix("-train") for copy in copies))
        verdict = f"unknown set; put it into a folder named {names}"
        yield replace(max(copies, key=lambda copy: len(copy.pairs)), name="?", rank=UNUSABLE, verdict=verdict)


def find_mask_folders(images: ListedFolder, row: Expressions, listing: Listing) -> list[ListedFolder]:
    """Returns the nearest mask folder. If several are equally near, returns all of them.

    If the layout names the folder that contains both, it must be the same folder.
    """
    image_match = row.images.fullmatch(images.key)
    assert image_match is not None

    def fits(masks: ListedFolder) -> bool:
        match = row.masks.fullmatch(masks.key)
        if match is None or masks is images:
            return False
        return not row.layout.folder or match["above"] == image_match["above"]

    def nearness(masks: ListedFolder) -> tuple[int, bool]:
        parts = zip(images.key.split("/"), masks.key.split("/"), strict=False)
        common = next((i for i, (a, b) in enumerate(parts) if a != b), len(images.key))
        return common, masks.archive == images.archive

    folders = list(filter(fits, listing.folders))
    nearest = max(map(nearness, folders), default=None)
    return [folder for folder in folders if nearness(folder) == nearest]


def judge_copy(layout: Layout, images: ListedFolder, masks: ListedFolder, listing: Listing) -> DataCopy:
    """Pairs the files by stem, and compares their number with the published one."""
    stems, notes = [], []
    for folder in (images, masks):
        names, duplicates = find_duplicates((PurePath(name).stem, PurePath(name)) for name in sorted(folder.files))
        stems.append(names)
        if duplicates:
            verdict = f"files with the same stem: {shortlist(duplicates, 2)}"
            return DataCopy(layout.name, images, masks, (), UNUSABLE, verdict)
    kept = [stem for stem in stems[0] if fits_rule(stem, layout.stems)]
    pairs = [stem for stem in kept if stem in stems[1]]
    stem_list = find_stem_list(images, layout.stems, listing)
    if pairs_in_list := [stem for stem in pairs if stem in stem_list]:
        if len(pairs_in_list) in COUNTS[layout.name] or len(pairs) not in COUNTS[layout.name]:
            kept, pairs = [stem for stem in kept if stem in stem_list], pairs_in_list
    if len(kept) < len(stems[0]):
        rule = layout.stems.replace("!", "not ")
        notes.append(f"{len(kept):,} of {len(stems[0]):,} images by the rule {rule}")
    if len(kept) > len(pairs):
        notes.append(f"{len(kept) - len(pairs)} images have no mask")
    rank, verdict = judge_count(layout, len(pairs))
    if any(stems[1][stem].suffix.lower() in (".jpg", ".jpeg") for stem in pairs):
        notes.append("masks are JPEG and will be thresholded at 128")
    files = tuple((stems[0][stem].name, stems[1][stem].name) for stem in pairs)
    return DataCopy(layout.name, images, masks, files, rank, "; ".join((verdict, *notes)))


def fits_rule(stem: str, rule: str) -> bool:
    if rule.endswith(".txt"):
        return True
    return fnmatchcase(stem.casefold(), rule.removeprefix("!").casefold()) is not rule.startswith("!")


def find_stem_list(images: ListedFolder, name: str, listing: Listing) -> frozenset[str]:
    """Returns the stems of the list `name` beside the image folder or one folder above. Empty: there is no list."""
    above = images.key.rpartition("/")[0]
    keys = (f"{folder}/{name}" for folder in (above, above.rpartition("/")[0]))
    return next((listing.stem_lists[key] for key in keys if key in listing.stem_lists), frozenset())


def judge_count(layout: Layout, count: int) -> tuple[int, str]:
    """Returns the rank and the verdict for a number of pairs."""
    if count in COUNTS[layout.name]:
        return PUBLISHED, "ok"
    if not count:
        return UNUSABLE, "no image has a mask with its stem"
    base = layout.name.removesuffix("-train")
    both = sum(COUNTS.get(name, (0,))[0] for name in (base, f"{base}-train"))
    words = OTHER_SPLITS.get(layout.name, {}).get(count)
    if words is None and count == both:
        words = "training and test images together"
    if words is None and layout.name in VARYING:
        return OTHER_COUNT, "warning: another count; it differs between sources"
    return WRONG_SPLIT, f"not the split of the papers: {words or 'another split or an incomplete copy'}"


def choose_copies(copies: Sequence[DataCopy], anyway: bool = False) -> tuple[dict[str, DataCopy], list[DataCopy]]:
    """Chooses one copy of each data set. Returns it by name, and all copies with their final verdicts.

    Copies that differ exclude each other. `anyway` also accepts another split if there is no copy of the right one.
    """
    choice, results = {}, []
    for copy in copies:
        rivals = [other for other in copies if other.name == copy.name]
        best = min(other.rank for other in rivals)
        rivals = [other for other in rivals if other.rank == best]
        if copy.rank > best:
            results.append(copy)
        elif best > (WRONG_SPLIT if anyway else OTHER_COUNT):
            results.append(replace(copy, verdict=f"{copy.verdict}; not used"))
        elif len(rivals) > 1 and not have_equal_files(rivals):
            results.append(replace(copy, verdict="not used: these copies differ; give the folder of one as DOWNLOADS"))
        elif copy.name in choice:
            results.append(replace(copy, verdict="not needed: same names and sizes as above"))
        else:
            choice[copy.name] = copy
            results.append(copy if best < WRONG_SPLIT else replace(copy, verdict=f"{copy.verdict}; used anyway"))
    return choice, results


def have_equal_files(copies: Sequence[DataCopy]) -> bool:
    """Returns whether the copies have the same stems with the same numbers of bytes."""

    def describe_files(copy: DataCopy) -> dict[str, tuple[int, int]]:
        masks = copy.masks
        return {PurePath(i).stem: (copy.images.size(i), masks.size(m)) for i, m in copy.pairs} if masks else {}

    first, *others = copies
    files = describe_files(first)
    return all(describe_files(other) == files for other in others)
