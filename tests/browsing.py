"""A page's server as a process, and what a visitor does in any of the demo's pages."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT


class Server(NamedTuple):
    port: int
    process: subprocess.Popen
    around: Path  # its working directory, its home and the folder for temporary files


@contextmanager
def served(around: Path, script: str, *words: object) -> Iterator[Server]:
    """The script as it serves a page, in folders of `around`."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e .[demo]")
    for name in ("cwd", "home", "tmp"):
        (around / name).mkdir()
    places = {"HOME": str(around / "home"), "TMPDIR": str(around / "tmp"), "XDG_CACHE_HOME": str(around / "home")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, words)],
        cwd=around / "cwd",
        env=os.environ | places | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=open(around / "errors", "w"),
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("demo at http://127.0.0.1:"), line + (around / "errors").read_text()
    yield Server(int(re.search(r":(\d+) ", line)[1]), process, around)
    process.kill()
    process.wait()


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


def drop(page, where: str, *files: Path) -> None:
    (box,) = until(lambda: page.find_elements("css selector", f"#{where} input[type=file]"))
    box.send_keys("\n".join(map(str, files)))


def text(page, css: str) -> str:
    return page.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)
