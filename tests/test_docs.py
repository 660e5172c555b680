"""README.md and docs/: the commands and the Python code run, the links lead somewhere, the map shows what is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from sam2unet.commands import COMMANDS
from sam2unet.layers.hiera import hiera
from sam2unet.weights.formats import save_state
from tests.conftest import ROOT, tiny_sam_med2d, write_class_pairs

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
SMALL = {  # what makes a documented command cheap
    "train.py": "--epoch 1 --size 32 --batch_size 2 --workers 0",
    "eval.py": "--workers 1",
}


class Block(NamedTuple):
    """A fenced block of a page. It is not run if `reason` says why."""

    where: str
    language: str
    text: str
    reason: str


def read_blocks(page: Path, *languages: str) -> Iterator[Block]:
    fence, lines, reason = None, [], ""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if fence is not None and line == "```":
            if fence in languages:
                yield Block(f"{page.name}:{number - len(lines)}", fence, "\n".join(lines), reason)
            fence, lines, reason = None, [], ""
        elif fence is not None:
            lines.append(line)
        elif line.startswith("```"):
            fence = line[3:]
        elif line:
            marker = re.fullmatch("<!-- not run: (.+) -->", line)
            reason = marker[1] if marker else ""


def read_commands(page: Path) -> Iterator[tuple[Block, list[str]]]:
    """Each command of the bash blocks, as words, without comments and variables."""
    for block in read_blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match("[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield block, words


@pytest.fixture(scope="module")
def prepared(polyps, tmp_path_factory) -> Path:
    """A folder with small files of the names that the pages use."""
    folder = tmp_path_factory.mktemp("docs")
    images = sorted((polyps / "images").iterdir())[:8]
    for target, chosen in (("data/train", images[:6]), ("data/test", images[6:])):
        for image in chosen:
            write_small(image, folder / target / "images" / f"{image.stem}.jpg")
            write_small(polyps / "masks" / f"{image.stem}.png", folder / target / "masks" / f"{image.stem}.png")
    for name in ("masks/A", "masks/B", "maps/A", "maps/B", "data/CAMO/GT", "maps/CAMO", "others/FEDER/CAMO"):
        shutil.copytree(folder / "data/test/masks", folder / name)
    shutil.copytree(folder / "data/test/images", folder / "data/CAMO/Imgs")
    for part, count in (("train", 7), ("test", 2)):
        write_class_pairs(folder / "data/streets" / part, count)
    for part, name in (("train", "ct_001"), ("train", "ct_002"), ("test", "ct_007")):
        write_scan(folder / "scans" / part, f"{name}.nii.gz")
    (configuration,) = read_blocks(ROOT / "docs/evaluation.md", "yaml")
    (folder / "sets.yaml").write_text(configuration.text)
    write_small(images[0], folder / "photo.jpg")
    write_small(polyps / "masks" / f"{images[0].stem}.png", folder / "photo.png")
    write_small(images[1], folder / "slice.png")
    torch.manual_seed(0)
    trunk = {f"image_encoder.trunk.{name}": value for name, value in hiera("micro").state_dict().items()}
    save_state(trunk, folder / "sam2_hiera_large.pt")
    save_state(tiny_sam_med2d().state_dict(), folder / "sam-med2d_b.pth")
    for page in ("train.md", "predict.md"):
        _, first = next(read_commands(ROOT / "docs" / page))
        assert run_command(first, folder) == 0
    return folder


def write_scan(folder: Path, name: str) -> None:
    """A scan of four slices with a bright box, and the mask of the box."""
    values = np.random.default_rng(0).normal(0, 20, (40, 48, 4))
    mask = np.zeros(values.shape, np.uint8)
    mask[10:25, 12:30, 1:] = 1
    for kind, array in (("images", values + 100 * mask), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([0.8, 0.8, 5, 1]))
        nibabel.save(image, folder / kind / name)


def write_small(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        image.resize((120, 90), Image.Resampling.NEAREST).save(target)


def run_command(words: list[str], folder: Path) -> int:
    """The exit status. A new run replaces the prepared one, and its only checkpoint gets the name of epoch 20."""
    if words[0] == "sam2unet":
        words = ["python", "sam2unet/__main__.py", *words[1:]]
    program, script, *flags = words
    assert program == "python", f"mark {program} as not run; only scripts of this project are run"
    save_path = folder / flags[flags.index("--save_path") + 1] if "--save_path" in flags else None
    if script == "train.py" and "--resume" not in flags:
        shutil.rmtree(save_path, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend((ROOT / script).parent)
        patch.setattr(sys, "argv", [script, *flags, *SMALL.get(script, "").split()])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    if script == "train.py" and (save_path / "SAM2-UNet-1.pth").exists():
        (save_path / "SAM2-UNet-1.pth").rename(save_path / "SAM2-UNet-20.pth")
    return ended.value.code


@each_page
def test_commands_run(page, prepared, tmp_path, capsys):
    commands = [(block, words) for block, words in read_commands(page) if not block.reason]
    if not commands:
        pytest.skip("all commands of this page are marked as not run")
    folder = shutil.copytree(prepared, tmp_path / "folder")
    for block, words in commands:
        status = run_command(words, folder)
        assert status == 0, f"{block.where}: {shlex.join(words)}\n{capsys.readouterr().err}"


@each_page
def test_flags_of_commands_that_are_not_run_exist(page, monkeypatch, capsys):
    for block, words in read_commands(page):
        if not block.reason:
            continue
        if words[0] == "pip":
            check_extras(words)
        elif words[0] not in ("source", "uvx", "docker", "ray", "sbatch", "export") and "=" not in words[0]:
            script, flags = split_command(words)
            assert (ROOT / script).is_file(), f"{block.where}: there is no {script}"
            if script.endswith(".py"):
                try:
                    load_parser(script, monkeypatch).parse_args(flags)
                except SystemExit:
                    pytest.fail(f"{block.where}: {script} {shlex.join(flags)}\n{capsys.readouterr().err}")


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """Script relative to the project, and its flags. A shell script with flags passes them to the script beside it."""
    if words[:3] == ["python", "-m", "benchmarks"]:
        now, before = "benchmarks/__main__.py", "benchmarks/__main__.py"
        return now if (ROOT / now).exists() else before, words[3:]
    if words[0] == "sam2unet":
        return f"sam2unet/commands/{COMMANDS[words[1]].module}.py", words[2:]
    index = next(index for index, word in enumerate(words) if word.endswith((".py", ".sh")))
    script, flags = words[index], words[index + 1 :]
    return script.replace(".sh", ".py") if flags and script == "scripts/quickstart.sh" else script, flags


def load_parser(script: str, monkeypatch):
    if script.startswith("sam2unet/"):
        return importlib.import_module(script.removesuffix(".py").replace("/", ".")).parser()
    for folder in (ROOT / script, ROOT / "train.py"):
        monkeypatch.syspath_prepend(folder.parent)
    spec = importlib.util.spec_from_file_location(f"documented_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parser()


def check_extras(words: list[str]) -> None:
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for extras in re.findall(r"\.\[(.+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(known)


@each_page
def test_python_code_runs(page, prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    for block in read_blocks(page, "python"):
        code = compile(block.text, block.where, "exec")
        if not block.reason:
            exec(code, {})


def read_prose(page: Path) -> list[str]:
    """Lines outside fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return text.splitlines()


