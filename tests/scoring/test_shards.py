"""eval.py --shard and --merge: joined parts give what a single run gives, byte for byte."""

import json
import os

import numpy as np
import pytest

from sam2unet.runtime.shards import Shard
from sam2unet.scoring.aggregate import MethodResult
from sam2unet.scoring.chunks import BLOCKS, choose_block, gather_scores, join_scores
from sam2unet.scoring.parts import list_share
from sam2unet.scoring.score_pair import ImageScore
from tests.conftest import save
from tests.scoring.classes.test_eval_classes import make_arrays, save_values, write_classes
from tests.scoring.made_up import FOUR, flags


@pytest.fixture
def compare_runs(evaluate, tmp_path):
    """Scores all pairs at once, then in three shards that end in another order, and compares everything."""

    def call(*words):
        single = evaluate(*words, "--save_dir", tmp_path / "single")
        assert single.status == 0, single.err
        for shard in ("3/3", "1/3", "2/3", "1/3"):  # the first one was started again
            ended = evaluate(*words, "--save_dir", tmp_path / "parts", "--shard", shard)
            assert ended.status == 0 and len(ended.out.splitlines()) == 1, ended.err
        assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [f"part-{i}-of-3.npz" for i in (1, 2, 3)]
        merged = evaluate("--merge", tmp_path / "parts", "--save_dir", tmp_path / "merged")
        assert merged.status == 0, merged.err
        assert (merged.out.replace("merged", "single"), merged.err) == (single.out, single.err)
        files = [
            {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("single", "merged")
        ]
        results = [json.loads(content.pop("results.json")) for content in files]
        assert all(result.pop("arguments") for result in results)
        assert json.dumps(results[0]) == json.dumps(results[1])
        pages = [content.pop("report.html", b"").splitlines() for content in files]
        different = [one for one, other in zip(*pages, strict=True) if one != other]
        assert all(b"Made on" in line or b"Command" in line for line in different)
        assert files[0] == files[1]
        return single

    return call


def test_joined_shards_equal_a_single_run(compare_runs, sets):
    (sets / "A/bad/3.png").unlink()
    save(sets / "A/good/1.png", np.zeros((40, 50), np.uint8))
    single = compare_runs(
        *flags(sets, *FOUR), "--missing", "zero", "--mask_threshold", 0, "--protocol", "all", "--report"
    )
    assert "1 of 6 masks have no prediction: 3.png" in single.err


def test_joined_shards_of_classes_equal_a_single_run(compare_runs, tmp_path):
    masks, maps = make_arrays()
    for i, mask in enumerate(masks):
        save_values(tmp_path / f"masks/{i}.png", mask)
        save_values(tmp_path / f"maps/{i}.png", maps["good"][i])
    words = ["--classes", write_classes(tmp_path / "classes.yaml"), "--dataset_name", "CT", "--protocol", "medical"]
    compare_runs(*words, "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks")


def test_joined_shards_of_volumes_equal_a_single_run(compare_runs, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("masks", "maps"):
        (tmp_path / folder).mkdir()
        for name in "abcd":
            np.save(tmp_path / folder / f"{name}.npy", (rng.random((6, 12, 10)) > 0.5).astype(np.uint8))
    np.save(tmp_path / "maps/c.npy", np.zeros((6, 12, 10), np.uint8))
    words = ["--dataset_name", "MR", "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks"]
    single = compare_runs(*words, "--protocol", "medical", "--spacing", 2, 1, 1)
    assert "either the mask or the map is empty in 1 pairs: c" in single.err


@pytest.fixture
def parts(evaluate, sets):
    """The flags of a run whose two shards are scored, and the folder of the parts."""
    words = [*flags(sets, ("A", "good")), "--save_dir", sets / "parts"]
    for shard in ("1/2", "2/2"):
        assert evaluate(*words, "--shard", shard).status == 0
    return words, sets / "parts"


def refuse(evaluate, text, *words):
    ended = evaluate(*words)
    assert ended.status == 2 and text in ended.err and len(ended.err.splitlines()) == 1, ended.err


def test_parts_that_are_missing_or_of_another_division_are_named(evaluate, parts, sets):
    words, folder = parts
    evaluate(*words, "--shard", "1/3")
    refuse(evaluate, "has parts of 2 and of 3 shards", "--merge", folder)
    (folder / "part-1-of-3.npz").unlink()
    (folder / "part-2-of-2.npz").unlink()
    refuse(evaluate, "1 of 2 parts are missing", "--merge", folder)
    (sets / "A/part-0-of-0.npz").touch()
    refuse(evaluate, "no parts in", "--merge", sets / "A")
    refuse(evaluate, "cannot read the folder", "--merge", sets / "none")


def test_parts_of_other_settings_or_files_are_refused(evaluate, parts, sets):
    words, folder = parts
    evaluate(*words, "--shard", "2/2", "--resize")
    refuse(
        evaluate, "part-2-of-2.npz does not fit the other parts and this run: resize is True there", "--merge", folder
    )
    evaluate(*words, "--shard", "2/2")
    refuse(evaluate, "mirror is False there and True now", "--merge", folder, "--protocol", "mirror")
    assert " maxF " in evaluate("--merge", folder, "--protocol", "salient").out
    save(sets / "A/masks/new.png", np.zeros((40, 50), np.uint8))
    save(sets / "A/good/new.png", np.zeros((40, 50), np.uint8))
    refuse(
        evaluate,
        "part-1-of-2.npz does not fit the other parts and this run: names of data set 1 is 6 (",
        "--merge",
        folder,
    )


def test_a_part_does_not_overwrite_another_file(evaluate, parts):
    words, folder = parts
    for content in (b"", b"mine", (folder / "part-2-of-2.npz").read_bytes()[:-100]):
        (folder / "part-1-of-2.npz").write_bytes(content)
        refuse(evaluate, "part-1-of-2.npz is damaged, or not a part", *words, "--shard", "1/2")
        refuse(evaluate, "part-1-of-2.npz is damaged, or not a part", "--merge", folder)
        assert (folder / "part-1-of-2.npz").read_bytes() == content
    np.savez(folder / "part-1-of-2.npz", header=np.zeros(3))
    refuse(evaluate, "part-1-of-2.npz is not a part", *words, "--shard", "1/2")


@pytest.mark.parametrize(
    "words, text",
    [
        (["--shard", "3/2", "--save_dir", "parts"], "--shard is 3/2; wanted I/N"),
        (["--shard", "1/2"], "--shard needs --save_dir"),
        (["--shard", "1/2", "--merge", "parts"], "--shard does not go with --merge"),
        (["--report_images", 0, "--save_dir", "parts", "--report"], "--report_images is 0; it must be 1 or more"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words, text, evaluate, sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(evaluate, text, *flags(sets, ("A", "good")), *words)
    assert not (tmp_path / "parts").exists()


def test_a_wrong_size_is_reported_before_all_pairs_are_scored(evaluate, tmp_path):
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:3] = 255
    for folder in ("masks", "maps"):
        save(tmp_path / folder / "000.png", mask)
        for i in range(1, 600):
            os.link(tmp_path / folder / "000.png", tmp_path / folder / f"{i:03}.png")
    for name, content in (("005.png", np.zeros((2, 2), np.uint8)), ("599.png", None)):
        (tmp_path / "maps" / name).unlink()
        (tmp_path / "maps" / name).write_bytes(b"damaged") if content is None else save(
            tmp_path / "maps" / name, content
        )
    words = ["--dataset_name", "x", "--pred_path", tmp_path / "maps", "--gt_path", tmp_path / "masks"]
    text = "1 predictions have another size than their mask: 005.png (2x2, mask 5x4)"
    ended = evaluate(*words)
    assert ended.status == 2 and text in ended.err
    assert ended.err.endswith("score with --resize; the other 344 pairs were not checked")
    assert evaluate(*words, "--workers", 2).err == ended.err
    ended = evaluate(*words, "--shard", "2/4", "--save_dir", tmp_path / "parts")
    assert text in ended.err and ended.err.endswith("score with --resize") and not list((tmp_path / "parts").iterdir())


def score_curves(count):
    rng = np.random.default_rng(0)
    return [ImageScore({"S": value}, {"F": rng.random(7)}) for value in rng.random(count).tolist()]


def never(*arguments):
    raise AssertionError(arguments)


def gather(scores, block, step, **options):
    result = MethodResult("", "", [""] * len(scores))
    chunks = (join_scores(scores[start : start + step], block) for start in range(0, len(scores), step))
    return gather_scores(result, chunks, never, **options)


def test_curves_of_a_short_list_are_added_one_by_one():
    scores, total = score_curves(300), 0
    for score in scores:
        total = total + score.curves["F"]
    for step in (1, 7, 300):
        assert (gather(scores, choose_block(300), step).sums["F"] == total).all()


def test_the_sum_of_a_long_list_does_not_depend_on_jobs_and_shards():
    scores = score_curves(3 * BLOCKS + 5)
    block = choose_block(len(scores))
    assert block == 4 and choose_block(BLOCKS) == 1 and choose_block(10**8) == 256
    whole = gather(scores, block, len(scores))
    rows = np.empty((-(-len(scores) // block), 7))
    for number in (1, 2, 3, 4, 5):
        places, blocks = list_share(len(scores), block, Shard(number, 5))
        part = gather([scores[i] for i in places], block, 4 * block, keep_sums=True)
        assert (part.values["S"] == whole.values["S"][places]).all()
        rows[blocks] = part.sums["F"]
    total = np.zeros(7)
    for row in rows:
        total += row
    assert (whole.sums["F"][0] == total).all() and (gather(scores, block, 60).sums["F"] == whole.sums["F"]).all()
