"""What is printed: one line each whatever a file is called, and no result is lost because it cannot be printed."""

import errno
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from torch.utils.data import DataLoader

from sam2unet.errors import UserError, print_line, printable, shortlist
from tests.conftest import ROOT, save

HOSTILE = "a\nerror: all is fine\x1b[2K\u202e\udcff\u2028"


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """The folder to work in, with two maps and masks whose name is no UTF-8 and has a line break."""
    rng = np.random.default_rng(0)
    for name in ("a\nerror: all is fine \udcff.png", "b.png"):
        for kind in ("maps", "masks"):
            noise = rng.integers(0, 256, (8, 9), np.uint8)
            save(tmp_path / kind / name, noise if kind == "maps" else np.where(noise > 99, 255, 0).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("--dataset_name", "=1+1<img src=x>\n", "--pred_path", "maps", "--gt_path", "masks", "--workers", "1")
FILES = ["per_image.csv", "results.json", "table.csv", "table.md", "table.tex"]


def test_a_line_shows_what_would_move_the_cursor_or_end_it(capsys):
    assert printable(HOSTILE) == r"a\nerror: all is fine\x1b[2K\u202e\xff\u2028"
    assert printable("ä 測試 é ↑ \u00a0\u3000") == "ä 測試 é ↑ \u00a0\u3000"
    print_line(HOSTILE)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert str(UserError(f"cannot read {shortlist([HOSTILE])}")) == f"cannot read {printable(HOSTILE)}"


class Failing:
    def __len__(self):
        return 1

    def __getitem__(self, place):
        raise UserError(f"cannot read {HOSTILE}")


def test_of_an_error_in_a_worker_its_own_line_is_left():
    loader = DataLoader(Failing(), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(UserError) as raised:
        next(iter(loader))
    assert str(raised.value) == f"cannot read {printable(HOSTILE)}"


def test_names_cannot_fake_a_line_nor_end_a_run(eval_py, scored):
    (scored / "maps" / "c.png").write_bytes((scored / "maps/b.png").read_bytes())
    ended = eval_py(*WORDS, "--save_dir", "out")
    assert ended.status == 0
    assert not any(line.startswith("error") for line in [*ended.out.splitlines(), *ended.err])
    assert sorted(os.listdir("out")) == FILES
    (scored / "masks" / "b.png").write_bytes(b"")
    (scored / "masks" / "a\nerror: all is fine \udcff.png").write_bytes(b"")
    ended = eval_py(*WORDS)
    assert ended.status == 2 and len(ended.err) == 2 and r"masks/a\nerror: all is fine \xff.png" in ended.err[-1]


def test_tables_hold_no_formulas_no_html_and_a_line_per_row(eval_py, scored):
    eval_py(*WORDS, "--save_dir", "out", "--report", "--method", "$x_1$ [a](b)|")
    read = {name: (scored / "out" / name).read_text() for name in [*FILES, "report.html"]}
    assert read["table.csv"].splitlines()[1].startswith("'=1+1<img src=x>\\n,$x_1$ [a](b)|,2,")
    assert len(read["per_image.csv"].splitlines()) == 3
    assert read["table.md"].splitlines()[2].startswith(r"| =1+1&lt;img src=x&gt;\\n | $x_1$ \[a\](b)\| | 2 | ")
    names = r"=1+1\textless{}img src=x\textgreater{}\textbackslash{}n & \$x\_1\$ {[}a](b)\textbar{} & "
    assert names in read["table.tex"]
    assert "<img src=x>" not in read["report.html"]
    again = eval_py("--from", "out/per_image.csv", "--save_dir", "again")
    assert again.status == 0 and "'=" not in again.out
    assert (scored / "again/per_image.csv").read_text() == read["per_image.csv"]
    assert "=1+1<img src=x>\\n" in json.loads((scored / "again/results.json").read_text())["datasets"]


class Full(io.StringIO):
    """Where nothing can be printed to."""

    number = errno.ENOSPC

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


class Closed(Full):
    number = errno.EPIPE


@pytest.mark.parametrize("stream, said", [(Full, ["error: cannot print: No space left on device"]), (Closed, [])])
def test_what_cannot_be_printed_is_written_all_the_same(stream, said, eval_py, scored, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream())
    ended = eval_py(*WORDS, "--save_dir", "out")
    assert ended.status == 1
    assert [line.split(";")[0] for line in ended.err if line.startswith("error")] == said
    assert sorted(os.listdir("out")) == FILES


def test_what_cannot_be_written_is_printed_all_the_same(eval_py, scored):
    (scored / "out/table.md").mkdir(parents=True)
    (scored / "out/results.json").write_text('{"versions": {}}')  # of an earlier run
    ended = eval_py(*WORDS, "--save_dir", "out")
    assert ended.status == 2 and ended.err[-1] == "error: cannot write into out: Is a directory: out/table.md"
    assert "MAE" in ended.out


@pytest.mark.parametrize("shell", ["> /dev/full", "| head -0"])
def test_a_process_whose_output_goes_nowhere_has_no_traceback(shell, scored):
    command = f"set -o pipefail; {sys.executable} {ROOT / 'eval.py'} --legend {shell}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == ("full" in shell) and "Traceback" not in ended.stderr
