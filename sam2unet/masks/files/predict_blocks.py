"""Predicts maps in blocks that processes of a Ray cluster share. A block that has its file of rows is done."""

import csv
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...atomic import claim_folder, sha256, write_atomic
from ...data.images.class_pictures import encode_index_png
from ...data.images.photos import to_photo
from ...data.images.pictures import encode_png, write_bytes
from ...data.images.unreadable import FORMATS
from ...data.index.listing import hash_text
from ...data.index.select import IndexQuery, open_index_test
from ...data.packed import Packed, pack_texts
from ...data.pairs import EXTENSIONS
from ...errors import SomeFailed, UserError, print_line, printable, shortlist
from ...families.settings import find_recipe
from ...recipe import Recipe
from ...runtime.device import pick_device
from ...runtime.parallel import prefetch
from ...scoring.tables.csv_files import csv_text
from ...weights.weight_files import WeightPaths
from ..prediction.open import open_predictor, read_model_file
from ..prediction.options import PredictOptions
from ..prediction.predictor import Photo
from .outputs import PredictOutputs, to_map_pixels

BLOCK = 64  # images that are done again if a process fails
ROWS = "maps.csv"
COLUMNS = ("number", "image", "map", "height", "width", "mean", "error")


class ImagesToPredict(Protocol):
    """Images by their number. Each process has its own copy."""

    def __len__(self) -> int: ...

    def describe(self, number: int) -> tuple[str, str]:
        """Returns the place of an image, and a name that no other image has."""

    def read(self, number: int) -> Image.Image:
        """Returns an upright RGB photograph. Raises UserError if it cannot be read."""


@dataclass(frozen=True)
class AddressedImages:
    """Files on this machine, or at addresses that the library fsspec understands."""

    addresses: Packed[str]

    def __len__(self) -> int:
        return len(self.addresses)

    def describe(self, number: int) -> tuple[str, str]:
        return self.addresses[number], PurePosixPath(self.addresses[number]).stem

    def read(self, number: int) -> Image.Image:
        import fsspec

        address = self.addresses[number]
        try:
            with fsspec.open(address) as file:
                return to_photo(Image.open(BytesIO(file.read()), formats=FORMATS))
        except UserError:
            raise
        except Exception as e:  # remote file systems and decoders raise exceptions of every kind
            raise UserError(f"cannot read {address}: {' '.join(str(e).split()) or type(e).__name__}") from e


@dataclass(frozen=True)
class IndexedImages:
    """A part of an index. A process opens the index itself, because its columns are files."""

    query: IndexQuery
    seed: int  # of the training, which decides what `--split` holds out
    opened: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def items(self) -> Any:
        if not self.opened:
            test = open_index_test(self.query, self.seed, only_images=True)
            self.opened.update(index=test.opened, items=test.items)
        return self.opened["items"]

    def __getstate__(self) -> dict[str, Any]:
        return {"query": self.query, "seed": self.seed, "opened": {}}

    def describe(self, number: int) -> tuple[str, str]:
        source = self.items[number].image
        return str(source), self.opened["index"].name_image(source)

    def read(self, number: int) -> Image.Image:
        return to_photo(self.items[number].image)


def list_images_to_predict(source: str | None, query: IndexQuery | None, checkpoint: Path) -> ImagesToPredict:
    """Lists a folder, a text file, or an index. Raises UserError if there is no image, or two have one name."""
    if query is not None:
        model_file = read_model_file(checkpoint)
        return IndexedImages(query, Recipe.seed if isinstance(model_file, Path) else find_recipe(model_file).seed)
    assert source is not None
    addresses = pack_texts(list_addresses(source))
    if not len(addresses):
        raise UserError(f"no images in {source} (looked for {', '.join(EXTENSIONS)}; folders inside are not searched)")
    names = np.array([hash_text(PurePosixPath(address).stem) for address in addresses], np.uint64)
    if len(np.unique(names)) < len(names):
        raise UserError(f"{source} has images with the same name, whose maps would have one name; rename them")
    return AddressedImages(addresses)


