"""Writes the maps of a video as a video. It keeps a few frames in memory at a time."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...atomic import create_folder, refuse_unmarked, write_atomic
from ...data.images.class_pictures import paint_classes
from ...errors import SomeFailed, UserError, print_line
from ...runtime.parallel import prefetch
from ...runtime.versions import import_extra
from ..prediction.predictor import Photo, Predictor
from .outputs import DRAWINGS, PredictOutputs, draw_map, remove_small_parts, to_map_pixels

THREADS = 2  # threads that resize frames
QUALITY = {"": "8", "overlay": "18", "contours": "18"}  # crf of libx264; 8 keeps maps within a few grey levels


def predict_video(
    predictor: Predictor,
    source: Path,
    paths: Mapping[str, Path],
    outputs: PredictOutputs,
    minmax: bool = True,
    batch_size: int = 1,
) -> None:
    """Writes the videos at `paths`, from `choose_video_paths`: the maps, and the maps on the frames.

    The number, the size and the rate of the frames stay the same. The maps of several classes are in colour, and the
    other videos have a legend below the frames. Raises UserError if the file or an output cannot be used; then there is
    no video. Raises SomeFailed if the file ends early; the frames before its end are written.
    """
    rate, turns, count = read_video_facts(source)
    start, made, classes = time.perf_counter(), 0, predictor.classes

    def prepare(frame: np.ndarray) -> Photo:
        return predictor.prepare(Image.fromarray(frame), name=source, source=frame)

    with ExitStack() as stack:
        writers = {kind: stack.enter_context(open_writer(path, rate, QUALITY[kind])) for kind, path in paths.items()}
        readers, encoder = (stack.enter_context(ThreadPoolExecutor(threads)) for threads in (THREADS, 1))
        bar = stack.enter_context(tqdm(total=count, unit="frame", disable=None))

        def write(predicted: tuple[np.ndarray, np.ndarray]) -> None:
            frame, pixels = predicted[0], remove_small_parts(predicted[1], outputs.components, classes is not None)
            writers[""](pixels if classes is None else paint_classes(pixels, classes))
            for kind in paths.keys() & DRAWINGS:
                writers[kind](draw_map(kind, frame.copy(), pixels, classes))

        photos = prefetch(readers, prepare, read_frames(source, turns), 2 * batch_size)
        maps = predictor.predict(photos, batch_size)
        predicted = ((photo.source, to_map_pixels(probability, minmax, outputs)) for photo, probability in maps)
        for _ in prefetch(encoder, write, predicted, 2 * batch_size):
            made += 1
            bar.update()
        if not made:
            raise UserError(f"cannot read {source}: no frames in it, or damaged")
    seconds = time.perf_counter() - start
    print_line(f"{made} frames in {paths['']} and {paths['overlay']}, {seconds:.1f} s, {made / seconds:.2f} frames/s")
    if count and made < 0.9 * count:
        raise SomeFailed(f"only {made} of about {count} frames of {source} can be read; it may be damaged")


def choose_video_paths(source: Path, target: Path, outputs: PredictOutputs) -> dict[str, Path]:
    """Returns the paths of the videos by kind: `` for the maps, `overlay`, and `contours` if it is requested.

    Raises UserError for outputs that videos do not have, and if a file of the user has one of these names.
    """
    if outputs.probability is not None:
        raise UserError("--save_prob is for images; a video's probabilities would be larger than the disk")
    if outputs.uncertainty:
        raise UserError("--uncertainty is for images; give the frames as images")
    paths = {kind: target / kind / f"{source.stem}.mp4" for kind in QUALITY}
    if not outputs.contours:
        del paths["contours"]
    if source.resolve() in [path.resolve() for path in paths.values()]:
        raise UserError(
            f"--save_path {target} is the video's own folder, and its maps would overwrite it; give another"
        )
    refuse_unmarked(target, paths.values())
    return paths


@contextmanager
def open_video(source: Path) -> Iterator[Any]:
    """Opens a video with imageio. An error inside becomes a UserError."""
    iio = import_extra("imageio.v3", "videos need imageio: pip install imageio")
    av = import_extra("av", "videos need PyAV: pip install av (or pip install 'sam2unet[video]')")
    try:
        with iio.imopen(source, "r", plugin="pyav") as video:
            yield video
    except (OSError, av.FFmpegError) as e:
        raise UserError(f"cannot read {source}: not a video or damaged") from e


def read_video_facts(source: Path) -> tuple[Fraction, int, int | None]:
    """Returns frames per second, quarter turns that make a frame upright, and the number of frames if it is known."""
    with open_video(source) as video:
        metadata = video.metadata()
        stated = video.properties().shape[0]
        try:
            matrix = video.metadata(index=0).get("DISPLAYMATRIX")
        except StopIteration:
            matrix = None
    turns = 0
    if matrix is not None:  # the camera was rotated
        cosine, sine = np.frombuffer(matrix, np.int32)[:2]
        turns = -round(math.degrees(math.atan2(sine, cosine)) / 90) % 4
    # The stated count of a trimmed clip includes hidden frames. With a variable frame rate, `fps` is too high.
    counts = [count for count in (stated, round(metadata["fps"] * metadata.get("duration", 0))) if count > 0]
    return Fraction(metadata["fps"]).limit_denominator(65535), turns, min(counts, default=None)


def read_frames(source: Path, turns: int) -> Iterator[np.ndarray]:
    """Yields upright frames, uint8 (height, width, 3)."""
    with open_video(source) as video:
        for frame in video.iter(thread_type="FRAME"):
            yield np.ascontiguousarray(np.rot90(frame, turns))


@contextmanager
def open_writer(path: Path, rate: Fraction, quality: str) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that adds a frame, uint8 (H, W) or (H, W, 3), to an H.264 video. `path` appears at the end."""
    import av

    with create_folder(path.parent), write_atomic(path) as file, av.open(file, "w", format="mp4") as video:
        # PyAV and not imageio, because the writer of imageio has no option for the quality.
        stream = video.add_stream("libx264", rate, options={"crf": quality})

        def add(pixels: np.ndarray) -> None:
            if not stream.codec_context.is_open:
                stream.height, stream.width = pixels.shape[:2]
                # All players can show yuv420p, but its sides must be even: it stores colours at half the resolution.
                stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, "gray" if pixels.ndim == 2 else "rgb24")
            video.mux(stream.encode(frame))

        try:
            yield add
            video.mux(stream.encode())
        except av.FFmpegError as e:
            raise UserError(f"cannot write {path}: {e}") from e
