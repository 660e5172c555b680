"""The cells of the notebook run from start to end as they are."""

import json
import shutil
import subprocess
from pathlib import Path

from sam2unet.commands import make_sample_data
from tests.conftest import ROOT


def test_the_tour_runs(script, sample_data, monkeypatch, capsys):
    """In this process, and the scripts as forked ones: a kernel and four processes would import for half a minute.

    The smallest network is trained, on the first of the sample data. Another test checks these.
    """
    # Not needed by the other tests of this process, and slow to import.
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell

    def run(words: list, **_: object) -> subprocess.CompletedProcess:
        _, path, *flags = words
        if path.name == "make_sample_data.py":
            shutil.copytree(sample_data, make_sample_data.parser().parse_args(flags).save_path)
            return subprocess.CompletedProcess(words, 0, "", "")
        return script(path, *flags, *["--encoder", "micro"] * (path.name == "train.py"), cwd=Path.cwd())

    cells = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(subprocess, "run", run)
    plt.switch_backend("agg")
    shell = InteractiveShell()
    for cell in cells:
        if cell["cell_type"] == "code":
            capsys.readouterr()
            shell.run_cell("".join(cell["source"])).raise_error()
    assert plt.gcf().axes and all(axis.images for axis in plt.gcf().axes)
    table = capsys.readouterr().out
    assert "mDice" in table and "sample" in table and " 12 " in table