def list_addresses(source: str) -> Iterable[str]:
    """Yields the addresses of the images in a folder, sorted, or those in a text file, relative to its folder."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(source)  # ImportError if a package for this kind of address is missing
        if path.endswith(".txt"):
            folder = files.unstrip_protocol(path).rpartition("/")[0]
            lines = map(str.strip, files.cat_file(path).decode("utf-8-sig").splitlines())
            return [line if "://" in line or line[0] == "/" else f"{folder}/{line}" for line in lines if line]
        names = sorted(files.ls(path, detail=False))
    except Exception as e:
        raise UserError(f"cannot list {source}: {' '.join(str(e).split()) or type(e).__name__}") from e
    shown = (name for name in names if not PurePosixPath(name).name.startswith("."))
    return (files.unstrip_protocol(name) for name in shown if name.lower().endswith(EXTENSIONS))


@dataclass(frozen=True)
class BlockOptions:
    """What the processes need to know."""

    checkpoint: Path
    folder: Path
    size: int | None
    minmax: bool
    batch_size: int
    weight_paths: WeightPaths

    def rows(self, block: int) -> Path:
        return self.folder / f"rows/{block:09}.csv"


class BlockPredictor:
    """Predicts blocks. Ray makes one in each of its processes, and again if a process fails."""

    def __init__(self, images: ImagesToPredict, options: BlockOptions):
        self.images, self.options = images, options
        predict_options = PredictOptions(size=options.size)
        self.predictor = open_predictor(options.checkpoint, pick_device(None), options.weight_paths, predict_options)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        for block in batch["data"].tolist():
            if not self.options.rows(block).exists():
                self.predict_block(block)
        return batch

    def predict_block(self, block: int) -> None:
        """Writes the maps of a block, and then its rows."""
        numbers = range(block * BLOCK, min((block + 1) * BLOCK, len(self.images)))
        rows: dict[int, list[object]] = {}

        def read(number: int) -> Photo | None:
            place, name = self.images.describe(number)
            try:
                return self.predictor.prepare(self.images.read(number), name=place, source=number)
            except UserError as e:
                rows[number] = [number, place, "", "", "", "", str(e)]
                return None

        with ThreadPoolExecutor(2) as pool:
            photos: Iterator[Photo] = (photo for photo in prefetch(pool, read, numbers, 4) if photo is not None)
            for photo, probability in self.predictor.predict(photos, self.options.batch_size):
                place, name = self.images.describe(photo.source)
                pixels = to_map_pixels(probability, self.options.minmax, PredictOutputs())
                classes = self.predictor.classes
                path = self.options.folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, encode_png(pixels) if classes is None else encode_index_png(pixels, classes))
                mean = "" if classes else f"{float(probability.mean()):.6g}"
                rows[photo.source] = [photo.source, place, f"{name}.png", *pixels.shape, mean, ""]
        write_bytes(self.options.rows(block), csv_text([rows[number] for number in numbers]).encode())


def describe_maps(images: ImagesToPredict, options: BlockOptions) -> str:
    """Returns what the maps of a folder depend on, so that no command goes on with the maps of another one."""
    first, last = (images.describe(number)[0] for number in (0, len(images) - 1))
    model = f"{options.checkpoint.name} (SHA-256 {sha256(options.checkpoint)[:12]})"
    pixels = f"size {options.size or 'of the training'}, {'stretched' if options.minmax else 'probabilities'}"
    return printable(f"maps of {len(images)} images by Ray, {first} to {last}, {model}, {pixels}")


def run_blocks(
    images: ImagesToPredict,
    options: BlockOptions,
    actors: int | None,
    gpus: float | None,
    address: str | None,
) -> None:
    """Predicts all blocks that are not done, on a cluster. Needs the package ray."""
    import ray
    import ray.data

    claim_folder(options.folder, describe_maps(images, options))
    (options.folder / "rows").mkdir(exist_ok=True)
    blocks = range(-(-len(images) // BLOCK))
    missing = np.array([block for block in blocks if not options.rows(block).exists()], np.int64)
    if (options.folder / ROWS).exists() or not len(missing):
        return
    try:
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except Exception as e:  # Ray raises exceptions of several kinds
        what = f"connect to a Ray cluster at {address}" if address else "start a Ray cluster on this machine"
        raise UserError(f"cannot {what}: {' '.join(str(e).split())}") from e
    gpus, actors = choose_resources(ray.cluster_resources(), gpus, actors)
    print_line(f"{len(images)} images in {len(missing)} blocks on {actors} processes")
    use = {"num_gpus": gpus} if gpus else {"num_cpus": 1}
    shared = ray.put(images)  # so that one copy on each machine serves all processes

    class Worker(BlockPredictor):
        def __init__(self) -> None:
            super().__init__(ray.get(shared), options)

    dataset = ray.data.from_numpy(np.array_split(missing, min(len(missing), 16 * actors)))
    done = dataset.map_batches(Worker, batch_size=1, concurrency=actors, **use)
    with tqdm(total=len(missing), unit="block", disable=None) as bar:
        for batch in done.iter_batches(batch_size=None):
            bar.update(len(batch["data"]))


def choose_resources(resources: Mapping[str, float], gpus: float | None, actors: int | None) -> tuple[float, int]:
    """Returns the GPUs of a process, and the number of processes that a cluster with these resources runs."""
    available = resources.get("GPU", 0)
    gpus = float(available > 0) if gpus is None else gpus
    if actors is None and gpus > available:
        raise UserError(f"--gpus is {gpus:g}, but the cluster has {available:g} GPUs; leave it out, or give --actors")
    return gpus, actors or max(1, int(available / gpus if gpus else resources["CPU"]))


def merge_rows(folder: Path, count: int) -> None:
    """Joins the rows of all blocks, in order, and removes their files. Raises SomeFailed if images were left out."""
    parts = [folder / f"rows/{block:09}.csv" for block in range(-(-count // BLOCK))]
    if not (folder / ROWS).exists():
        with write_atomic(folder / ROWS) as file:
            file.write(csv_text([COLUMNS]).encode())
            for part in parts:
                file.write(part.read_bytes())
    shutil.rmtree(folder / "rows")  # also unfinished files of processes that were killed
    with open(folder / ROWS, encoding="utf-8", newline="") as text:
        bad = [row["image"] for row in csv.DictReader(text) if row["error"]]
    print_line(f"{count - len(bad)} maps in {folder}, one row each in {ROWS}")
    if bad:
        raise SomeFailed(f"{len(bad)} of {count} images were left out, see {ROWS}: {shortlist(bad)}")
