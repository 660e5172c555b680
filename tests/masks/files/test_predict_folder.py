"""What test.py reads, writes, averages and refuses, beside the released maps themselves."""

import resource
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

import sam2unet
from sam2unet.data.images.pictures import outline_
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import list_images
from sam2unet.masks.files.outputs import remove_small_parts
from sam2unet.masks.prediction.predictor import Predictor
from tests.conftest import save

CPU = torch.device("cpu")


@pytest.fixture
def photos(polyps, tmp_path) -> Path:
    """Four photographs, 90x70: a.jpg, b.jpg, c.jpg and d.jpg."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, path in zip("abcd", sorted((polyps / "images").iterdir()), strict=False):
        Image.open(path).convert("RGB").resize((90, 70)).save(folder / f"{name}.jpg")
    return folder


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def probability(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"prob/{name}.npz")["probability"]


def files_in(folder: Path) -> set[str]:
    """Without the marker `.sam2unet`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file()}


def test_flips_and_scales_are_means_of_maps_computed_apart(maps_of, checkpoint, photos, tmp_path):
    model = sam2unet.load_model(checkpoint, device="cpu")
    photo = photos / "a.jpg"
    predictor = Predictor.from_model(model, 64)
    prepared = predictor.prepare(read_image(photo), (70, 90))
    mirror = prepared._replace(crops=[prepared.crops[0].flip(-1)])
    plain, mirrored = (map_.numpy() for _, map_ in predictor.predict([prepared, mirror], batch_size=2))
    assert np.abs(plain - mirrored[:, ::-1]).max() > 0.01
    assert maps_of(photo, tmp_path / "flip", "--tta", "flip", "--save_prob", "float32").status == 0
    np.testing.assert_allclose(probability(tmp_path / "flip", "a"), (plain + mirrored[:, ::-1]) / 2, atol=1e-5)

    scaled = [sam2unet.predict(model, photo, size=size, minmax=False) for size in (96, 128, 160)]
    done = maps_of(photo, tmp_path / "scale", "--tta", "scale", "--size", 128, "--save_prob", "float32")
    assert "96x96 and 128x128 and 160x160" in done.out
    np.testing.assert_allclose(probability(tmp_path / "scale", "a"), np.mean(scaled, axis=0), atol=1e-5)


def test_images_without_an_object_are_named(test_py, checkpoint, photos, tmp_path):
    """The bias of the last layer is lowered until two of four maps have a probability above 0.5."""
    model = sam2unet.load_model(checkpoint, device="cpu")
    tops = {path.name: sam2unet.predict(model, path, size=64, minmax=False).max() for path in photos.iterdir()}
    low, high = (np.log(top / (1 - top)) for top in sorted(tops.values())[1:3])
    with torch.no_grad():
        model.head.bias -= (low + high) / 2
    torch.save(model.state_dict(), tmp_path / "low.pth")
    words = ("--checkpoint", tmp_path / "low.pth", "--test_image_path", photos, "--save_path", tmp_path / "maps")
    first, second = sorted(sorted(tops, key=tops.get)[:2])
    assert f"no object above 0.5 in 2 of 4 images: {first}, {second}\n" in test_py(*words, "--size", 64).out


def test_tile_needs_masks_of_the_photograph_s_size(maps_of, photos, tmp_path):
    masks = tmp_path / "masks"
    for name, size in zip("abcd", ((70, 90), (70, 90), (35, 45), (70, 90)), strict=True):
        save(masks / f"{name}.png", np.zeros(size, np.uint8))
    flags = ["--test_gt_path", masks, "--tile", "48,12", "--save_prob"]
    ended = maps_of(photos, tmp_path / "out", *flags)
    assert ended.status == 2 and "c.jpg is 90x70, its mask 45x35; --tile needs equal sizes" in ended.err[0]
    masks.joinpath("c.png").unlink()
    save(masks / "c.png", np.zeros((70, 90), np.uint8))
    assert maps_of(photos, tmp_path / "out", *flags).status == 0
    assert maps_of(photos, tmp_path / "whole", "--save_prob").status == 0
    assert not np.allclose(probability(tmp_path / "out", "c"), probability(tmp_path / "whole", "c"), atol=0.01)


