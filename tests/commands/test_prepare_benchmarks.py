"""From downloaded archives to a table, as a user does it."""

import pytest

from sam2unet.commands import prepare_benchmarks, reproduce
from tests.benchmark_folders import list_contents, write_zip


@pytest.fixture
def archives(shared, small_counts, tmp_path):
    """A folder with CAMO as a ZIP file, and `small.yaml`, a recipe that needs it."""
    write_zip(tmp_path / "downloads/CAMO-V.1.0-CVIU2019.zip", list_contents(shared, "CAMO-V.1.0-CVIU2019"))
    small_counts("CAMO-V.1.0-CVIU2019")
    (tmp_path / "small.yaml").write_text(
        "encoder: micro\nsize: 64\nepoch: 1\nbatch_size: 3\ntrain: [CAMO-train]\ntrain_count: 3\n"
        "test: [CAMO]\ntest_count: [2]\nprotocol: camouflaged\nexpect: sam2-unet\n"
    )
    return tmp_path / "downloads"


def test_reproduce_goes_from_archives_to_the_table(archives, run_main, steps, tmp_path):
    words = (tmp_path / "small.yaml", "--downloads", archives, "--save_path", tmp_path / "run", "--workers", 0)
    status, out, err = run_main(reproduce, *words)
    assert status == 0, err
    assert "CAMO test CAMO-V.1.0-CVIU2019.zip/CAMO-V.1.0-CVIU2019/{Images/Test,GT} 2 2 ok" in " ".join(out.split())
    assert "were published" not in err
    assert sorted(path.name for path in (tmp_path / "run/maps/CAMO").glob("*.png")) == ["0050.png", "0051.png"]
    assert "CAMO" in (tmp_path / "run/scores/table.md").read_text()

    prepared = tmp_path / "run/data"
    assert run_main(prepare_benchmarks, archives, "--data_root", prepared)[0] == 0  # they are the same folders
    steps.clear()
    assert run_main(reproduce, *words)[0] == 0
    assert [words[0] for words in steps] == ["train", "eval"]


def test_reproduce_names_what_the_downloads_lack(archives, run_main, steps, tmp_path):
    recipe = (tmp_path / "small.yaml").read_text().replace("test: [CAMO]", "test: [NC4K]")
    (tmp_path / "small.yaml").write_text(recipe)
    words = (tmp_path / "small.yaml", "--downloads", archives, "--save_path", tmp_path / "run")
    status, _, err = run_main(reproduce, *words)
    assert status == 2 and steps == []
    assert err.startswith(f"error: not in {tmp_path / 'run/data'}: NC4K; ")


def test_the_exit_status_says_whether_all_sets_are_ready(archives, run_main, small_counts, tmp_path, monkeypatch):
    root = tmp_path / "data"
    assert run_main(prepare_benchmarks, archives, "--data_root", root)[0] == 0
    small_counts("COD")  # three test images of CAMO
    other = tmp_path / "other"
    status, _, err = run_main(prepare_benchmarks, archives, "--data_root", other, "--copy")
    assert (status, err) == (1, "error: not ready: CAMO, CAMO-train; the table gives the reason\n")
    assert not other.exists() or not list(other.iterdir())
    assert run_main(prepare_benchmarks, archives, "--data_root", other, "--copy", "--anyway")[0] == 0


@pytest.mark.parametrize(
    "downloads, root, words",
    [
        ("nothing", "data", "no such folder: "),
        ("empty", "data", "no known data set in "),
        ("downloads", "downloads", "is also the data root"),
        ("small.yaml", "data", "small.yaml is a file; wanted a folder"),
    ],
)
def test_wrong_folders_are_one_line(downloads, root, words, archives, run_main, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = run_main(prepare_benchmarks, tmp_path / downloads, "--data_root", tmp_path / root)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and words in err
