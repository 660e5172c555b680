"""The page for maps without its server: maps, pictures, scores, the zip, and files that are refused."""

import csv
import io
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam2unet.demo import draw
from sam2unet.demo.files import Limits, safe_stem, unique_name, visitor_message
from sam2unet.demo.masks.bundle import bundle
from sam2unet.demo.masks.clips import spread_frames
from sam2unet.demo.masks.panel import find_best, gallery_html, panel_html, scores_html
from sam2unet.demo.masks.session import Bench, Method, Session
from sam2unet.demo.thumbnails import encode_source
from sam2unet.errors import UserError
from sam2unet.masks.prediction.predictor import Predictor, predict_grey
from sam2unet.scoring.columns import RELEASED
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, score_job
from tests.conftest import save

LIMITS = Limits(images=3, megapixels=0.1, megabytes=0.2)


class Model:
    """Foreground is what is bright, or dark; counts how often it was asked."""

    def __init__(self, sign: int = 1):
        self.sign, self.calls = sign, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.sign * 2 * images.mean(1, keepdim=True)


@pytest.fixture
def models():
    return [Model(), Model(-1)]


@pytest.fixture
def session(models, tmp_path):
    methods = [
        Method(name, Predictor(model, 32, torch.device("cpu"))) for name, model in zip("ab", models, strict=True)
    ]
    (tmp_path / "home/uploads").mkdir(parents=True)
    return Session(Bench(methods, tmp_path / "home", [tmp_path / "home/uploads"], LIMITS))


@pytest.fixture
def dropped(tmp_path):
    """A function that makes an upload: pixels of a noise image of that size, or bytes."""
    rng = np.random.default_rng(0)

    def make(name: str, size: tuple[int, int] = (60, 50), content: bytes | None = None) -> Path:
        path = tmp_path / "home/uploads" / f"{len(list((tmp_path / 'home/uploads').iterdir()))}" / name
        path.parent.mkdir()
        if content is None:
            save(
                path,
                np.linspace(0, 255, size[0]).astype(np.uint8)[None, :, None]
                ^ rng.integers(0, 64, (size[1], 1, 3), dtype=np.uint8),
            )
        else:
            path.write_bytes(content)
        return path

    return make


def mask_like(path: Path, size: tuple[int, int] = (60, 50)) -> Path:
    mask = np.zeros(size[::-1], np.uint8)
    mask[10:40, 30:] = 255
    save(path, mask)
    return path


def test_names_for_files_made_of_uploads_cannot_leave_a_folder():
    hostile = [
        "../../x.png",
        "/etc/passwd",
        "..\\..\\x.png",
        "a/b/../x.png",
        "x\0y\n.png",
        "<b>.png",
        ".hidden.png",
        "..",
        "",
    ]
    names = [safe_stem(Path(name)) for name in hostile]
    assert names == ["x", "passwd", "x", "x", "x_y_", "_b_", "hidden", "image", "image"]
    assert len(safe_stem(Path("é" * 300 + ".png"))) == 80
    assert unique_name("a", ["A", "a_2"]) == "a_3" and unique_name("b", ["a"]) == "b"


def test_maps_are_as_large_as_their_images_and_are_kept_until_the_next_drop(session, dropped):
    assert session.add_images([dropped("one.jpg"), dropped("two.png", (30, 70))]) == []
    assert [item.name for item in session.items] == ["one", "two"]
    first = session.items[0].folder
    assert session.items[1].load("map1").shape == (70, 30)
    assert session.items[0].load("map0").max() == pytest.approx(1) and session.items[0].load("map0").min() == 0
    session.add_images([dropped("three.png")])
    assert [item.name for item in session.items] == ["three"]
    session.undo()
    assert [item.name for item in session.items] == ["one", "two"] and session.items[0].load("map0").shape == (50, 60)
    session.undo()
    session.clear(), session.clear()
    assert session.items == []
    session.undo()
    assert [item.name for item in session.items] == ["three"] and first.parent.name not in os.listdir(session.folder)
    session.clear()
    session.add_images([dropped("four.png")])
    session.undo()
    assert [item.name for item in session.items] == ["three"] and len(list(session.folder.iterdir())) == 2
    session.close()
    assert not session.folder.exists()


def test_moving_a_slider_draws_without_the_model(session, models, dropped):
    session.add_images([dropped("one.png")])
    before = [model.calls for model in models]
    assert before == [1, 1]
    shown = [panel_html(session, 0, threshold, 0.5) for threshold in (0.2, 0.5, 0.8)]
    assert len(set(shown)) == 3 and panel_html(session, 0, 0.5, 0.1) != shown[1]
    assert [model.calls for model in models] == before


