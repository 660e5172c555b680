"""The page for models that are asked: what a visit keeps and how it goes back, then clicks in a real browser."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, save
from PIL import Image
from prompt_server import SIDE, small_model

import sam2unet
from sam2unet.data.framing import Framing
from sam2unet.demo import prompt_session, serve
from sam2unet.demo.files import Limits
from sam2unet.demo.prompt_bundle import label_file, masks_file
from sam2unet.demo.prompt_panel import objects, stage
from sam2unet.demo.prompt_session import Box, Click, PromptBench, PromptMethod, PromptSession
from sam2unet.errors import UserError
from sam2unet.families import FAMILIES, Checkpoint

FRAMING = Framing(SIDE)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def session(model, tmp_path):
    (tmp_path / "home/uploads").mkdir(parents=True)
    method, limits = PromptMethod("small", model, FRAMING), Limits(megapixels=0.1, megabytes=0.2)
    return PromptSession(PromptBench(method, tmp_path / "home", (tmp_path / "home/uploads",), limits))


@pytest.fixture
def dropped(tmp_path):
    return photo(tmp_path / "home/uploads/one.png", (90, 70))


def photo(path: Path, size: tuple[int, int]) -> Path:
    """A bright disc on noise."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 90, (height, width, 3), dtype=np.uint8)
    save(path, np.where(np.hypot(x / width - 0.4, y / height - 0.5)[..., None] < 0.25, 240 - noise, noise))
    return path


def seen(session) -> list[tuple]:
    """All that a visitor is shown of each object."""
    return [
        (each.number, each.clicks, each.box, each.quality, each.prompt.tobytes(), each.whole.mask().tobytes())
        for each in session.state.objects
    ]


def test_clicks_add_up_and_the_answer_before_is_a_prompt_too(session, dropped, model):
    session.set_image(dropped)
    session.click(40, 30, 1)
    session.click(5, 60, 0)
    prompter = sam2unet.Prompter(model, FRAMING).set_image(dropped)
    first = prompter.predict([[40, 30]], [1])
    second = prompter.predict([[40, 30], [5, 60]], [1, 0], mask=first.prompt)
    (found,) = session.state.objects
    assert found.clicks == (Click(40, 30, 1), Click(5, 60, 0)) and found.quality == second.quality[0]
    assert np.array_equal(found.whole.mask(), second.masks[0]) and second.masks.any() and not second.masks.all()
    assert not np.array_equal(first.masks, second.masks)


def test_a_box_asks_alone_whichever_corner_comes_first(session, dropped, model):
    session.set_image(dropped)
    session.click(40, 30, 1)
    session.draw_box(60, 50, 20, 10)
    answer = sam2unet.Prompter(model, FRAMING).set_image(dropped).predict(box=[20, 10, 60, 50])
    (found,) = session.state.objects
    assert found.box == Box(20, 10, 60, 50) and found.clicks == ()
    assert np.array_equal(found.whole.mask(), answer.masks[0])
    session.click(30, 30, 0)
    after = sam2unet.Prompter(model, FRAMING).set_image(dropped).predict([[30, 30]], [0], mask=answer.prompt)
    assert np.array_equal(session.state.objects[0].whole.mask(), after.masks[0])
    assert session.state.objects[0].box == found.box


def test_undo_gives_back_exactly_what_was_there(session, dropped):
    session.set_image(dropped)
    steps = [
        lambda: session.click(40, 30, 1),
        lambda: session.click(70, 60, 0),
        lambda: (session.select(None), session.draw_box(2, 2, 30, 40)),
        lambda: session.click(10, 10, 0),
        lambda: (session.select(1), session.draw_box(20, 20, 50, 50)),
        lambda: session.delete(),
        lambda: session.clear(),
    ]
    before = []
    for step in steps:
        before.append((seen(session), stage(session)))
        step()
        assert seen(session) != before[-1][0]
    for objects_before, _ in reversed(before):
        session.undo()
        assert seen(session) == objects_before
    assert stage(session) == before[0][1] and session.past == []
    session.undo()
    assert session.state.objects == ()


