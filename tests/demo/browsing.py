"""Starts the server of a page as a process. Does in a browser what a visitor does on both pages."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT


class Server(NamedTuple):
    port: int
    process: subprocess.Popen
    around: Path  # its working directory, its home and the folder for temporary files


@contextmanager
def served(around: Path, script: str, *words: object, **env: str) -> Iterator[Server]:
    """The script as it serves a page, in folders of `around` and with these variables of the environment."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e .[demo]")
    for name in ("cwd", "home", "tmp"):
        (around / name).mkdir()
    places = {"HOME": str(around / "home"), "TMPDIR": str(around / "tmp"), "XDG_CACHE_HOME": str(around / "home")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.networks", str(ROOT / script), *map(str, words)],
        cwd=around / "cwd",
        env=os.environ | places | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env,
        stdout=subprocess.PIPE,
        stderr=open(around / "errors", "w"),
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("demo at http://127.0.0.1:"), line + (around / "errors").read_text()
    yield Server(int(re.search(r":(\d+) ", line)[1]), process, around)
    process.kill()
    process.wait()


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
    (box,) = until(lambda: page.find_elements("css selector", f"#{where} input[type=file]"))
    box.send_keys("\n".join(map(str, files)))


def text(page, css: str) -> str:
    return page.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)