def test_what_is_shown_is_small_however_large_the_image(session, dropped, monkeypatch):
    monkeypatch.setattr("sam2unet.demo.draw.VIEW", 40)
    session.add_images([dropped("one.png", (200, 100))])
    item = session.items[0]
    assert item.load("map0").shape == (100, 200) and item.load("view_map0").shape == (20, 40)
    assert item.load("view_photo").shape == (20, 40, 3)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("text.jpg", b"not an image", "cannot read text.jpg: not an image or damaged"),
        ("cut.jpg", None, "cannot read cut.jpg: not an image or damaged"),
        ("other.jpg", b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\1D\0;", "other.jpg is GIF; wanted"),
        ("page.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "page.jpg is EPS; wanted"),
        ("heavy.jpg", b"\0" * 300_000, "heavy.jpg has 0.3 MB; the limit is 0.2 MB"),
        ("notes.txt", b"", "notes.txt has no extension of an image or clip"),
        ("clip.mp4", b"\0" * 99, "cannot read clip.mp4: not a clip or damaged"),
    ],
)
def test_a_bad_file_is_one_line_without_our_folders_and_changes_nothing(session, dropped, name, content, line):
    session.add_images([dropped("good.png")])
    kept = session.items[0].load("map0")
    if content is None:
        content = dropped("whole.jpg").read_bytes()[:-400]
    with pytest.raises(UserError) as caught:
        session.add_images([dropped(name, content=content)])
    text = str(caught.value)
    assert line in text and "\n" not in text and str(session.bench.home) not in text
    assert [item.name for item in session.items] == ["good"]
    assert np.array_equal(session.items[0].load("map0"), kept)
    assert len(list(session.folder.iterdir())) == 1


def test_images_too_large_are_refused_before_they_are_decoded(session, dropped, monkeypatch):
    monkeypatch.setattr("sam2unet.demo.files.read_image", lambda path: pytest.fail("decoded"))
    flat = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(flat, "PNG")
    for size, content, line in (
        ((400, 300), None, "large.png has 400 x 300 pixels; the limit is 0.1 million"),
        ((0, 0), flat.getvalue(), "large.png is too large"),
    ):
        with pytest.raises(UserError, match=line):
            session.add_images([dropped("large.png", size, content)])


def test_a_file_with_several_pages_is_refused(session, dropped):
    pages, content = [Image.new("L", (60, 50), level) for level in (10, 90)], io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    path = dropped("stack.tif", content=content.getvalue())
    with pytest.raises(UserError, match="^stack.tif has several pages or slices; this page takes single images"):
        session.add_images([path])
    session.add_images([dropped("stack.png")])
    assert session.add_masks([path])[0].startswith("stack.tif has several pages") and not session.items[0].has_mask


def test_the_good_files_of_a_drop_are_shown_and_the_bad_named(session, dropped):
    problems = session.add_images([dropped("a.png"), dropped("b.jpg", content=b"?"), dropped("a.jpg")])
    assert [item.name for item in session.items] == ["a", "a_2"]
    assert len(problems) == 1 and "b.jpg" in problems[0]


def test_more_files_than_allowed_are_refused(session, dropped):
    session.add_images([dropped("good.png")])
    with pytest.raises(UserError, match="4 files are too many; at most 3"):
        session.add_images([dropped(f"{n}.png") for n in range(4)])
    assert [item.name for item in session.items] == ["good"]
    for limits, line in (
        ({"images": 0}, "max_images is 0; it must be from 1 to"),
        ({"megapixels": 0}, "max_megapixels is 0; it must be above 0"),
        ({"megabytes": float("inf")}, "max_mb is inf; it must be above 0 and at most"),
    ):
        with pytest.raises(UserError, match=line):
            Limits(**limits)


def test_files_elsewhere_are_not_read(session, dropped, tmp_path):
    outside = tmp_path / "home/private.png"
    shutil.copy(dropped("one.png"), outside)
    link = dropped("link.png", content=b"").with_name("real.png")
    link.symlink_to(outside)
    dotted = link.parent / "../../private.png"
    session.add_images([dropped("good.png")])
    for path in (outside, link, dotted, Path(f"http:/../..{outside}"), Path("/etc/passwd")):
        with pytest.raises(UserError, match="reads only files that were dropped"):
            session.add_images([path])
        assert "reads only files that were dropped" in session.add_masks([path])[0]
    assert not session.items[0].has_mask


