"""The page for prompts, with clicks in a real browser."""

import ctypes
import io
import json
import select
import signal
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sam2unet
from sam2unet.prompts.framing import Framing
from tests.demo.browsing import (
    ask,
    check_layout,
    drag_onto,
    drop,
    find_violations,
    find_zip,
    keys,
    list_tab_stops,
    run_event,
    screen,
    served,
    text,
    until,
    visit,
)
from tests.demo.prompt_server import SIDE, photo

FRAMING = Framing(SIDE)


@pytest.fixture(scope="module")
def outside():
    """A name server and a web server of this computer: their sockets, and a function that lists what reached them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names, socket.create_server(("127.0.0.1", 0)) as web:
        names.bind(("127.0.0.1", 0))
        yield names, web, lambda: select.select([names, web], [], [], 0.5)[0]


@pytest.fixture(scope="module")
def server(start, tmp_path_factory, outside):
    port = str(outside[0].getsockname()[1])
    around = tmp_path_factory.mktemp("around")
    with served(start, around, "tests/demo/prompt_server.py", NAME_SERVER=port) as server:
        yield server


@pytest.fixture
def page(server, browser, tmp_path):
    return visit(browser, server, tmp_path)


def show(page, file: Path) -> None:
    drop(page, "images", file)
    until(lambda: page.find_elements("css selector", f"#stage img[alt='{file.stem}']"))


def marks(page, kind: str) -> list[tuple[int, ...]]:
    """The numbers of the points (`foreground`, `background`) or the `box` that are drawn, in pixels of the image."""
    script = "return [...document.querySelectorAll(arguments[0])].map((mark) => mark.dataset.box ?? mark.dataset.point)"
    return [tuple(map(int, each.split())) for each in page.execute_script(script, f"#stage .{kind}")]


def picture(page) -> str:
    return page.execute_script("return document.querySelector('#stage img').src")


def count_objects(page) -> int:
    return page.execute_script("return document.querySelectorAll('#objects button').length")


def press(page, name: str, answer: bool | None = None) -> None:
    """Presses a button. `answer`: to the question whether objects shall be deleted; None: there is no question."""
    until(lambda: page.find_element("css selector", f"#{name}").is_enabled())
    page.find_element("css selector", f"#{name}").click()
    if answer is not None:
        question = page.switch_to.alert
        assert question.text.startswith("Delete ")
        question.accept() if answer else question.dismiss()


def tooltip(page, number: int) -> str:
    return page.find_element("css selector", f"#objects [data-index='{number}']").get_attribute("title")


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
    assert tooltip(page, 1).startswith(f"Expected IoU {min(max(answer.quality[0], 0), 1):.2f}")
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
    assert first != plain and " ms" in tooltip(page, 1) and "area " in text(page, "#objects")
    hand.click(80, 60, "context_click")
    until(lambda: marks(page, "background") == [(80, 60)])
    page.find_elements("css selector", "#label input")[1].click()
    hand.click(8, 8)
    until(lambda: marks(page, "background") == [(80, 60), (8, 8)])
    press(page, "undo")
    keys(page, "control+z")
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
    with zipfile.ZipFile(find_zip(tmp_path, "*_masks.zip")) as archive:
        labels, first, second = (
            np.asarray(Image.open(io.BytesIO(archive.read(name))))
            for name in ("labels.png", "object_1.png", "object_2.png")
        )
    assert np.array_equal(labels, np.where(one, 1, np.where(two, 2, 0))) and set(np.unique(labels)) == {0, 1, 2}
    assert np.array_equal(first > 0, one) and np.array_equal(second > 0, two)
    page.find_element("css selector", "#objects [data-index='1']").click()
    until(lambda: marks(page, "foreground") == [(36, 35)] and not marks(page, "box"))
    assert page.switch_to.active_element.get_attribute("data-index") == "1"
    press(page, "delete", answer=False)
    press(page, "delete", answer=True)
    until(lambda: count_objects(page) == 1)
    press(page, "clear", answer=True)
    until(lambda: picture(page) == plain)
    press(page, "undo")
    until(lambda: count_objects(page) == 1)


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
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "heavy.png").write_bytes(1_100_000 * b"0")
    (tmp_path / "empty").mkdir()
    for name, line in {
        "text.jpg": "cannot read text.jpg: not an image or damaged",
        "notes.txt": "notes.txt cannot be used here; wanted .jpg, ",
        "heavy.png": "heavy.png has 1.1 MB; the limit is 1 MB",
        "empty": "The folder has no images.",
    }.items():
        drag_onto(page, "#stage .stage", tmp_path / name)
        until(lambda line=line: text(page, "#status [role=alert]").startswith(line))
        assert picture(page) == before and not page.find_elements("css selector", ".toast-body")
    press(page, "new")
    until(lambda: text(page, "#status") == "")
    Hand(page).click(80, 10, "context_click")
    until(lambda: text(page, "#status [role=alert]").startswith("First click on the object"))
    assert count_objects(page) == 1


def test_images_and_folders_dropped_on_the_picture_are_a_queue(page, tmp_path):
    show(page, photo(tmp_path / "one.png", (90, 70)))
    Hand(page).click(36, 35)
    until(lambda: marks(page, "foreground"))
    before = picture(page)
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "folder/notes.txt").write_text("not an image")
    for name in ("b.png", "inner/c.png"):
        photo(tmp_path / "folder" / name, (80, 60))
    drag_onto(page, "#stage .stage", tmp_path / "folder")
    until(lambda: text(page, "#status") == "one is kept with its object. Press Back to return to it.")
    assert text(page, "#place") == "b 2 of 3 · 80 x 60" and count_objects(page) == 0
    assert len(page.window_handles) == 1
    press(page, "next")
    until(lambda: text(page, "#place").startswith("c 3 of 3"))
    Hand(page).click(30, 30)
    until(lambda: marks(page, "foreground"))
    for name in ("b", "one"):
        press(page, "back")
        until(lambda name=name: text(page, "#place").startswith(f"{name} "))
    assert marks(page, "foreground") == [(36, 35)] and picture(page) == before
    press(page, "masks")
    with zipfile.ZipFile(find_zip(tmp_path, "all_masks.zip")) as archive:
        files = ("labels.png", "object_1.png", "objects.csv")
        assert archive.namelist() == [f"{name}/{file}" for name in ("one", "c") for file in files]
    drag_onto(page, "#masks", photo(tmp_path / "d.png", (70, 60)))  # anywhere on the page, also on this button
    until(lambda: text(page, "#place").startswith("d 4 of 4"))


def test_the_keyboard_alone_marks_names_zooms_saves_and_a_new_visit_continues(page, server, browser, tmp_path):
    page.find_elements("css selector", "#examples button")[4].send_keys("\n")
    until(lambda: page.find_elements("css selector", "#stage img[alt='camouflaged_015']"))
    page.find_element("css selector", "#label input").send_keys("\t\t")
    assert page.switch_to.active_element.get_attribute("aria-label").startswith("Picture camouflaged_015")
    middle, step = (219 // 2, 270 // 2), round(270 / 40)
    keys(page, "left", "shift+down", "enter")
    until(lambda: marks(page, "foreground") == [(middle[0] - step, middle[1] + 1)])
    keys(page, "up", "up", "shift+enter")
    until(lambda: marks(page, "background") == [(middle[0] - step, middle[1] + 1 - 2 * step)])
    keys(page, "control+z")
    until(lambda: not marks(page, "background"))
    keys(page, "N")  # Caps Lock can be on
    until(lambda: "starts object 2" in text(page, "#objects"))
    keys(page, "B", "right", "down", "b")
    x, y = middle[0] - step, middle[1] + 1 - 2 * step
    until(lambda: marks(page, "box") == [(x, y, x + step, y + step)])
    width = page.find_element("css selector", ".stage").rect["width"]
    keys(page, "add")
    assert page.find_element("css selector", ".stage").rect["width"] == pytest.approx(1.5 * width, rel=0.01)
    keys(page, "0")
    assert page.find_element("css selector", ".stage").rect["width"] == pytest.approx(width, rel=0.01)
    page.find_element("css selector", "#class textarea, #class input").send_keys("polyp\n")
    until(lambda: "polyp" in text(page, "#objects [data-index='2']"))
    press(page, "labels")
    saved = until(lambda: next(tmp_path.glob("*_labels.png"), None))
    labels = np.asarray(Image.open(saved))
    visit(browser, server, tmp_path)
    page.find_elements("css selector", "#examples button")[4].click()
    until(lambda: page.find_elements("css selector", "#stage img[alt='camouflaged_015']"))
    drag_onto(page, "#stage .stage", saved)
    until(lambda: count_objects(page) == 2)
    assert "polyp" in text(page, "#objects [data-index='2']") and "label map" in tooltip(page, 2)
    page.find_element("css selector", "#objects [data-index='2']").click()
    Hand(page).click(200, 200, "context_click")
    until(lambda: marks(page, "background"))
    assert (labels == 2).any() and count_objects(page) == 2


def touch(page, kind: str, *points: tuple[float, float]) -> None:
    places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})


def test_fingers_on_a_phone_mark_draw_zoom_and_move(page, server, browser, tmp_path):
    assert "right mouse button" in text(page, "#heading")
    with screen(page, 400, 800, touch=True):
        visit(browser, server, tmp_path)
        assert "mouse" not in text(page, "body")
        show(page, photo(tmp_path / "one.png", (90, 70)))
        hand = Hand(page)
        box = hand.stage.rect

        def at(x: int, y: int) -> tuple[float, float]:
            return box["x"] + (x + 0.5) / 90 * box["width"], box["y"] + (y + 0.5) / 70 * box["height"]

        touch(page, "touchStart", at(36, 35)), touch(page, "touchEnd")
        until(lambda: marks(page, "foreground") == [(36, 35)])
        touch(page, "touchStart", at(20, 10)), touch(page, "touchMove", at(70, 60)), touch(page, "touchEnd")
        until(lambda: marks(page, "box") == [(20, 10, 70, 60)])
        touch(page, "touchStart", at(30, 35), at(60, 35)), touch(page, "touchMove", at(15, 35), at(75, 35))
        touch(page, "touchEnd")
        assert hand.stage.rect["width"] == pytest.approx(2 * box["width"], rel=0.05)
        place = hand.stage.rect["x"]
        touch(page, "touchStart", at(30, 35), at(60, 35)), touch(page, "touchMove", at(20, 35), at(50, 35))
        touch(page, "touchEnd")
        assert hand.stage.rect["x"] == pytest.approx(place - 10 / 90 * box["width"], abs=3)
        assert marks(page, "box") == [(20, 10, 70, 60)] and count_objects(page) == 1


def test_fits_screens_and_has_names_contrast_and_visible_focus(page):
    page.get_log("browser")
    assert page.title == "Outline objects with clicks and boxes · sam2unet"
    assert list_tab_stops(page)[:3] == [
        "Images: click to upload or drop files",
        "Open a folder of images",
        "Example 1 of 6, an image: salient_000",
    ]
    assert find_violations(page) == {}
    page.find_elements("css selector", "#examples button")[4].click()
    until(lambda: page.find_elements("css selector", "#stage img[alt='camouflaged_015']"))
    hand = Hand(page)
    hand.click(hand.size[0] // 2, hand.size[1] // 2)
    until(lambda: marks(page, "foreground"))
    check_layout(page, "#stage .stage", "#objects button")
    assert "Undo" in list_tab_stops(page)
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def functions_of(server) -> dict[str, int]:
    return {each["api_name"]: each["id"] for each in json.loads(ask(server, "/config")[1])["dependencies"]}


def test_no_visitor_makes_the_page_send_a_request(server, outside):
    _, web, reached = outside
    number = functions_of(server)["on_images"]
    for host in ("outside.test", "127.0.0.1"):
        address = f"http://{host}:{web.getsockname()[1]}/x.png"
        file = {"path": address, "meta": {"_type": "gradio.FileData"}}
        assert run_event(server, data=[[file], None], fn_index=number)[0] == 403
        body = {"data": [file, None], "image": file, "session_hash": "a", "component_id": 1, "fn_name": "preprocess"}
        for route in ("run/on_images", "api/on_images", "call/on_images", "call/v2/on_images", "stream/a"):
            kind = {"Content-Type": "application/json"}
            assert ask(server, f"/gradio_api/{route}", json.dumps(body).encode(), **kind)[0] == 403
        for route in ("file=", "file/", "proxy="):
            assert ask(server, f"/gradio_api/{route}{address}")[0] == 403
    assert reached() == []


def test_a_bad_request_is_one_line_in_the_terminal(server):
    before, number = server.read_errors(), functions_of(server)
    events = [
        {"data": [], "fn_index": number["on_prompt"]},
        {"data": [None, 7], "fn_index": number["on_prompt"], "event_data": {"point": [1, 1]}},
        {"data": [{}, None], "fn_index": number["on_images"]},
        {"data": [None], "fn_index": number["on_example"], "event_data": {"index": "x\nerror: all is fine"}},
        {"data": [None], "fn_index": number["on_example"]},
        {"data": [], "fn_index": number["js_fn"]},
    ]
    for fields in events:
        status, answer = run_event(server, **fields)
        assert status == 400 or not answer["success"]
    ask(server, "/gradio_api/queue/data?session_hash=nobody")
    lines = server.read_errors().removeprefix(before).splitlines()
    assert len(lines) == len(events) + 1 and all(line.startswith("warning: ") for line in lines)
    for name, event in (("on_choice", [1]), ("on_prompt", 5), ("on_images", None)):  # the page says what is wrong
        data = [None, 1] if name == "on_prompt" else [None, None]
        assert run_event(server, data=data, fn_index=number[name], event_data=event)[1]["success"]


def test_leaves_nothing_behind(server, page, tmp_path):
    """The last test: it ends the server, by a signal that another thread than the main one receives."""
    show(page, photo(tmp_path / "last.png", (90, 70)))
    page.get("about:blank")
    threads = [int(path.name) for path in Path(f"/proc/{server.process.pid}/task").iterdir()]
    ctypes.CDLL(None).tgkill(server.process.pid, max(threads), signal.SIGTERM)
    ended = server.process.finish()
    assert max(threads) != server.process.pid and ended.returncode == 128 + signal.SIGTERM
    assert [path for name in ("cwd", "home", "tmp") for path in (server.around / name).iterdir()] == []
    assert "Traceback" not in ended.stderr
