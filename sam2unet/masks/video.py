"""A video's maps as a video, a few frames at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..atomic import create_folder, refuse_unmarked, write_atomic
from ..data.pictures import outline_, tint_
from ..errors import SomeFailed, UserError, print_line
from ..runtime.parallel import batched, prefetch
from .outputs import PredictOutputs, remove_small_parts, to_grey_map
from .predictor import Predictor

THREADS = 2  # that bring frames to the model's size
QUALITY = {"": "8", "overlay": "18", "contours": "18"}  # libx264's crf; a low one keeps maps within a few grey levels


def predict_video(
    predictor: Predictor, source: Path, target: Path, outputs: PredictOutputs, minmax: bool = True, batch_size: int = 1
) -> None:
    """`target/NAME.mp4` with the maps, `target/overlay/NAME.mp4` with the frames under them; each whole or not at all.

    Frames keep their number, size and rate. `outputs.contours` adds a third video.

    Raises:
        UserError: no PyAV, a damaged file, one without frames, or outputs that videos do not have.
        SomeFailed: the file ends early; what could be read is written.
    """
    if outputs.probability is not None:
        raise UserError("--save_prob is for images; a video's probabilities would be larger than the disk")
    paths = {kind: target / kind / f"{source.stem}.mp4" for kind in QUALITY}
    if not outputs.contours:
        del paths["contours"]
    if source.resolve() in [path.resolve() for path in paths.values()]:
        raise UserError(
            f"--save_path {target} is the video's own folder, and its maps would overwrite it; give another"
        )
    refuse_unmarked(target, paths.values())
    rate, turns, count = looked_at(source)
    start, made = time.perf_counter(), 0

    def prepare(frame: np.ndarray) -> tuple[np.ndarray, list[Tensor]]:
        return frame, predictor.small(Image.fromarray(frame))

    with ExitStack() as stack:
        writers = {kind: stack.enter_context(writing(path, rate, QUALITY[kind])) for kind, path in paths.items()}
        readers, encoder = (stack.enter_context(ThreadPoolExecutor(threads)) for threads in (THREADS, 1))
        bar = stack.enter_context(tqdm(total=count, unit="frame", disable=None))

        def write(done: tuple[np.ndarray, np.ndarray]) -> None:
            frame, grey = done[0], remove_small_parts(done[1], outputs.components)
            writers[""](grey)
            writers["overlay"](tint_(frame.copy(), grey))
            if "contours" in writers:
                writers["contours"](outline_(frame, grey))

        def predicted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in batched(prefetch(readers, prepare, frames(source, turns), 2 * batch_size), batch_size):
                sizes, names = [frame.shape[:2] for frame, _ in batch], [source] * len(batch)
                maps = predictor.maps([small for _, small in batch], sizes, batch_size, names)
                for (frame, _), probability in zip(batch, maps, strict=True):
                    yield frame, to_grey_map(probability, minmax, outputs)

        for _ in prefetch(encoder, write, predicted(), 2 * batch_size):
            made += 1
            bar.update()
        if not made:
            raise UserError(f"cannot read {source}: no frames in it, or damaged")
    seconds = time.perf_counter() - start
    print_line(f"{made} frames in {paths['']} and {paths['overlay']}, {seconds:.1f} s, {made / seconds:.2f} frames/s")
    if count and made < 0.9 * count:
        raise SomeFailed(f"only {made} of about {count} frames of {source} can be read; it may be damaged")


@contextmanager
def readable(source: Path) -> Iterator[object]:
    """The video as imageio's plugin opens it; what fails inside is a UserError."""
    try:
        import av
    except ImportError as e:
        raise UserError("videos need PyAV: pip install av (or pip install -e '.[video]')") from e
    try:
        with iio.imopen(source, "r", plugin="pyav") as video:
            yield video
    except (OSError, av.FFmpegError) as e:
        raise UserError(f"cannot read {source}: not a video or damaged") from e


def looked_at(source: Path) -> tuple[Fraction, int, int | None]:
    """Frames per second, quarter turns that make a frame upright, and the number of frames where the file says it."""
    with readable(source) as video:
        about = video.metadata()
        stated = video.properties().shape[0]
        try:
            matrix = video.metadata(index=0).get("DISPLAYMATRIX")
        except StopIteration:
            matrix = None
    turns = 0
    if matrix is not None:  # of a camera held on its side
        cosine, sine = np.frombuffer(matrix, np.int32)[:2]
        turns = -round(math.degrees(math.atan2(sine, cosine)) / 90) % 4
    # A trimmed clip states frames that are not shown, and one with frames unevenly spread has a rate that is too high.
    counts = [count for count in (stated, round(about["fps"] * about.get("duration", 0))) if count > 0]
    return Fraction(about["fps"]).limit_denominator(65535), turns, min(counts, default=None)


def frames(source: Path, turns: int) -> Iterator[np.ndarray]:
    """uint8 (height, width, 3), upright."""
    with readable(source) as video:
        for frame in video.iter(thread_type="FRAME"):
            yield np.ascontiguousarray(np.rot90(frame, turns))


@contextmanager
def writing(path: Path, rate: Fraction, quality: str) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds a frame, uint8 (H, W) or (H, W, 3), to the H.264 video that `path` becomes at the end."""
    import av

    with create_folder(path.parent), write_atomic(path) as file, av.open(file, "w", format="mp4") as video:
        # Not by imageio, whose writer cannot be told a quality.
        stream = video.add_stream("libx264", rate, options={"crf": quality})

        def add(pixels: np.ndarray) -> None:
            if not stream.codec_context.is_open:
                stream.height, stream.width = pixels.shape[:2]
                # All players show the second, but it needs even sides, for it has colours at half of them.
                stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, "gray" if pixels.ndim == 2 else "rgb24")
            video.mux(stream.encode(frame))

        try:
            yield add
            video.mux(stream.encode())
        except av.FFmpegError as e:
            raise UserError(f"cannot write {path}: {e}") from e