def test_scores_are_those_of_the_written_map(session, dropped, tmp_path):
    """A mask of its image's size, and one of another: a map takes its mask's size."""
    images = [dropped("one.png"), dropped("two.png")]
    session.add_images(images)
    masks = [mask_like(dropped("one.png")), mask_like(dropped("two.bmp"), (90, 75))]
    assert session.add_masks(masks) == []
    grey = (session.items[0].load("map0") * 255).astype(np.uint8)
    save(tmp_path / "map.png", grey)
    wanted = score_job(ScoreJob(tmp_path / "map.png", masks[0], ScoreOptions())).numbers
    assert session.items[0].scores[0] == {key: wanted[key] for key in RELEASED}
    predictor = session.bench.methods[0].predictor
    save(tmp_path / "other.png", predict_grey(predictor, Image.open(images[1]).convert("RGB"), (75, 90)))
    other = score_job(ScoreJob(tmp_path / "other.png", masks[1], ScoreOptions())).numbers
    assert session.items[1].scores[0] == {key: other[key] for key in RELEASED}
    count, means = session.means()
    assert count == 2 and means[1]["S"] == np.mean([item.scores[1]["S"] for item in session.items])
    assert f"{wanted['S']:.3f}" in scores_html(session, 0) and "mean of 2 images" in scores_html(session, 0)


def test_masks_go_by_name_unless_there_is_one_of_each(session, dropped):
    with pytest.raises(UserError, match="drop the images first"):
        session.add_masks([mask_like(dropped("m.png"))])
    session.add_images([dropped("one.png")])
    assert session.add_masks([mask_like(dropped("other.png"))]) == [] and session.items[0].has_mask
    session.add_images([dropped("one.png"), dropped("two.png")])
    coded = dropped("two.png")
    save(coded, np.eye(50, dtype=np.uint8))
    problems = session.add_masks([mask_like(dropped("other.png")), coded])
    assert "no image has the name of the mask other.png" in problems[0]
    assert problems[1].startswith("two.png is not a 0/255 mask (values found: 0, 1)")
    assert not any(item.has_mask for item in session.items)


def test_the_zip_holds_maps_cut_masks_overlays_and_scores(session, dropped):
    session.add_images([dropped("one.png"), dropped("é (1).png")])
    session.add_masks([mask_like(dropped("one.png"))])
    path = bundle(session, 0.25, 0.5)
    with zipfile.ZipFile(path) as archive:
        stems = ["one", "é _1_"]
        pngs = {f"{m}/{kind}/{s}.png" for m in "ab" for kind in ("maps", "masks", "overlays") for s in stems}
        assert set(archive.namelist()) == pngs | {"scores.csv"}
        read = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in pngs}
        table = list(csv.reader(io.StringIO(archive.read("scores.csv").decode())))
    found = session.items[0].load("map1")
    assert np.array_equal(read["b/maps/one.png"], (found * 255).astype(np.uint8))
    assert np.array_equal(read["b/masks/one.png"], np.where(found > 0.25, 255, 0))
    assert read["b/overlays/one.png"].shape == (50, 60, 3)
    assert [row[:2] for row in table] == [["image", "method"], ["one", "a"], ["one", "b"]]
    assert float(table[1][2]) == session.items[0].scores[0][RELEASED[0]]
    assert bundle(session, 0.5, 0.5).exists() and not path.exists()
    session.clear()
    with pytest.raises(UserError, match="nothing to download"):
        bundle(session, 0.5, 0.5)


def test_two_checkpoints_of_one_name_have_a_folder_each_in_the_zip(session, dropped, monkeypatch):
    names = ["x/SAM2-UNet-20", "y/SAM2-UNet-20"]  # as `make_model_names` returns them
    methods = [Method(name, each.predictor) for name, each in zip(names, session.bench.methods, strict=True)]
    monkeypatch.setattr(session, "bench", replace(session.bench, methods=methods))
    session.add_images([dropped("one.png")])
    with zipfile.ZipFile(bundle(session, 0.5, 0.5)) as archive:
        assert len(set(archive.namelist())) == 6
        maps = [archive.read(f"{name}_SAM2-UNet-20/maps/one.png") for name in "xy"]
    assert maps[0] != maps[1]


