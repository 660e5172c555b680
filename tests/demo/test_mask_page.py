"""The page for maps in a real browser (Chromium, headless), and requests that try to do harm."""

import io
import json
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sam2unet
from sam2unet.scoring.columns import RELEASED
from sam2unet.scoring.score_pair import ScoreJob, ScoreOptions, score_job
from sam2unet.weights.formats import save_state
from tests.conftest import ROOT, save, write_pairs
from tests.demo.browsing import (
    ask,
    check_layout,
    drag_onto,
    drop,
    find_violations,
    find_zip,
    list_tab_stops,
    run_event,
    served,
    text,
    until,
    visit,
)

REFUSED = (400, 403, 404)


@pytest.fixture(scope="module")
def second(fill, tmp_path_factory):
    """Another checkpoint to compare with."""
    model = sam2unet.create_model("sam2unet", encoder="micro")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 1))
    path = tmp_path_factory.mktemp("second") / "other.pth"
    save_state(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def server(start, checkpoint, second, tmp_path_factory):
    words = ["--checkpoint", checkpoint, second, "--size", 64, "--device", "cpu", "--port", 0]
    words += ["--max_images", 3, "--max_megapixels", 0.5, "--max_mb", 1]
    with served(start, tmp_path_factory.mktemp("around"), "scripts/demo.py", *words) as server:
        yield server


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), count=2, size=(90, 70))


@pytest.fixture
def page(server, browser, tmp_path):
    return visit(browser, server, tmp_path)


def source(page, part: str) -> str:
    """The picture, as it is in the page; empty if there is none."""
    css = f"#panel [data-part='{part}'] img"
    return page.execute_script("return document.querySelector(arguments[0])?.src ?? ''", css)


def show(page, *images: Path) -> None:
    drop(page, "images", *images)
    until(lambda: text(page, "#panel [data-part=image] span") == images[0].stem)


def slide(page, name: str, value: float) -> None:
    script = """const control = document.querySelector(arguments[0] + " input[type=range]");
        control.value = arguments[1];
        control.dispatchEvent(new Event("input", { bubbles: true }));"""
    page.execute_script(script, f"#{name}", str(value))


@pytest.fixture(scope="module")
def written(script, checkpoint, second, pairs, tmp_path_factory):
    """Maps that test.py writes for the same images, in a folder for each checkpoint."""
    folder = tmp_path_factory.mktemp("maps")
    for path in (checkpoint, second):
        flags = ["--checkpoint", path, "--test_image_path", pairs[0], "--save_path", folder / path.stem, "--size", 64]
        assert script("test.py", *flags, "--device", "cpu").returncode == 0
    return folder


def test_a_dropped_image_gets_maps_overlays_and_what_differs(page, pairs):
    show(page, pairs[0] / "a.jpg")
    parts = ["image", "overlay-0", "map-0", "overlay-1", "map-1", "differences"]
    pictures = [source(page, part) for part in parts]
    assert all(each.startswith("data:image/jpeg") for each in pictures) and len(set(pictures)) == 6
    assert "SAM2-UNet-20" in text(page, "#heading") and "other" in text(page, "#panel")
    assert text(page, "#status") == "1 image"


def test_sliders_change_overlays_and_thumbnails_and_nothing_else(page, pairs):
    show(page, pairs[0] / "a.jpg", pairs[0] / "b.jpg")
    until(lambda: len(thumbnails(page)) == 2)
    before = {part: source(page, part) for part in ("overlay-0", "map-0", "image")}
    small = thumbnails(page)
    start = time.monotonic()
    slide(page, "threshold", 0.8)
    until(lambda: source(page, "overlay-0") != before["overlay-0"] and thumbnails(page) != small)
    print(f"the pictures followed the slider after {time.monotonic() - start:.2f} s")
    assert "above 0.80" in text(page, "#panel [data-part=overlay-0]")
    assert source(page, "map-0") == before["map-0"] and source(page, "image") == before["image"]
    strict = source(page, "overlay-0")
    slide(page, "opacity", 1)
    until(lambda: source(page, "overlay-0") != strict)
    slide(page, "threshold", 0.5)
    slide(page, "opacity", 0.5)
    until(lambda: source(page, "overlay-0") == before["overlay-0"] and thumbnails(page) == small)


def thumbnails(page) -> list[str]:
    return page.execute_script("return [...document.querySelectorAll('#gallery img')].map((img) => img.src)")