def test_the_history_ends_somewhere(session, dropped, monkeypatch):
    monkeypatch.setattr(prompt_session, "HISTORY", 2)
    session.set_image(dropped)
    for x in (10, 20, 30):
        session.click(x, 30, 1)
    for _ in range(5):
        session.undo()
    assert [click.x for click in session.state.objects[0].clicks] == [10]


def test_objects_keep_their_numbers_and_each_its_own_clicks(session, dropped):
    session.set_image(dropped)
    for x in (20, 40, 60):
        session.select(None)
        session.click(x, 30, 1)
    session.select(2)
    session.click(41, 31, 0)
    assert [len(each.clicks) for each in session.state.objects] == [1, 2, 1]
    session.delete()
    assert [each.number for each in session.state.objects] == [1, 3] and session.selected is None
    session.click(50, 50, 1)
    assert [each.number for each in session.state.objects] == [1, 3, 4]
    session.select(99)
    assert session.selected is None and session.next_number == 5


def test_where_objects_overlap_the_lower_number_stands(session, dropped):
    session.set_image(dropped)
    session.click(40, 30, 1)
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    first, second = (each.whole.mask() for each in session.state.objects)
    assert (first & second).any() and (second & ~first).any()
    labels = session.label_map()
    assert labels.dtype == np.uint8 and labels.shape == (70, 90)
    assert np.array_equal(labels, np.where(first, 1, np.where(second, 2, 0)))
    session.select(1)  # drawn on top on the page; the file is the same
    session.click(41, 30, 1)
    first = session.state.objects[0].whole.mask()
    assert np.array_equal(session.label_map(), np.where(first, 1, np.where(second, 2, 0)))


def test_the_label_map_has_16_bits_where_8_are_too_few(session, dropped):
    session.set_image(dropped)
    session.click(40, 30, 1)
    (one,) = session.state.objects
    many = tuple(prompt_session.Object(**{**vars(one), "number": number}) for number in (255, 256))
    session.step(prompt_session.State(many[:1]))
    assert np.asarray(Image.open(label_file(session))).max() == 255
    session.step(prompt_session.State(many[1:]))
    labels = np.asarray(Image.open(label_file(session)))
    assert set(np.unique(labels)) == {0, 256} and np.array_equal(labels > 0, one.whole.mask())


def test_files_hold_the_masks_whole(session, dropped):
    session.set_image(dropped)
    with pytest.raises(UserError, match="nothing to save yet"):
        masks_file(session)
    session.click(40, 30, 1)
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    path = masks_file(session)
    assert path.name == "one_masks.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.png", "object_1.png", "object_2.png"]
        labels, *masks = (np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist())
    assert np.array_equal(labels, session.label_map())
    for mask, each in zip(masks, session.state.objects, strict=True):
        assert np.array_equal(mask, np.where(each.whole.mask(), 255, 0))
    assert label_file(session).exists() and not path.exists()
    session.close()
    assert not session.folder.exists()


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (lambda session: session.click(90, 0, 1), "90, 0 is not in the image of 90 x 70 pixels"),
        (lambda session: session.draw_box(0, -1, 5, 5), "0, -1 is not in the image"),
        (lambda session: (session.select(None), session.click(5, 5, 0)), "show first what the object is"),
    ],
)
def test_a_prompt_that_cannot_be_is_a_line_and_changes_nothing(session, dropped, work, line):
    with pytest.raises(UserError, match="no image yet"):
        session.click(0, 0, 1)
    session.set_image(dropped)
    session.click(40, 30, 1)
    before = seen(session)
    with pytest.raises(UserError, match=line):
        work(session)
    assert seen(session) == before and len(session.past) == 1