def read_anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    headings = [line.lstrip("#").strip() for line in read_prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(read_prose(page))):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in read_anchors(other), target


@each_page
def test_lines_are_wrapped(page):
    lines = [line for line in read_prose(page) if not line.startswith("|")]
    lines += [line for block in read_blocks(page, "bash", "python", "yaml") for line in block.text.splitlines()]
    assert [line for line in lines if len(line) > 120] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


def test_the_map_names_files_and_folders_that_exist():
    (tree,) = read_blocks(ROOT / "docs/layout.md", "text")
    missing, folders = [], [ROOT]
    for line in tree.text.splitlines():
        indent, text = re.match(r"( *)(.+?)  ", line).groups()
        del folders[len(indent) // 2 + 1 :]  # what is above the line in the tree
        missing += [name for name in text.split() if not (folders[-1] / name).exists()]
        folders.append(folders[-1] / text.split()[0])
    assert missing == []


def test_walkthroughs_name_functions_that_exist():
    rows = re.findall(r"^\| `(\S+\.py)` \| `(\S+)` \|", (ROOT / "docs/layout.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    for file, name in rows:
        body = ast.parse((ROOT / file).read_text()).body
        for part in name.split("."):
            match = [node for node in body if getattr(node, "name", None) == part]
            assert match, f"{file} has no {name}"
            body = match[0].body
