"""A video's maps as a video."""

import os
import resource
import signal
import struct
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from sam2unet.masks.files import video

pytest.importorskip("av")
RATE = 30000 / 1001
COUNT = 14


@pytest.fixture(scope="module")
def clip(polyps, tmp_path_factory) -> Path:
    """14 frames of 97x75 at 29.97 per second: seven photographs twice."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    photos = [Image.open(file).convert("RGB").resize((97, 75)) for file in sorted((polyps / "images").iterdir())[:7]]
    with iio.imopen(path, "w", plugin="pyav") as file:
        file.init_video_stream("libx264", fps=RATE, pixel_format="yuv444p")
        for photo in photos:
            for _ in range(COUNT // 7):
                file.write_frame(np.asarray(photo))
    return path


def frames_of(path: Path) -> np.ndarray:
    return iio.imread(path, plugin="pyav")


def test_a_clip_s_maps_are_those_of_its_frames(maps_of, clip, tmp_path):
    assert maps_of(clip, tmp_path / "out", "--batch_size", 4, "--contours").status == 0
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.mp4")}
    assert files == {"clip.mp4", "overlay/clip.mp4", "contours/clip.mp4"}
    for name in files:
        assert frames_of(tmp_path / "out" / name).shape == (COUNT, 75, 97, 3)
        assert iio.immeta(tmp_path / "out" / name, plugin="pyav")["fps"] == pytest.approx(RATE, rel=1e-6)
    shown = frames_of(clip)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(shown):
        Image.fromarray(frame).save(tmp_path / f"frames/{number:02}.png")
    maps_of(tmp_path / "frames", tmp_path / "maps")
    overlays = frames_of(tmp_path / "out/overlay/clip.mp4").astype(int)
    for number, found in enumerate(frames_of(tmp_path / "out/clip.mp4").astype(int)):
        wanted = np.asarray(Image.open(tmp_path / f"maps/{number:02}.png")).astype(int)
        difference = np.abs(found - wanted[..., None])
        assert difference.mean() < 1.5 and difference.max() < 20  # what compression costs
        assert (found == found[..., :1]).all()
        assert np.abs(overlays[number] - shown[number])[wanted < 10].mean() < 8


def test_flags_of_maps_hold_for_frames(maps_of, clip, tmp_path):
    maps_of(clip, tmp_path / "cut", "--threshold", 0.5)
    found = frames_of(tmp_path / "cut/clip.mp4")
    assert ((found < 40) | (found > 215)).mean() > 0.95
    refused = maps_of(clip, tmp_path / "out", "--save_prob")
    assert refused.status == 2 and "--save_prob is for images" in refused.err[0]
    refused = maps_of(clip, tmp_path / "out", "--test_gt_path", tmp_path)
    assert refused.status == 2 and "--test_gt_path is for images" in refused.err[0]


def test_a_gif_and_a_camera_held_on_its_side(maps_of, clip, tmp_path):
    pictures = [Image.fromarray(frame).rotate(7 * number) for number, frame in enumerate(frames_of(clip))]
    pictures[0].save(tmp_path / "moving.GIF", save_all=True, append_images=pictures[1:], duration=40)
    maps_of(tmp_path / "moving.GIF", tmp_path / "out")
    assert len(frames_of(tmp_path / "out/moving.mp4")) == COUNT
    assert iio.immeta(tmp_path / "out/moving.mp4", plugin="pyav")["fps"] == 25

    data = bytearray(clip.read_bytes())
    place = data.index(b"tkhd") + 44  # of the matrix in an MP4's track header: here, turn clockwise
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 75 << 16, 0, 1 << 30)
    (tmp_path / "side.mp4").write_bytes(data)
    maps_of(tmp_path / "side.mp4", tmp_path / "out", "--threshold", 1)  # nothing above it: the overlay is the frame
    upright = frames_of(tmp_path / "out/overlay/side.mp4").astype(int)
    assert np.abs(upright - np.rot90(frames_of(clip), -1, (1, 2))).mean() < 5


def test_no_half_videos(maps_of, clip, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", clip.read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
        ended = maps_of(tmp_path / f"{name}.mp4", out)
        assert ended.status == 2
        assert ended.err == [f"error: cannot read {tmp_path}/{name}.mp4: not a video or damaged"]
    with iio.imopen(tmp_path / "hole.mkv", "w", plugin="pyav") as file:
        file.write(frames_of(clip), codec="libx264", fps=25, out_pixel_format="yuv444p")
    data = bytearray((tmp_path / "hole.mkv").read_bytes())
    data[len(data) // 3 : len(data) // 3 + 3000] = np.random.default_rng(0).bytes(3000)
    (tmp_path / "hole.mkv").write_bytes(data)
    (tmp_path / "no_frames.mkv").write_bytes(data[:1200])
    ended = maps_of(tmp_path / "no_frames.mkv", out)
    assert ended.is_refusal(f"cannot read {tmp_path}/no_frames.mkv"), ended
    ended = maps_of(tmp_path / "hole.mkv", tmp_path / "part")
    assert ended.status == 1 and ended.err == [
        f"error: only 3 of about 14 frames of {tmp_path}/hole.mkv can be read; it may be damaged"
    ]
    assert len(frames_of(tmp_path / "part/hole.mp4")) == 3

    frames = video.read_frames

    def ended_by(act):
        def some(*arguments):
            for number, frame in enumerate(frames(*arguments)):
                if number == COUNT - 2:
                    act()
                yield frame

        monkeypatch.setattr(video, "read_frames", some)
        return maps_of(clip, out)

    assert ended_by(lambda: os.kill(os.getpid(), signal.SIGINT)).status == 130

    monkeypatch.setattr(video, "read_frames", frames)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        full = maps_of(clip, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.is_refusal("clip.mp4: File too large"), full
    assert not out.exists()


def test_what_to_install(maps_of, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    ended = maps_of(clip, tmp_path / "out")
    assert ended.status == 2
    assert ended.err == ["error: videos need PyAV: pip install av (or pip install 'sam2unet[video]')"]


def test_videos_among_images_are_named(maps_of, clip, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "b.mp4").symlink_to(clip)
    ended = maps_of(folder, tmp_path / "out")
    assert ended.status == 2 and "give each video by itself: b.mp4" in ended.err[0]
    Image.fromarray(frames_of(clip)[0]).save(folder / "a.png")
    ended = maps_of(folder, tmp_path / "out")
    assert ended.status == 0 and ended.err == [
        f"warning: 1 videos in {folder} are left out, give each by itself: b.mp4"
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".sam2unet", "a.png"}
    assert maps_of(folder / "b.mp4", folder).status == 2
    assert frames_of(folder / "b.mp4").shape[0] == COUNT


def test_a_video_of_the_user_is_never_replaced_and_a_finished_one_is_left_out(maps_of, clip, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "clip.mp4").write_bytes(b"mine")
    ended = maps_of(clip, out)
    assert ended.is_refusal(f"{out} holds clip.mp4, not from test.py; give another --save_path"), ended
    assert (out / "clip.mp4").read_bytes() == b"mine" and [path.name for path in out.iterdir()] == ["clip.mp4"]

    assert maps_of(clip, tmp_path / "maps").status == 0
    made = (tmp_path / "maps/clip.mp4").stat().st_mtime_ns
    again = maps_of(clip, tmp_path / "maps", "--skip_existing")
    assert again.status == 0 and f"the maps of {clip} are already in {tmp_path / 'maps'}" in again.out
    assert (tmp_path / "maps/clip.mp4").stat().st_mtime_ns == made
