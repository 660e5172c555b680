"""The pictures of curves and the numbers beside them."""

import csv
import sys

import numpy as np
import pytest
from PIL import Image

from sam2unet.errors import UserError
from sam2unet.scoring.aggregate import MethodResult
from sam2unet.scoring.tables.plots import draw_plot, line_style, write_plots


def result(dataset, method, shift=0.0):
    """Curves by descending cut, as the evaluator keeps them: recall grows, precision falls."""
    steps = np.linspace(0, 1, 256)
    precision, recall = 0.95 - 0.6 * steps**4 - shift, 0.3 + 0.7 * steps
    f = 1.3 * precision * recall / (0.3 * precision + recall)
    curves = {"precision": precision, "recall": recall, "F": f, "E": f - 0.01}
    return MethodResult(dataset, method, ["one", "two"], [], [], [], {}, curves)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of two data sets, one with two methods."""
    pytest.importorskip("matplotlib")
    results = [result("A/B", "x"), result("C", "x"), result("A/B", "y", 0.1)]
    return write_plots(results, tmp_path_factory.mktemp("plots"))


def test_a_data_set_has_a_picture_in_two_formats_and_its_numbers(files):
    assert [file.name for file in files] == [
        f"curves_{name}.{kind}" for name in ("A_B", "C") for kind in ("png", "pdf", "csv")
    ]
    assert set(files[0].parent.iterdir()) == set(files)
    assert Image.open(files[0]).size[0] >= 1500 and files[1].read_bytes().startswith(b"%PDF")


def test_the_numbers_belong_to_ascending_cuts(files):
    rows, curves = list(csv.DictReader(files[2].open())), result("A/B", "x").curves
    assert len(rows) == 512 and [row["threshold"] for row in rows[:256]] == [str(cut) for cut in range(256)]
    assert float(rows[0]["recall"]) == curves["recall"][255] == 1  # cut 0: all is foreground
    assert float(rows[255]["F"]) == curves["F"][0] and rows[256]["method"] == "y"


def test_the_curves_drawn_are_the_methods_by_ascending_threshold(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    methods = [result("A", "_x$1"), result("A", "y", 0.1)]
    draw_plot(figure, methods)
    by_recall, by_f, by_e = figure.axes
    for axes, name in ((by_f, "F"), (by_e, "E")):
        for line, r in zip([x for x in axes.lines if len(x.get_xdata()) == 256], methods, strict=True):
            np.testing.assert_array_equal(line.get_ydata()[[0, 255]], r.curves[name][[255, 0]])
    np.testing.assert_array_equal(by_recall.lines[1].get_ydata(), methods[1].curves["precision"])
    labels = [entry.get_text() for entry in by_f.get_legend().get_texts()]
    assert labels == [rf"{methods[0].curves['F'].max():.3f}  _x\$1", f"{methods[1].curves['F'].max():.3f}  y"]
    styles = {(line.get_color(), line.get_linestyle()) for line in by_recall.lines}
    assert len(styles) == 2 and len({colour for colour, _ in styles}) == 2


def test_as_many_as_28_methods_can_be_told_apart():
    assert len({(look["color"], look["linestyle"]) for look in map(line_style, range(28))}) == 28


def test_the_same_curves_make_the_same_files(files, tmp_path):
    again = write_plots([result("C", "x")], tmp_path)
    assert len(again) == 3 and [file.read_bytes() for file in files[3:]] == [file.read_bytes() for file in again]


def test_two_data_sets_never_share_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match=r"curves_A_B\.csv; rename 'A_B'"):
        write_plots([result("A/B", "x"), result("A_B", "x")], tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_curves_there_is_an_error_and_no_file(tmp_path):
    pytest.importorskip("matplotlib")
    bare = MethodResult("B", "x", ["one"], [], [], [], {}, {})
    with pytest.raises(UserError, match="B x has no curves to plot"):
        write_plots([result("A", "x"), bare], tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"\[plots\]"):
        write_plots([result("A", "x")], tmp_path)