def test_the_zip_has_the_pixels_that_test_py_writes(page, pairs, written, tmp_path):
    show(page, pairs[0] / "a.jpg", pairs[0] / "b.jpg")
    slide(page, "threshold", 0.3)
    until(lambda: "above 0.30" in text(page, "#panel"))
    page.find_element("css selector", "#download").click()
    with zipfile.ZipFile(find_zip(tmp_path)) as archive:
        for method in ("SAM2-UNet-20", "other"):
            for name in ("a.png", "b.png"):
                found = np.asarray(Image.open(io.BytesIO(archive.read(f"{method}/maps/{name}"))))
                assert np.array_equal(found, np.asarray(Image.open(written / method / name)))
                cut = np.asarray(Image.open(io.BytesIO(archive.read(f"{method}/masks/{name}"))))
                assert set(np.unique(cut)) == {0, 255} and abs((cut == 255).mean() - (found > 76).mean()) < 0.01


def test_a_dropped_mask_gives_the_numbers_of_eval_py(page, pairs, written):
    show(page, pairs[0] / "b.jpg")
    assert text(page, "#scores table") == ""
    drag_onto(page, "#masks", pairs[1] / "b.png")
    until(lambda: text(page, "#scores table"))
    cells = [cell.text for cell in page.find_elements("css selector", "#scores td[data-metric]")]
    numbers = [
        score_job(ScoreJob(written / name / "b.png", pairs[1] / "b.png", ScoreOptions())).numbers
        for name in ("SAM2-UNet-20", "other")
    ]
    assert cells == [f"{found[key]:.3f}" for key in RELEASED for found in numbers]


def test_other_images_are_chosen_in_the_gallery_and_clear_can_be_undone(page, pairs):
    drag_onto(page, "#heading", pairs[0])
    until(lambda: len(thumbnails(page)) == 2)
    page.find_elements("css selector", "#gallery button")[1].send_keys("\n")
    until(lambda: text(page, "#panel [data-part=image] span") == "b")
    assert page.switch_to.active_element.get_attribute("data-index") == "1"
    page.find_element("css selector", "#clear").click()
    until(lambda: not page.find_elements("css selector", "#panel img"))
    assert text(page, "#undo") == "Undo: show the 2 earlier images again"
    page.find_element("css selector", "#undo").click()
    until(lambda: text(page, "#panel [data-part=image] span") == "a" and len(thumbnails(page)) == 2)
    assert not page.find_elements("css selector", "#undo")


def test_a_bad_file_is_a_message_and_nothing_else_changes(page, pairs, tmp_path):
    show(page, pairs[0] / "a.jpg")
    before = source(page, "overlay-0")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.jpg").write_bytes((pairs[0] / "a.jpg").read_bytes()[:-2000])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    save(tmp_path / "large.png", np.zeros((800, 900), np.uint8))
    lines = {
        "text.jpg": "cannot read text.jpg: not an image or damaged; replace or remove it",
        "cut.jpg": "cannot read cut.jpg: not an image or damaged; replace or remove it",
        "bomb.png": "bomb.png is too large",
        "large.png": "large.png has 900 x 800 pixels; the limit is 0.5 million",
    }
    for name, line in lines.items():
        drop(page, "images", tmp_path / name)
        until(lambda name=name: name in text(page, "#status [role=alert]"))
        assert text(page, "#status [role=alert]").startswith(line)
        assert source(page, "overlay-0") == before
    drop(page, "images", *[pairs[0] / "a.jpg"] * 2, *[pairs[0] / "b.jpg"] * 2)
    until(lambda: text(page, "#status").startswith("4 files are too many; at most 3"))
    assert source(page, "overlay-0") == before


def test_fits_screens_and_has_names_contrast_and_visible_focus(page):
    assert page.title == "Compare the foreground of two models · sam2unet"
    stops = list_tab_stops(page)
    assert stops[0] == "Images, or a video clip: click to upload or drop files" and len(stops) == 8
    assert find_violations(page) == {}
    page.find_elements("css selector", "#examples button")[4].click()
    until(lambda: text(page, "#scores table"))
    assert text(page, "#panel [data-part=image] span") == "camouflaged_015"
    check_layout(page, "#panel [data-part=image]", "#panel [data-part=overlay-0]", "#panel [data-part=differences]")
    stops = list_tab_stops(page)
    assert stops[:2] == ["number input for Threshold", "range slider for Threshold"]
    assert stops[-1] == "Example 6 of 6, with a mask: salient_021"


