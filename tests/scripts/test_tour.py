"""The notebook runs from start to end as it is."""

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT


def test_the_tour_runs():
    notebook = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT / "docs"}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    table = outputs[-1]["text"]
    assert "mDice" in table and "sample" in table and " 40 " in table
