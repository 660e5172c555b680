"""Starts the server of a page in another process. Does in a browser what a visitor does on both pages."""

import http.client
import json
import os
import re
import signal
import time
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.forked import Started


class Server(NamedTuple):
    port: int
    process: Started
    around: Path  # its working directory, its home and the folder for temporary files

    def read_errors(self) -> str:
        return Path(self.process.files[1].name).read_text()


@contextmanager
def served(start: Callable[..., Started], around: Path, script: str, *words: object, **env: str) -> Iterator[Server]:
    """The script as it serves a page, in folders of `around` and with these variables of the environment."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e .[demo]")
    for name in ("cwd", "home", "tmp"):
        (around / name).mkdir()
    env |= {"HOME": str(around / "home"), "TMPDIR": str(around / "tmp"), "XDG_CACHE_HOME": str(around / "home")}
    process = start(script, *words, cwd=around / "cwd", **env)
    output = Path(process.files[0].name)
    until(lambda: process.poll() is not None or output.read_text().endswith("\n"), seconds=60)
    server = Server(0, process, around)
    address = re.match(r"demo at http://127.0.0.1:(\d+) ", output.read_text())
    assert address, output.read_text() + server.read_errors()
    yield server._replace(port=int(address[1]))
    with suppress(ProcessLookupError):  # a test ended it
        os.killpg(process.pid, signal.SIGKILL)


def ask(server: Server, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """The path goes out as it is, dots and all."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def run_event(server: Server, **fields: object) -> tuple[int, dict]:
    """Join the queue as the page does: the answer's status, and the last message if it is 200."""
    visit = uuid.uuid4().hex
    body = json.dumps({"session_hash": visit} | fields).encode()
    status, _ = ask(server, "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})
    if status != 200:
        return status, {}
    stream = f"http://127.0.0.1:{server.port}/gradio_api/queue/data?session_hash={visit}"
    with urllib.request.urlopen(stream, timeout=30) as lines:
        messages = (json.loads(line[5:]) for line in lines if line.startswith(b"data:"))
        return status, next(each for each in messages if each["msg"] == "process_completed")


def visit(browser, server: Server, downloads: Path):
    """The page, new, with downloads into that folder."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    browser.get(f"http://127.0.0.1:{server.port}")
    until(lambda: len(browser.find_elements("css selector", "#examples img")) == 6)
    return browser


def until(what, seconds: float = 30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("waited in vain")


def find_zip(folder: Path, pattern: str = "*.zip") -> Path:
    """Waits for a complete ZIP file. The browser first makes an empty file with the final name."""
    return until(lambda: next(filter(zipfile.is_zipfile, folder.glob(pattern)), None))


def drop(page, where: str, *files: Path) -> None:
    """Chooses files in a field for uploads."""
    (box,) = until(lambda: page.find_elements("css selector", f"#{where} input[type=file]"))
    box.send_keys("\n".join(map(str, files)))


def drag_onto(page, css: str, *files: Path) -> None:
    """Drags files or folders from the desktop onto the middle of an element."""
    box = page.find_element("css selector", css).rect
    top = page.execute_script("return scrollY")
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2 - top}
    data = {"items": [], "files": [str(path) for path in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.execute_cdp_cmd("Input.dispatchDragEvent", place | {"type": kind, "data": data})


def keys(page, *pressed: str) -> None:
    """Presses keys one after the other, on the element that has the focus. Names of two keys are joined by `+`."""
    webdriver = pytest.importorskip("selenium.webdriver")
    for name in pressed:
        *held, last = [getattr(webdriver.Keys, part.upper(), part) for part in name.split("+")]
        chain = webdriver.ActionChains(page, duration=20)
        for key in held:
            chain.key_down(key)
        chain.send_keys(last)
        for key in held:
            chain.key_up(key)
        chain.perform()


@contextmanager
def screen(page, width: int, height: int, scheme: str = "light", touch: bool = False) -> Iterator[None]:
    """A screen of this size in CSS pixels, light or dark, with a mouse or with fingers."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch, "maxTouchPoints": 2})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        yield
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def find_violations(page) -> dict[str, list]:
    """What axe-core finds: contrast below 4.5, controls without names, wrong roles and more; by rule."""
    pytest.importorskip("axe_playwright_python", reason="axe-core is not installed: pip install -e .[dev]")
    until(lambda: page.execute_script("return document.getAnimations().length === 0"))  # colours can still change
    page.execute_script((resources.files("axe_playwright_python") / "axe.min.js").read_text())
    script = "axe.run({ resultTypes: ['violations'] }).then((result) => arguments[0](result.violations))"
    return {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in page.execute_async_script(script)}


TAB_STOP = """const stop = document.activeElement, box = stop.getBoundingClientRect(), style = getComputedStyle(stop);
const width = style.outlineStyle === "solid" ? parseFloat(style.outlineWidth) : 0;
const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
const picture = stop.querySelector("img")?.alt ?? "";
const name = [stop.ariaLabel ?? stop.labels?.[0]?.innerText ?? picture + " " + stop.innerText].join().trim();
const isVisible = stop.checkVisibility({ opacityProperty: true }) && box.width > 10 && box.height > 5;
return [name, width >= 2, isVisible && (stop.contains(top) || top?.contains(stop))];"""


def list_tab_stops(page) -> list[str]:
    """Presses Tab through the whole page. Returns the names of the stops. Fails if one of them cannot be seen."""
    page.execute_script(
        "document.body.insertAdjacentHTML('afterbegin', '<i id=start tabindex=-1></i>'); start.focus(); start.remove()"
    )
    names = []
    while len(names) < 60:
        keys(page, "tab")
        if page.execute_script("return document.activeElement === document.body"):
            break
        name, has_focus_ring, is_visible = page.execute_script(TAB_STOP)
        assert name and has_focus_ring and is_visible, (name, has_focus_ring, is_visible)
        names.append(name)
    return names


def text(page, css: str) -> str:
    return page.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)


def check_layout(page, *together: str) -> None:
    """Checks a page with results: it fits a screen of 1400 x 900, on a phone the parts `together` are in view.

    Without violations of axe-core, light and dark.
    """
    root = page.find_element("css selector", "html")
    for scheme in ("light", "dark"):
        with screen(page, 1400, 900, scheme):
            assert (root.get_property("scrollWidth"), root.get_property("scrollHeight")) == (1400, 900)
            assert find_violations(page) == {}
    with screen(page, 400, 800, touch=True):
        assert root.get_property("scrollWidth") <= 400
        page.execute_script("scrollTo(0, 0)")
        boxes = [page.find_element("css selector", css).rect for css in together]
        assert all(box["y"] + box["height"] <= 800 for box in boxes), boxes
        assert find_violations(page) == {}