def test_thumbnails_follow_the_threshold_like_the_overlay(session, dropped):
    session.add_images([dropped("one.png")])
    assert gallery_html(session, 0, 0.5, 0.5) == ""
    session.add_images([dropped("one.png"), dropped("two.png")])
    session.add_masks([mask_like(dropped("two.png"))])
    shown = [gallery_html(session, 0, threshold, 0.5) for threshold in (0.3, 0.7)]
    assert shown[0] != shown[1] != gallery_html(session, 0, 0.7, 0.9)
    overlay = draw.draw_overlay(session.items[1].load("photo"), session.items[1].load("map0") > 0.7, 0.5)
    assert encode_source(overlay) in shown[1]  # the image is smaller than a thumbnail
    assert 'alt="Overlay 2 of 2, with a mask:"' in shown[0] and shown[0].count("aria-current") == 1


def test_names_are_text_on_the_page(session, dropped, monkeypatch):
    hostile = "<script>x</script>"
    monkeypatch.setattr(
        session,
        "bench",
        Bench(
            [Method(hostile, m.predictor) for m in session.bench.methods],
            *[session.bench.home, session.bench.allowed_folders, session.bench.limits],
        ),
    )
    session.add_images([dropped("one.png")])
    session.add_masks([mask_like(dropped("one.png"))])
    for part in (panel_html(session, 0, 0.5, 0.5), scores_html(session, 0)):
        assert "<script" not in part and "&lt;script" in part
    assert panel_html(session, 7, 0.5, 0.5) == panel_html(session, -1, 0.5, 0.5) == ""


def test_the_best_is_marked_as_printed():
    assert find_best([0.5, 0.7], True) == [1] and find_best([0.5, 0.7], False) == [0]
    assert find_best([0.7001, 0.7004], True) == find_best([0.5], True) == find_best([np.nan, 0.5], True) == []


def clip(path: Path, count: int = 45) -> Path:
    """Grey frames, each brighter than the one before."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install -e .[video]")
    with av.open(path, "w", format="mp4" if path.suffix == ".mp4" else "mpegts") as video:
        stream = video.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(count):
            grey = np.full((64, 96, 3), 5 * number, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        video.mux(stream.encode())
    return path


def test_a_clip_gives_frames_evenly_and_no_more_than_images_are_allowed(session, dropped):
    path = clip(dropped("walk.mp4", content=b""))
    frames = list(spread_frames(path, 5, LIMITS))
    assert [number for number, _ in frames] == [1, 12, 23, 34, 45]
    levels = [np.asarray(frame).mean() for _, frame in frames]
    np.testing.assert_allclose(levels, [5 * (number - 1) for number, _ in frames], atol=3)  # the codec's loss
    assert session.add_images([dropped("one.png"), path]) == []
    assert [item.name for item in session.items] == ["one", "walk_00001", "walk_00045"]
    with pytest.raises(UserError, match="walk.mp4 has 96 x 64 pixels; the limit is 0.001 million"):
        list(spread_frames(path, 5, Limits(megapixels=0.001)))


def test_a_clip_too_large_is_refused_before_a_frame_is_decoded(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path = tmp_path / "large.mov"
    with av.open(path, "w") as video:
        stream = video.add_stream("png", 25)
        stream.width, stream.height, stream.pix_fmt = 400, 300, "rgb24"
        video.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((300, 400, 3), np.uint8), "rgb24")))
        video.mux(stream.encode())
    assert len(list(spread_frames(path, 5, Limits()))) == 1
    with pytest.raises(UserError, match="large.mov is damaged, or its frames have more than 0.1 million pixels"):
        list(spread_frames(path, 5, LIMITS))
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("opened"))
    path = tmp_path / "large.gif"
    path.write_bytes(b"GIF89a" + 4 * b"\xff" + b"\0\0\0;")
    with pytest.raises(UserError, match="large.gif has 65535 x 65535 pixels; the limit is 0.1 million"):
        list(spread_frames(path, 5, LIMITS))


def test_a_list_of_other_files_is_no_clip(tmp_path):
    secret, path = clip(tmp_path / "secret.ts"), tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    with pytest.importorskip("av").open(path) as video:  # PyAV by itself would show the other file
        assert len(list(video.decode(video=0))) == 45
    with pytest.raises(UserError, match="list.mp4: not a clip"):
        list(spread_frames(path, 5, LIMITS))


def test_messages_name_the_file_once():
    path = Path("/tmp/home/uploads/a.png")
    assert visitor_message(UserError(f"cannot read {path}: damaged"), path) == "cannot read a.png: damaged"
    assert visitor_message(UserError("out of memory"), path) == "a.png: out of memory"