def test_a_bad_file_is_one_line_without_our_folders_and_changes_nothing(session, dropped, tmp_path):
    session.set_image(dropped)
    session.click(40, 30, 1)
    before = seen(session), stage(session)
    bad = {"text.jpg": b"no image", "heavy.jpg": b"\0" * 300_000, "notes.txt": b""}
    lines = ["cannot read text.jpg", "heavy.jpg has 0.3 MB; at most 0.2", "notes.txt is no image by its name"]
    for (name, content), line in zip(bad.items(), lines, strict=True):
        path = dropped.with_name(name)
        path.write_bytes(content)
        with pytest.raises(UserError, match=line) as caught:
            session.set_image(path)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(UserError, match="large.jpg has 400 x 300 pixels; at most 0.1"):
        session.set_image(photo(dropped.with_name("large.jpg"), (400, 300)))
    outside = tmp_path / "private.png"
    shutil.copy(dropped, outside)
    dropped.with_name("link.png").symlink_to(outside)
    for path in (outside, dropped.with_name("link.png"), dropped.parent / "../../private.png"):
        with pytest.raises(UserError, match="only files that were dropped"):
            session.set_image(path)
    assert (seen(session), stage(session)) == before
    session.undo()
    assert session.state.objects == ()


def test_what_is_shown_is_small_and_the_masks_are_not(session, dropped, monkeypatch):
    monkeypatch.setattr(prompt_session, "VIEW", 45)
    session.set_image(dropped)
    session.click(40, 30, 1)
    (found,) = session.state.objects
    assert session.image.view.shape == (35, 45, 3) and found.view.shape == (35, 45)
    assert found.whole.mask().shape == (70, 90) and 'data-width="90" data-height="70"' in stage(session)


def test_the_expected_quality_is_shown_within_0_and_1(session, dropped):
    session.set_image(dropped)
    session.click(40, 30, 1)
    (one,) = session.state.objects
    for quality, shown in ((1.4, "1.00"), (-0.2, "0.00"), (0.456, "0.46")):
        session.step(prompt_session.State((prompt_session.Object(**{**vars(one), "quality": quality}),), 1))
        assert f"expected IoU <em>{shown}</em>" in objects(session)


def checkpoint_of(task: str, path: Path) -> Checkpoint:
    return Checkpoint(path, next(family for family in FAMILIES.values() if family.task == task), {}, {}, {})


