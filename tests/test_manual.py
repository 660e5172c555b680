"""The manual builds from docs/ without a warning. Its links lead somewhere, and its reference leaves nothing out."""

import dataclasses
import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import sam2unet
from docs.reference_pages import read_commands
from sam2unet.recipe import FIELDS, Study
from sam2unet.scoring.classes.columns import PER_CLASS, SUMMARY
from sam2unet.scoring.columns import METRICS
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")  # what MyST and Napoleon use of Sphinx


@pytest.fixture(scope="module")
def manual(tmp_path_factory) -> Path:
    """The folder of the built manual. Warnings are errors, for example about a page that no page leads to."""
    build = pytest.importorskip("sphinx.cmd.build", reason="Sphinx is not installed: pip install -e .[docs]")
    folder = tmp_path_factory.mktemp("manual")
    words = ["-q", "-W", "--keep-going", "-d", folder / "doctrees", ROOT / "docs", folder / "html"]
    assert build.build_main([str(word) for word in words]) == 0
    return folder / "html"


def read_text(page: Path) -> str:
    """The text of a page without tags, and with single spaces."""
    text = re.sub(r"<[^>]+>", "", page.read_text())
    return " ".join(html.unescape(text).split())


def read_targets(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of each link and picture of a page, but not of addresses in the web."""
    for target in re.findall(r'(?:href|src)="([^"]*)"', page.read_text()):
        if not re.match("https?:|data:", target):
            name, _, anchor = html.unescape(target).partition("#")
            yield page.parent / unquote(name.partition("?")[0]) if name else page, anchor


def test_links_lead_to_files_and_anchors(manual):
    pages = {path.resolve(): path.read_text() for path in manual.rglob("*.html")}
    assert len(pages) > 20
    for page in pages:
        for path, anchor in read_targets(page):
            assert path.exists(), f"{page.name}: {path}"
            assert not anchor or f'id="{anchor}"' in pages[path.resolve()], f"{page.name}: {path.name}#{anchor}"


def test_every_flag_of_every_command_is_in_the_reference(manual):
    page = (manual / "reference/commands.html").read_text()
    commands = dict(read_commands())
    assert len(commands) > 15
    for name, parser in commands.items():
        flags = re.findall(r"(?<![\w-])--[a-z]\w*", parser.format_usage())
        label = re.sub("[ /]", "-", name)
        assert [flag for flag in flags if f'id="cmdoption-{label}-{flag[2:]}"' not in page] == [], name


def test_every_recipe_value_is_in_the_reference(manual):
    page = (manual / "reference/recipe.html").read_text()
    names = [*FIELDS, *(field.name for field in dataclasses.fields(Study))]
    assert [name for name in names if f'id="confval-{name}"' not in page] == []


def test_every_legend_is_in_the_reference(manual):
    text = read_text(manual / "reference/metrics.html")
    legends = [metric.legend for metric in METRICS.values()] + [*SUMMARY.values(), *PER_CLASS.values()]
    assert [legend for legend in legends if " ".join(legend.split()) not in text] == []


def test_every_public_name_is_in_the_reference(manual):
    page = (manual / "reference/api.html").read_text()
    assert [name for name in sam2unet.__all__ if f'id="sam2unet.{name}"' not in page] == []
