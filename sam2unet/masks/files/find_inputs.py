"""Finds the inputs of a prediction: a folder, a tree of folders, a file, a list of files or a pattern."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...data.packed import Mapped, find_positions, hash_all, pack_texts, sort_paths
from ...data.pairs import EXTENSIONS, explain_no_folder
from ...data.volumes.open import VOLUMES, is_volume
from ...errors import UserError, shortlist, warn
from ...slice_view import DEFAULT_VIEW, SliceView
from .inputs import Inputs, is_picture

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".3gp", ".gif")
IMAGES = (*EXTENSIONS, *VOLUMES, "/")  # the ends of names of images; a slash ends the name of a folder
CHECKED_LINES = 20_000  # lines of a list of files that are checked before the prediction starts


def find_inputs(source: Path, recursive: bool = False, view: SliceView = DEFAULT_VIEW) -> Inputs:
    """Returns the images of `source`, sorted. Each slice of a volume is an image. Videos are left out, with a warning.

    `source` is a folder, an image, a volume, a text file with a path per line, relative to the text file, or a pattern
    with `*`. Raises UserError if it does not exist or has no image, or if two maps would have the same name.
    """
    videos: list[str] = []
    root = source if source.is_dir() and not is_volume(source) else None
    if root:
        texts = (text for text in walk_files(source, recursive) if is_image_name(text) or note_video(text, videos))
        where = "folders inside are not searched; --recursive does" if not recursive else "nor in the folders inside"
        nothing = f"no images in {source} (looked for {', '.join(EXTENSIONS)}; {where})"
    elif source.suffix.lower() == ".txt" and source.is_file():
        texts, nothing = (mark_folder(path) for path in read_lines(source)), f"{source} lists no files"
    elif source.is_file() or source.is_dir():
        texts, nothing = (mark_folder(path) for path in [source]), ""
    elif glob.has_magic(str(source)):
        paths = map(Path, glob.iglob(str(source), recursive=True))
        texts, nothing = (mark_folder(path) for path in paths if is_image(path)), f"no images match {source}"
    else:
        raise UserError(f"no such folder: {source}" if not source.suffix else f"no such file or folder: {source}")
    packed = pack_texts(texts)
    if not len(packed):
        raise UserError(f"{nothing}; give each video by itself: {shortlist(sorted(videos))}" if videos else nothing)
    if videos:
        names = shortlist(sorted(videos))
        warn(f"{len(videos)} videos in {source} are left out, give each by itself: {names}")
    inputs = Inputs(packed, sort_paths(packed.content, packed.ends), root, view)
    refuse_equal_names(inputs, source)
    return inputs


def refuse_equal_names(inputs: Inputs, source: Path) -> None:
    """Raises UserError if two files have the same name without extension."""
    hashes = hash_all(inputs.list_names())
    first = find_positions(hashes, hashes)
    repeated = np.flatnonzero(first < np.arange(len(first)))
    if len(repeated):
        files = inputs.files
        twins = Mapped[int, str](lambda i: f"{files[int(first[i])].path.name} and {files[i].path.name}", repeated)
        raise UserError(f"files with the same stem in {source}: {shortlist(twins)}; their maps would have one name")


def walk_files(folder: Path, recursive: bool) -> Iterator[str]:
    """Yields the paths of the files in a folder, relative to it. The path of a DICOM series, a folder, ends in a slash.

    Raises UserError if the folder cannot be read. Warns about folders inside that cannot be read.
    """
    waiting, failed = [""], list[str]()
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(folder / here) as entries:
                for entry in entries:
                    text = f"{here}{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        yield text
                    elif is_volume(Path(entry.path)):
                        yield f"{text}/"
                    elif recursive and not entry.is_symlink():
                        waiting.append(f"{text}/")
        except OSError as e:
            if not here:
                raise UserError(explain_no_folder(folder, e)) from e
            failed.append(str(folder / here))
    if failed:
        warn(f"{len(failed)} folders cannot be read and are left out: {shortlist(failed)}")


def read_lines(file: Path) -> Iterator[Path]:
    """Yields the paths in a text file. Raises UserError if one of the first `CHECKED_LINES` paths does not exist.

    If a later path does not exist, the error appears when the image is read.
    """
    count, gone = 0, list[Path]()
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            for part in line.splitlines():  # also at rare line separators, as `read_path_list` does
                if part.strip():
                    path = file.parent / part.strip()
                    count += 1
                    if count <= CHECKED_LINES and not os.path.exists(path):
                        gone.append(path)
                    yield path
    if gone:
        raise UserError(f"{len(gone)} of {count} files in {file} do not exist: {shortlist(gone)}")


def mark_folder(path: Path) -> str:
    """Returns the path as text, with a slash at the end if it is a folder."""
    is_folder = not is_picture(path.name) and os.path.isdir(path)
    return f"{path}/" if is_folder else str(path)


def is_image_name(text: str) -> bool:
    """Returns whether it is the name of an image or a volume, or a folder with a slash at the end."""
    return text.lower().endswith(IMAGES)


def is_image(path: Path) -> bool:
    return not path.name.startswith(".") and (path.suffix.lower() in EXTENSIONS or is_volume(path))


def note_video(text: str, videos: list[str]) -> bool:
    """Adds the text to `videos` if it is the name of a video. Returns False."""
    if is_video(Path(text)):
        videos.append(text)
    return False


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS
