"""Finds the inputs of a prediction: a folder, a tree of folders, a file, a list of files or a pattern."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from ..data.pairs import EXTENSIONS, explain_no_folder, index_files, read_path_list
from ..data.slices import Slice, Source, find_file, list_slices
from ..data.volumes import is_volume, name_case, open_volume
from ..errors import UserError, shortlist, warn
from ..slice_view import DEFAULT_VIEW, SliceView

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".3gp", ".gif")


class Input(NamedTuple):
    """An image and the name of its map: without extension, with the folders between the source and the image."""

    path: Source
    name: str


def find_inputs(source: Path, recursive: bool = False, view: SliceView = DEFAULT_VIEW) -> list[Input]:
    """Returns the images of `source`, sorted; of a volume all slices. Warns about videos, which it leaves out.

    `source` is a folder, an image, a text file with a path per line, relative to the text file, or a pattern with `*`;
    or a volume, or a folder of volumes. Raises UserError if it does not exist or has no image, or if two maps would
    have the same name.
    """
    videos = []
    if source.is_dir() and is_volume(source):
        named, nothing = [(source, Path(source.name))], ""
    elif source.is_dir():
        files = walk_files(source, recursive)
        named = [(path, path.relative_to(source)) for path in files if is_image(path)]
        videos = sorted(str(path.relative_to(source)) for path in files if is_video(path))
        where = "folders inside are not searched; --recursive does" if not recursive else "nor in the folders inside"
        nothing = f"no images in {source} (looked for {', '.join(EXTENSIONS)}; {where})"
    elif source.suffix.lower() == ".txt" and source.is_file():
        named, nothing = [(path, Path(path.name)) for path in read_path_list(source)], ""
    elif source.is_file():
        named, nothing = [(source, Path(source.name))], ""
    elif glob.has_magic(str(source)):
        paths = [Path(path) for path in glob.glob(str(source), recursive=True)]
        named = [(path, Path(path.name)) for path in paths if is_image(path)]
        nothing = f"no images match {source}"
    else:
        raise UserError(f"no such folder: {source}" if not source.suffix else f"no such file or folder: {source}")
    if not named:
        raise UserError(f"{nothing}; give each video by itself: {shortlist(videos)}" if videos else nothing)
    if videos:
        warn(f"{len(videos)} videos in {source} are left out, give each by itself: {shortlist(videos)}")
    items = sorted(Input(path, str(name.with_name(name_case(path)))) for path, name in named)
    index_files([(item.name, find_file(item.path)) for item in items], source, "their maps would have one name")
    return [part for item in items for part in cut_input(item, view)]


def cut_input(item: Input, view: SliceView) -> list[Input]:
    """Returns the slices of a volume. For an image, and for a volume that cannot be opened, returns the item."""
    try:
        path = find_file(item.path)
        open_volume(path) if is_volume(path) else None
    except UserError:
        return [item]  # the error appears when it is read, so that a run can leave it out
    return [
        Input(
            part, f"{item.name}/{part.index:04d}" if isinstance(part, Slice) and part.index is not None else item.name
        )
        for part in list_slices(path, view)
    ]


def walk_files(folder: Path, recursive: bool) -> list[Path]:
    """Returns the files in a folder, and the folders of DICOM series inside.

    UserError if it cannot be read. Warns about folders inside that cannot be read.
    """
    paths: list[Path] = []
    errors: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=errors.append):
        series = [name for name in folders if not name.startswith(".") and is_volume(Path(here, name))]
        paths += (Path(here, name) for name in series)
        folders[:] = [name for name in folders if recursive and not name.startswith(".") and name not in series]
        paths += (Path(here, name) for name in files if not name.startswith("."))
    if failed := next((e for e in errors if Path(e.filename) == folder), None):
        raise UserError(explain_no_folder(folder, failed)) from failed
    if errors:
        warn(f"{len(errors)} folders cannot be read and are left out: {shortlist([e.filename for e in errors])}")
    return paths


def is_image(path: Path) -> bool:
    return not path.name.startswith(".") and (path.suffix.lower() in EXTENSIONS or is_volume(path))


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS
