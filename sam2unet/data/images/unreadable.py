"""Says in words why a file cannot be read as an image."""

from pathlib import Path

from ...atomic import read_start
from ...errors import UserError
from ..archives.member import Member
from ..pairs import EXTENSIONS
from ..volumes.open import is_volume, open_volume
from ..volumes.slices import Slice, Source, find_file

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # the content counts, not the name; Pillow has many more decoders
OTHERS = {
    "GIF": (0, b"GIF8"),
    "HEIC or AVIF": (4, b"ftyp"),
    "DICOM": (128, b"DICM"),
    "PDF": (0, b"%PDF"),
    "EPS": (0, b"%!PS"),
}


def explain_unreadable(path: Source) -> str:
    """Returns the message for a file that cannot be read. The start of the file counts first, then its name."""
    if isinstance(path, Slice) and path.index is not None:
        return f"cannot read {path}: damaged; replace or remove {path.volume.name}"
    if isinstance(path, Member):
        return f"cannot read {path}: not an image or damaged; replace the archive"
    if isinstance(path, Path) and is_volume(path):
        try:
            open_volume(path)
        except UserError as e:
            return str(e)
        return f"{path} is a volume; wanted an image; train.py, test.py and eval.py take folders of volumes"
    wanted = f"wanted {', '.join(FORMATS)}"
    path = find_file(path)
    start = read_start(path, 132)
    if kind := next((kind for kind, (offset, mark) in OTHERS.items() if start[offset:].startswith(mark)), None):
        return f"{path} is {kind}; {wanted}; convert it"
    if path.suffix.lower() not in EXTENSIONS:
        kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix or "such"
        return f"cannot read {path}: {kind} files are not images here; {wanted}; convert it"
    return f"cannot read {path}: not an image or damaged; replace or remove it"