def test_a_page_is_chosen_by_the_task_of_the_family(model, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "read_any", lambda path: checkpoint_of(path.stem.split("-")[0], path))
    monkeypatch.setattr(serve, "open_model", lambda *_: model)
    monkeypatch.setattr(serve, "open_predictor", lambda *_: "a predictor")
    asked, mapped = tmp_path / "prompts-1.pth", tmp_path / "masks-1.pth"
    method = serve.open_methods([asked], {}, None, "cpu")
    assert method == PromptMethod("prompts-1", model, Framing())
    assert [each.predictor for each in serve.open_methods([mapped], {}, None, "cpu")] == ["a predictor"]
    for both in ([asked, mapped], [mapped, asked], [asked, asked]):
        with pytest.raises(UserError, match=r"prompts-1.pth takes prompts and has a page of its own; give it alone"):
            serve.open_methods(both, {}, None, "cpu")
    with pytest.raises(UserError, match="sees images at 64x64 alone; leave --size out"):
        serve.open_methods([asked], {}, 256, "cpu")
    (tmp_path / "recipe.yaml").write_text("model: sam_med2d\nsize: 64\nrgb: true\n")
    assert serve.open_methods([asked], {}, 64, "cpu").framing == Framing(64, rgb=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its port, process and folder for temporary files."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e .[demo]")
    around = tmp_path_factory.mktemp("around")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/prompt_server.py")],
        cwd=around,
        env=os.environ | {"TMPDIR": str(around), "HOME": str(around), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=open(around / "errors", "w"),
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("demo at http://127.0.0.1:"), line + (around / "errors").read_text()
    yield int(re.search(r":(\d+) ", line)[1]), process, around
    process.kill()
    process.wait()


@pytest.fixture
def page(server, browser, tmp_path):
    """The page, new, with downloads into this test's folder."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get(f"http://127.0.0.1:{server[0]}")
    until(lambda: len(browser.find_elements("css selector", "#examples img")) == 6)
    return browser


def until(what, seconds: float = 30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("waited in vain")


def text(page, css: str) -> str:
    return page.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)


def drop(page, file: Path) -> None:
    (box,) = until(lambda: page.find_elements("css selector", "#image input[type=file]"))
    box.send_keys(str(file))


def show(page, file: Path) -> None:
    drop(page, file)
    until(lambda: page.find_elements("css selector", f"#stage img[alt='{file.stem}']"))


def marks(page, kind: str) -> list[tuple[int, ...]]:
    """The numbers of the points (`foreground`, `background`) or the `box` that are drawn, in pixels of the image."""
    script = "return [...document.querySelectorAll(arguments[0])].map((mark) => mark.dataset.box ?? mark.dataset.point)"
    return [tuple(map(int, each.split())) for each in page.execute_script(script, f"#stage .{kind}")]


def picture(page) -> str:
    return page.execute_script("return document.querySelector('#stage img').src")


def count_objects(page) -> int:
    return page.execute_script("return document.querySelectorAll('#objects button').length")


def press(page, name: str) -> None:
    until(lambda: page.find_element("css selector", f"#{name}").is_enabled())
    page.find_element("css selector", f"#{name}").click()


class Hand:
    """A mouse over the picture, that goes to pixels of the image."""

    def __init__(self, page):
        self.page = page
        self.size = [int(self.stage.get_attribute(f"data-{side}")) for side in ("width", "height")]

    @property
    def stage(self):
        return self.page.find_element("css selector", "#stage .stage")

    def to(self, x: int, y: int) -> tuple:
        """To the middle of the pixel; selenium counts from the middle of the element, in whole pixels of the screen."""
        box = self.stage.rect
        shares = ((x + 0.5) / self.size[0] - 0.5, (y + 0.5) / self.size[1] - 0.5)
        return self.stage, round(shares[0] * box["width"]), round(shares[1] * box["height"])

    @property
    def chain(self):
        return pytest.importorskip("selenium.webdriver").ActionChains(self.page)

    def click(self, x: int, y: int, button: str = "click") -> None:
        getattr(self.chain.move_to_element_with_offset(*self.to(x, y)), button)().perform()

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        chain = self.chain.move_to_element_with_offset(*self.to(*start)).click_and_hold()
        chain.move_to_element_with_offset(*self.to(*end)).release().perform()

    @property
    def pixel(self) -> float:
        """Of the screen, in pixels of the image."""
        return max(1, self.size[0] / self.stage.rect["width"])


def near(found: tuple[int, ...], wanted: tuple[int, ...], most: float) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= most for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("size", [(90, 70), (1500, 1100)], ids=["enlarged", "shown smaller"])
def test_a_click_is_a_pixel_of_the_image_whatever_size_it_is_shown_at(page, tmp_path, size, model):
    path = photo(tmp_path / "one.jpg", size)
    show(page, path)
    hand, wanted = Hand(page), (int(size[0] * 0.4), int(size[1] * 0.5))
    assert (hand.stage.rect["width"] > 1.5 * size[0]) == (size[0] == 90) and hand.size == list(size)
    hand.click(*wanted)
    until(lambda: marks(page, "foreground"))
    (point,) = marks(page, "foreground")
    assert near(point, wanted, 0 if size[0] == 90 else hand.pixel)
    answer = sam2unet.Prompter(model, FRAMING).set_image(path).predict([point], [1])
    assert f"expected IoU {min(max(answer.quality[0], 0), 1):.2f}" in text(page, "#objects")
    press(page, "labels")
    saved = until(lambda: next(tmp_path.glob("*_labels.png"), None))
    assert saved.name == "one_labels.png"
    assert np.array_equal(np.asarray(Image.open(saved)), answer.masks[0])


def test_objects_by_points_and_boxes_then_back_and_saved(page, tmp_path, model):
    path = photo(tmp_path / "two.png", (90, 70))
    show(page, path)
    hand = Hand(page)
    plain = picture(page)
    hand.click(36, 35)
    until(lambda: marks(page, "foreground") == [(36, 35)])
    first = picture(page)
    assert first != plain and "answer took" in text(page, "#objects")
    hand.click(80, 60, "context_click")
    until(lambda: marks(page, "background") == [(80, 60)])
    page.find_elements("css selector", "#label input")[1].click()
    hand.click(8, 8)
    until(lambda: marks(page, "background") == [(80, 60), (8, 8)])
    press(page, "undo")
    press(page, "undo")
    until(lambda: marks(page, "background") == [])
    assert picture(page) == first
    press(page, "new")
    until(lambda: "starts object 2" in text(page, "#objects"))
    hand.drag((70, 60), (20, 10))
    until(lambda: marks(page, "box"))
    assert marks(page, "box") == [(20, 10, 70, 60)] and count_objects(page) == 2
    prompter = sam2unet.Prompter(model, FRAMING).set_image(path)
    one, two = prompter.predict([[36, 35]], [1]).masks[0], prompter.predict(box=[20, 10, 70, 60]).masks[0]
    press(page, "masks")
    with zipfile.ZipFile(until(lambda: next(tmp_path.glob("*_masks.zip"), None))) as archive:
        labels, first, second = (
            np.asarray(Image.open(io.BytesIO(archive.read(name))))
            for name in ("labels.png", "object_1.png", "object_2.png")
        )
    assert np.array_equal(labels, np.where(one, 1, np.where(two, 2, 0))) and set(np.unique(labels)) == {0, 1, 2}
    assert np.array_equal(first > 0, one) and np.array_equal(second > 0, two)
    page.find_element("css selector", "#objects [data-number='1']").click()
    until(lambda: marks(page, "foreground") == [(36, 35)] and not marks(page, "box"))
    press(page, "delete")
    until(lambda: count_objects(page) == 1)
    press(page, "clear")
    until(lambda: picture(page) == plain)


def test_quick_clicks_are_all_taken_in_their_order(page, tmp_path):
    show(page, photo(tmp_path / "quick.png", (90, 70)))
    hand, places = Hand(page), [(36, 35), (40, 30), (30, 40), (45, 35), (33, 33)]
    for place in places:
        hand.click(*place)
    until(lambda: len(marks(page, "foreground")) == 5)
    assert marks(page, "foreground") == places


def test_a_bad_file_or_first_point_is_a_message_and_nothing_else_changes(page, tmp_path):
    show(page, photo(tmp_path / "good.png", (90, 70)))
    Hand(page).click(36, 35)
    until(lambda: marks(page, "foreground"))
    before = picture(page)
    (tmp_path / "text.jpg").write_text("not an image")
    drop(page, tmp_path / "text.jpg")
    until(lambda: text(page, "#status [role=alert]").startswith("cannot read text.jpg: not an image or damaged"))
    assert picture(page) == before
    press(page, "new")
    until(lambda: text(page, "#status") == "")
    Hand(page).click(80, 10, "context_click")
    until(lambda: text(page, "#status [role=alert]").startswith("show first what the object is"))
    assert count_objects(page) == 1


def test_an_example_is_shown_and_the_page_logs_no_error_and_fits_a_phone(page):
    page.get_log("browser")
    page.find_elements("css selector", "#examples button")[4].click()
    until(lambda: page.find_elements("css selector", "#stage img[alt='camouflaged_015']"))
    hand = Hand(page)
    hand.click(hand.size[0] // 2, hand.size[1] // 2)
    until(lambda: marks(page, "foreground"))
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert page.find_element("css selector", "html").get_property("scrollWidth") <= 400
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_leaves_nothing_behind(server, page, tmp_path):
    """The last test: it ends the server."""
    _, process, around = server
    show(page, photo(tmp_path / "last.png", (90, 70)))
    page.get("about:blank")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert [path.name for path in around.iterdir()] == ["errors"]
    assert "Traceback" not in (around / "errors").read_text()
