"""The work of a prediction: the images of its share, the masks that decide the sizes, and checks of the outputs."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import MARKER, refuse_unmarked
from ...data.index.select import IndexQuery, open_index_test
from ...errors import UserError, print_line
from ...recipe import Recipe
from ...runtime.shards import Shard
from ...slice_view import DEFAULT_VIEW, SliceView
from .find_inputs import find_inputs
from .inputs import IndexInputs, Inputs, cut_input, find_masks, is_slice, refuse_unpaired
from .outputs import PredictOutputs
from .photo_reader import FirstNames, MapJob
from .targets import MapArchive, MapFolder


@dataclass(frozen=True)
class PredictFiles:
    """The files that a prediction reads and writes."""

    source: Path  # a video, or what `find_inputs` takes
    target: Path  # folder of the maps
    masks: Path | None = None  # folder of masks; each map gets the size of its mask. None: the size of its image.
    recursive: bool = False
    skip_existing: bool = False  # leave out images that have a map
    on_bad_image: str = "stop"  # `stop` at an unreadable image, or `skip` it
    view: Mapping[str, Any] = field(default_factory=dict)  # fields of `SliceView` that the recipe does not decide
    shard: Shard = Shard()  # the share of the files that this run predicts
    archive: bool = False  # write tar archives
    index: IndexQuery | None = None  # a part of an index, whose folder is then `source`


class MapJobs:
    """The images of a prediction. They are listed again each time, because a list of millions fills the memory.

    Args:
        masks: for each file of `inputs`, the file of its mask.
        is_missing: bool (images,), the images to predict. None: all.
    """

    def __init__(self, inputs: Inputs, masks: Inputs | None = None, is_missing: np.ndarray | None = None):
        self.inputs, self.masks, self.is_missing = inputs, masks, is_missing

    def share(self, shard: Shard) -> "MapJobs":
        """Returns the jobs of a share. All slices of a volume are in one share, which writes the volume."""
        return MapJobs(self.inputs.share(shard), self.masks and self.masks.share(shard))

    def __len__(self) -> int:
        return len(self.inputs) if self.is_missing is None else int(self.is_missing.sum())

    def __iter__(self) -> Iterator[MapJob]:
        jobs = self.list_all()
        return jobs if self.is_missing is None else itertools.compress(jobs, self.is_missing)

    def list_all(self) -> Iterator[MapJob]:
        masks = self.masks.list_files() if self.masks is not None else itertools.repeat(None)
        for item, mask in zip(self.inputs.list_files(), masks, strict=False):
            source = None
            if mask is not None:
                first = cut_input(mask, self.inputs.view)[0].path
                source = None if is_slice(first) else first  # a slice has the size of its image
            for part in cut_input(item, self.inputs.view):
                yield MapJob(part, source)

    def refuse_missing_slices(self, mask_folder: Path) -> None:
        """Raises UserError if a slice has no mask."""
        assert self.masks is not None
        missing, view = FirstNames(), self.inputs.view
        for position in sorted({*self.inputs.volumes, *self.masks.volumes}):
            names = {part.name for part in cut_input(self.masks.files[position], view)}
            for part in cut_input(self.inputs.files[position], view):
                if part.name not in names:
                    missing.append(part.path.name)
        refuse_unpaired(missing, len(self.inputs), mask_folder)


def find_jobs(files: PredictFiles, view: SliceView = DEFAULT_VIEW, seed: int = Recipe.seed) -> MapJobs:
    """Returns every image with its mask. UserError if the maps would be written among the inputs.

    `seed` is that of the training, which decides what `--split` of an index holds out.
    """
    if files.index:
        test = open_index_test(files.index, seed, only_images=True)
        for source in test.opened.facts["sources"]:
            if files.target.resolve().is_relative_to(source["path"]):
                raise UserError(
                    f"--save_path {files.target} is inside {source['path']}, which has inputs; give another"
                )
        return MapJobs(IndexInputs(test.opened, test.items, view))
    for folder in filter(None, (files.source, files.masks)):
        if files.target.resolve() == folder.resolve():
            raise UserError(
                f"--save_path {files.target} is a folder of inputs, and maps would overwrite them; give another"
            )
        if files.recursive and folder.resolve() in files.target.resolve().parents:
            raise UserError(f"--save_path {files.target} is inside {folder}; the next run would read the maps")
    inputs = find_inputs(files.source, files.recursive, view)
    if files.masks is None:
        return MapJobs(inputs)
    masks = find_inputs(files.masks, files.recursive, view)
    return MapJobs(inputs, masks.take(find_masks(inputs, masks, files.source, files.masks)))


def check_targets(
    everything: MapJobs, jobs: MapJobs, files: PredictFiles, outputs: PredictOutputs, target: MapFolder | MapArchive
) -> None:
    """Raises UserError if a file would be written among the inputs, or a picture among the maps.

    It looks at folders. Only if one of them exists and has no marker, it looks for each file of `jobs`.
    """
    volumes = (cut_input(jobs.inputs.files[i], jobs.inputs.view)[0] for i in jobs.inputs.volumes)
    input_folders = {files.masks} if files.masks else set()
    maps, others = set[Path](), set[Path]()
    for item in itertools.chain(everything.inputs.list_folders(), volumes):
        input_folders.add(item.path.parent)
        paths = outputs.paths(files.target, item.name, item.path)
        maps.add(paths.pop("map").parent)
        others.update(path.parent for path in paths.values())
    if files.archive:
        maps, others = {files.target}, set()
    resolved = {folder.resolve() for folder in input_folders}
    if mixed := [folder for folder in sorted(maps | others) if folder.resolve() in resolved]:
        raise UserError(f"{mixed[0]}, which --save_path {files.target} writes to, is a folder of inputs; give another")
    if shared := sorted(maps & others):
        raise UserError(f"{shared[0]} would hold maps and other pictures; rename that folder of {files.source}")
    is_marked = (files.target / MARKER).is_file()
    if not (files.archive or is_marked) and any(folder.exists() for folder in maps | others):
        all_paths = (outputs.paths(files.target, item.name, item.path).values() for item in jobs.inputs)
        new = (paths for paths in all_paths if not (files.skip_existing and target.has_all(paths)))
        refuse_unmarked(files.target, itertools.chain.from_iterable(new))


def leave_out_written(
    jobs: MapJobs, files: PredictFiles, outputs: PredictOutputs, target: MapFolder | MapArchive, share: str
) -> MapJobs:
    """Returns the jobs without map, and prints how many have one. Without `--skip_existing` returns all jobs."""
    if not files.skip_existing:
        return jobs
    all_paths = (outputs.paths(files.target, item.name, item.path).values() for item in jobs.inputs)
    is_missing = np.fromiter((not target.has_all(paths) for paths in all_paths), bool)
    if jobs.inputs.volumes:  # the map of a volume needs all slices, so they are predicted together
        starts = jobs.inputs.starts
        is_missing = np.repeat(np.logical_or.reduceat(is_missing, starts[:-1]), np.diff(starts))
    missing = MapJobs(jobs.inputs, jobs.masks, is_missing)
    count = f"{len(jobs) - len(missing)} of {len(jobs)}" if len(missing) else f"all {len(jobs)}"
    print_line(f"{share}{count} maps are already in {files.target}")
    return missing
