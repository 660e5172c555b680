"""The cells of the notebook run from start to end as they are."""

import json
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell

from tests.conftest import ROOT


def test_the_tour_runs(script, monkeypatch, capsys):
    """In this process, and the scripts as forked ones: a kernel and four processes would import for half a minute."""
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(subprocess, "run", lambda words, **_: script(*words[1:], cwd=Path.cwd()))
    plt.switch_backend("agg")
    shell = InteractiveShell()
    for cell in cells:
        if cell["cell_type"] == "code":
            capsys.readouterr()
            shell.run_cell("".join(cell["source"])).raise_error()
    assert plt.gcf().axes and all(axis.images for axis in plt.gcf().axes)
    table = capsys.readouterr().out
    assert "mDice" in table and "sample" in table and " 40 " in table