def test_only_the_status_line_shows_progress(server):
    config = json.loads(ask(server, "/config")[1])
    (status,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "status")
    shown = [each for each in config["dependencies"] if each["outputs"] and each["show_progress"] != "hidden"]
    assert len(shown) == 3 and all(each["show_progress_on"] == [status] for each in shown)


def test_asks_no_other_address_and_logs_no_error(server, page, pairs):
    page.get_log("browser"), page.get_log("performance")  # reading empties them
    page.refresh()
    show(page, pairs[0] / "a.jpg")
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    own = f"http://127.0.0.1:{server.port}/"
    assert own in asked and [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def home_of(server) -> Path:
    (home,) = (server.around / "tmp").iterdir()
    return home


def test_no_file_outside_can_be_fetched(server, page, pairs, checkpoint):
    show(page, pairs[0] / "a.jpg")
    ours = next(home_of(server).glob("visit-*/drop-*/*/photo.npy"))  # even another visitor's
    example = next(home_of(server).glob("uploads/*/*.jpg"))
    assert ask(server, f"/gradio_api/file={example}")[0] == 200
    dots, coded = "../" * 12, "%2e%2e%2f" * 12
    paths = [
        f"{start}{file}"
        for file in ("/etc/passwd", checkpoint, ROOT / "README.md", ours)
        for start in (
            "/gradio_api/file=",
            "/gradio_api/file/",
            "/file=",
            f"/gradio_api/file={home_of(server)}/uploads/{dots}",
            f"/gradio_api/file={coded}",
            f"/gradio_api/file={dots}",
            f"/static/{dots}",
            f"/assets/{coded}",
        )
    ]
    paths += ["/gradio_api/file=file:///etc/passwd", f"/gradio_api/file=http://127.0.0.1:{server.port}/config"]
    paths += ["/gradio_api/file=https%3A//example.com/", "/gradio_api/proxy=http://127.0.0.1/"]
    for path in paths:
        status, answer = ask(server, path)
        assert status in REFUSED and b"root:" not in answer and len(answer) < 2000, path
    assert ask(server, "/", Host="elsewhere.example")[0] == 400


def test_an_upload_cannot_choose_its_folder(server):
    before = sorted(server.around.rglob("x.png"))
    for name in ("../../x.png", "/x.png", "..%2f..%2fx.png", f"{server.around}/cwd/x.png", "..\\\\..\\\\x.png"):
        body = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n?\r\n--b--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        status, answer = ask(server, "/gradio_api/upload", body.encode(), **kind)
        assert status == 200
        (path,) = map(Path, json.loads(answer))
        assert path.resolve().parent.parent == home_of(server) / "uploads" and path.is_file()
    outside = [path for path in server.around.rglob("*x.png") if home_of(server) not in path.parents]
    assert before == outside == []


def test_no_file_outside_can_be_named_as_an_upload(server, pairs):
    config = json.loads(ask(server, "/config")[1])
    (box,) = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "images")
    (event,) = (each for each in config["dependencies"] if [box, "upload"] in each["targets"])
    image = pairs[0] / "a.jpg"

    def answer(file: dict) -> tuple[int, dict]:
        data = [[file | {"meta": {"_type": "gradio.FileData"}}], None, 0.5, 0.5]
        return run_event(server, data=data, fn_index=event["id"], trigger_id=box)

    _, uploaded = ask(
        server,
        "/gradio_api/upload",
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        + image.read_bytes()
        + b"\r\n--b--\r\n",
        **{"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert "data:image/jpeg" in json.dumps(answer({"path": json.loads(uploaded)[0]}))
    for path in (str(image), f"{home_of(server)}/uploads/../../../..{image}", f"http://../../../../../../..{image}"):
        for extra in ({}, {"is_stream": True}, {"url": image.as_uri()}):
            assert answer({"path": path} | extra) == (403, {}), (path, extra)


def test_leaves_nothing_behind(server, page, pairs):
    """The last test: it ends the server."""
    show(page, pairs[0] / "a.jpg")
    page.get("about:blank")
    home = home_of(server)
    assert [path for name in ("cwd", "home") for path in (server.around / name).rglob("*")] == []
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.finish().returncode == 128 + signal.SIGTERM
    assert not home.exists() and list((server.around / "tmp").iterdir()) == []