def test_small_components_go_and_all_else_stays(maps_of, photos, tmp_path):
    maps_of(photos, tmp_path / "all")
    assert maps_of(photos, tmp_path / "some", "--components", 150).status == 0
    gone = 0
    for name in "abcd":
        before, after = grey(tmp_path / f"all/{name}.png"), grey(tmp_path / f"some/{name}.png")
        labels, count = scipy.ndimage.label(before > 128, structure=np.ones((3, 3)))
        areas = scipy.ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))
        small = np.isin(labels, 1 + np.flatnonzero(areas < 150))
        assert np.array_equal(after, np.where(small, 0, before))
        gone += small.sum()
    assert gone > 0
    corners = np.zeros((8, 8), np.uint8)
    corners[[1, 2, 3, 6], [1, 2, 3, 6]] = 129, 200, 255, 255
    corners[0, 7] = 128  # not foreground
    kept = corners.copy()
    kept[6, 6] = 0
    assert np.array_equal(remove_small_parts(corners, 3), kept)


def test_pictures_and_probabilities_lie_apart_from_the_maps(maps_of, checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    masks = tmp_path / "masks"
    for name, size in zip("abcd", ((70, 90), (70, 90), (140, 180), (70, 90)), strict=True):
        save(masks / f"{name}.png", np.zeros(size, np.uint8))
    assert maps_of(photos, out, "--overlay", "--contours", "--save_prob", "--test_gt_path", masks).status == 0
    assert set(list_images(out)) == set("abcd")  # what eval.py finds
    model = sam2unet.load_model(checkpoint, device="cpu")
    for name in "abcd":
        photo, shown = np.asarray(Image.open(photos / f"{name}.jpg")).astype(int), grey(out / f"{name}.png")
        overlay, contours = grey(out / f"overlay/{name}.jpg"), grey(out / f"contours/{name}.jpg")
        assert overlay.shape == contours.shape == (*shown.shape, 3)  # the map's size, here not always the photograph's
        if name == "c":
            continue
        changed = np.abs(overlay - photo).mean(-1)
        assert changed[shown < 10].mean() < 10 and changed[shown > 245].mean() > 30
        found = probability(out, name)
        assert found.dtype == np.float16
        wanted = sam2unet.predict(model, photos / f"{name}.jpg", size=64, minmax=False)
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_contours_run_along_the_edge_of_the_map():
    grey_map = np.zeros((60, 80), np.uint8)
    grey_map[20:40, 30:60] = 200
    drawn = outline_(np.zeros((60, 80, 3), np.uint8), grey_map)
    square = grey_map > 128
    edge = square & ~scipy.ndimage.binary_erosion(square, np.ones((3, 3)))
    assert np.array_equal(drawn[..., 1] == 255, edge)


def test_folders_in_folders_lists_patterns_and_single_files(maps_of, photos, tmp_path):
    (photos / "deep/er").mkdir(parents=True)
    (photos / "a.jpg").rename(photos / "deep/er/a.jpg")
    (photos / "b.jpg").rename(photos / "deep/ein schönes 画.jpg")
    maps_of(photos, tmp_path / "tree", "--recursive", "--overlay")
    assert files_in(tmp_path / "tree") == {
        f"{folder}{name}.{ending}"
        for folder, ending in (("", "png"), ("overlay/", "jpg"))
        for name in ("c", "d", "deep/er/a", "deep/ein schönes 画")
    }
    maps_of(photos, tmp_path / "flat")
    assert files_in(tmp_path / "flat") == {"c.png", "d.png"}
    (tmp_path / "list.txt").write_text("\ufeffimages/d.jpg\n\nimages/deep/ein schönes 画.jpg\n", encoding="utf-8")
    maps_of(tmp_path / "list.txt", tmp_path / "listed")
    assert files_in(tmp_path / "listed") == {"d.png", "ein schönes 画.png"}
    maps_of(photos / "**/*.jpg", tmp_path / "pattern")
    assert files_in(tmp_path / "pattern") == {"a.png", "c.png", "d.png", "ein schönes 画.png"}
    maps_of(photos / "c.jpg", tmp_path / "one")
    assert files_in(tmp_path / "one") == {"c.png"}
    for folder in ("flat", "pattern", "one"):
        assert np.array_equal(grey(tmp_path / folder / "c.png"), grey(tmp_path / "tree/c.png"))

    (tmp_path / "list.txt").write_text("images/d.jpg\nimages/nowhere.jpg\n")
    assert "1 of 2 files in" in maps_of(tmp_path / "list.txt", tmp_path / "x").err[0]
    Image.open(photos / "d.jpg").save(photos / "c.webp")
    twins = maps_of(photos / "**/*", tmp_path / "x")
    assert twins.status == 2 and "c.jpg and c.webp" in twins.err[0] and not (tmp_path / "x").exists()


def test_existing_maps_are_kept_and_missing_pictures_made(maps_of, photos, tmp_path):
    out = tmp_path / "out"
    maps_of(photos, out)
    (out / "b.png").write_bytes(b"mine")
    (out / "c.png").unlink()
    assert "1 maps in" in maps_of(photos, out, "--skip_existing").out
    assert (out / "b.png").read_bytes() == b"mine" and (out / "c.png").is_file()
    assert f"all 4 maps are already in {out}" in maps_of(photos, out, "--skip_existing").out.splitlines()[-1]
    assert "4 maps in" in maps_of(photos, out, "--skip_existing", "--overlay").out


def test_nothing_is_written_among_the_inputs(maps_of, photos, tmp_path):
    (photos / "sub").mkdir()
    (photos / "a.jpg").rename(photos / "sub/a.jpg")
    before = files_in(tmp_path)
    for target in (photos, photos / "sub", photos / "new"):
        assert maps_of(photos, target, "--recursive").status == 2
    assert maps_of(photos / "**/*.jpg", tmp_path / "images").status == 2
    assert maps_of(photos / "sub/a.jpg", photos / "sub").status == 2
    (photos / "sub").rename(photos / "overlay")
    over = maps_of(photos / "overlay", photos, "--overlay")
    assert over.status == 2 and "is a folder of inputs" in over.err[0]
    mixed = maps_of(photos, tmp_path / "out", "--overlay", "--recursive")
    assert mixed.status == 2 and "would hold maps and other pictures" in mixed.err[0]
    (photos / "overlay").rename(photos / "sub")
    assert files_in(tmp_path) == before
    assert maps_of(photos, photos / "maps").status == 0  # which nobody searches
    assert "3 maps in" in maps_of(photos, photos / "maps").out


def bad_images(folder: Path, good: Path) -> None:
    """One file of every kind that cannot be read, z_*.*"""
    data = good.read_bytes()
    Image.open(good).save(folder / "png.png")
    picture = (folder / "png.png").read_bytes()
    (folder / "png.png").unlink()
    header = b"IHDR" + (30000).to_bytes(4, "big") * 2 + picture[24:29]
    for name, content in {
        "empty.jpg": b"",
        "text.png": b"hello",
        "cut.jpg": data[: len(data) // 2],
        "cut.png": picture[: len(picture) // 2],
        "bomb.png": picture[:12]
        + header
        + zlib.crc32(header).to_bytes(4, "big")
        + picture[33:],  # Pillow looks at the header
    }.items():
        stem, _, ending = name.partition(".")
        (folder / f"z_{stem}_{ending}.{ending}").write_bytes(content)


def odd_images(folder: Path, good: Path) -> None:
    """One file of every kind that is unusual and can be read, y_*.*"""
    photo = Image.open(good)
    other = photo.rotate(90, expand=True).resize(photo.size)
    photo.convert("CMYK").save(folder / "y_cmyk.jpg")
    photo.convert("RGBA").save(folder / "y_alpha.png")
    photo.convert("L").save(folder / "y_grey.png")
    photo.quantize(16).save(folder / "y_palette.png", transparency=bytes(range(16)))
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(folder / "y_deep.png")
    for name in ("y_moves.webp", "y_moves_too.png", "y_pages.tif"):
        photo.save(folder / name, save_all=True, append_images=[other])
    photo.resize((1, 1)).save(folder / "y_dot.png")


def test_odd_images_give_maps_and_bad_ones_one_line_each(maps_of, photos, tmp_path, recwarn, monkeypatch):
    odd_images(photos, photos / "a.jpg")
    good = {path.stem for path in photos.iterdir()}
    bad_images(photos, photos / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # so that Pillow warns of each photograph
    ended = maps_of(photos, tmp_path / "out", "--on_bad_image", "skip", "--batch_size", 3)
    assert ended.status == 1
    assert set(list_images(tmp_path / "out")) == good
    *lines, last = ended.err
    assert all(line.startswith("warning: ") for line in lines) and not recwarn
    left_out = [line for line in lines if "left out: " in line]
    assert len(left_out) == 5 and "/y_" not in "".join(left_out)
    assert "z_bomb_png.png is too large" in "".join(left_out)
    assert last.startswith("error: 5 of 18 images were left out: ") and "z_cut_jpg.jpg" in last
    (several,) = [line for line in lines if "several frames" in line]
    assert all(name in several for name in ("y_moves.webp", "y_moves_too.png", "y_pages.tif"))
    for name in ("y_alpha", "y_moves_too", "y_pages"):  # lossless: the photograph's own map
        # One grey level, for in another batch sums come out otherwise in their last bits.
        assert np.abs(grey(tmp_path / f"out/{name}.png") - grey(tmp_path / "out/a.png")).max() <= 1


def test_a_bad_image_stops_after_the_maps_before_it(maps_of, photos, tmp_path):
    (photos / "c.jpg").write_bytes(b"hello")
    ended = maps_of(photos, tmp_path / "out", "--batch_size", 4)
    assert ended.status == 2
    assert ended.err == [
        f"error: cannot read {photos}/c.jpg: not an image or damaged; replace or remove it "
        "(--on_bad_image skip goes on without it)"
    ]
    assert files_in(tmp_path / "out") == {"a.png", "b.png"}


def test_a_full_disk_is_one_line_and_leaves_whole_files(maps_of, photos, tmp_path):
    Image.open(photos / "c.jpg").resize((1500, 1200)).save(photos / "c.jpg")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        ended = maps_of(photos, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.is_refusal("c.png: File too large"), ended
    assert {"a.png", "b.png"} <= files_in(tmp_path / "out") <= {"a.png", "b.png", "d.png"}
    assert all(grey(path).shape == (70, 90) for path in (tmp_path / "out").glob("*.png"))


def test_too_little_memory_is_answered_with_what_helps(script, checkpoint, photos, tmp_path):
    """A limit on the process's address space, which allocations then really exceed."""
    code = (
        "import resource, runpy\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), used + (1 << 28)))\n"
        "runpy.run_path('test.py', run_name='__main__')\n"
    )
    (tmp_path / "limited.py").write_text(code)
    flags = ["--checkpoint", checkpoint, "--test_image_path", photos, "--save_path", tmp_path / "out"]
    ended = script(tmp_path / "limited.py", *flags, "--size", 1024, "--batch_size", 4, "--device", "cpu")
    assert ended.returncode == 2, ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("error: out of memory on cpu with batches of 4") and "--batch_size 2, --amp bf16" in line


STOPPED_AT_B = """
import os, runpy, sys
from sam2unet.masks.files import predict_folder

written = predict_folder.write_outputs

def write_and_be_stopped(folder, name, *rest):
    if name == "b":
        os.kill(os.getpid(), number)
    written(folder, name, *rest)

predict_folder.write_outputs = write_and_be_stopped
number = int(sys.argv.pop(1))
runpy.run_path("test.py", run_name="__main__")
"""


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_whole_files(script, checkpoint, photos, tmp_path, number, status):
    flags = ["--checkpoint", checkpoint, "--test_image_path", photos, "--save_path", tmp_path / "out", "--size", 64]
    (tmp_path / "stopped.py").write_text(STOPPED_AT_B)
    ended = script(tmp_path / "stopped.py", int(number), *flags, "--overlay")
    assert ended.returncode == status and ended.stderr.splitlines()[-1] == "stopped", ended.stderr
    found = files_in(tmp_path / "out")
    assert {"a.png", "b.png", "overlay/b.jpg"} <= found and not [name for name in found if "part" in name]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--tta", "flop"], "tta is flop, and there is no flop; wanted flip, scale or both"),
        (["--tile", "big"], "tile is big; wanted SIDE,OVERLAP"),
        (["--tile", "64,32"], "the overlap must be from 0 to below half of the side"),
        (["--tile", "0,0"], "tile is 0; it must be from 1 to"),
        (["--components", "-1"], "components is -1"),
        (["--tta", ""], "tta is , and there is no empty word; wanted flip, scale or both"),
        (["--tile", ""], "tile is ; wanted SIDE,OVERLAP"),
        (["--shard", ""], "--shard is ; wanted I/N"),
        (["--save_prob", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_wrong_words_are_one_line(maps_of, photos, tmp_path, flags, words):
    ended = maps_of(photos, tmp_path / "out", *flags)
    assert ended.is_refusal(words), ended
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_maps_of_this_project_are_never_replaced(maps_of, photos, tmp_path):
    """The second run replaces the maps of the first; a folder with the user's own files of these names is refused."""
    target, name = tmp_path / "out", "a.png"
    save(target / name, np.zeros((3, 3), np.uint8))
    before = (target / name).read_bytes()
    ended = maps_of(photos, target)
    assert ended.status == 2 and f"{target} holds {name}" in ended.err[-1]
    assert [path.name for path in target.iterdir()] == [name] and (target / name).read_bytes() == before
    assert maps_of(photos, tmp_path / "maps").status == maps_of(photos, tmp_path / "maps").status == 0
