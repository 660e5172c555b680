"""Quickstart: its plan, the run on the images of the user, and what it says about the maps."""

import numpy as np
from PIL import Image

import sam2unet
from sam2unet.commands import quickstart
from sam2unet.data.pairs import match
from sam2unet.quickstart.judge import Judgement, advise, judge_maps
from sam2unet.quickstart.plan import divide_updates
from sam2unet.quickstart.threshold import choose_level, draw_validation_pairs
from sam2unet.recipe import Recipe
from tests.conftest import save, write_pairs


def test_quickstart_on_own_folders_judges_every_fifth_pair_and_goes_on(run_main, steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "own", count=10)
    flags = ["--images", "own/images", "--masks", "own/masks", "--save_path", "result", "--minutes", 1]
    status, out, err = run_main(quickstart, *flags)
    assert status == 1 and "the maps are not better than predicting nothing" in err, err  # after one update
    assert [step[0] for step in steps] == ["train", "test", "eval"]
    assert "--size 96 " in " ".join(steps[0]) and "few_images.yaml" in steps[0][2] and "--no_minmax" in steps[1]
    folder = tmp_path / "result"
    assert sorted(path.stem for path in (folder / "maps").glob("*.png")) == ["e", "j"]
    assert len(list((folder / "data/train/images").iterdir())) == 8
    truths = [np.asarray(Image.open(tmp_path / f"own/masks/{name}.png")) > 0 for name in "ej"]
    maps = [np.asarray(Image.open(folder / f"maps/{name}.png")) > 127 for name in "ej"]  # too few for validation
    error = np.mean([(map_ != truth).mean() for map_, truth in zip(maps, truths, strict=True)])
    empty = np.mean([truth.mean() for truth in truths])
    assert f"held-out MAE of the masks {error:.3f}, best constant map {empty:.3f}" in out
    assert "predicting nothing: " in out and "the median mask of" in out and "1. Use pretrained weights" in out
    page = (folder / "overview.html").read_text()
    assert page.count("<img") == 6 and "e.jpg" in page and "j.jpg" in page and "http" not in page.split("<main")[1]
    assert Image.open(folder / "overview.png").size == (480, 20 + 2 * 180)
    kept = {path: path.read_bytes() for path in folder.glob("*.p*t*")}
    assert len(kept) >= 2
    status, out, err = run_main(quickstart, *flags)
    assert status == 1 and "result is of an earlier quickstart, which goes on" in out, err
    assert {path: path.read_bytes() for path in kept} == kept
    status, _, err = run_main(quickstart, *flags[:-1], 5)
    assert status == 2 and "plan.json is for --minutes 1 without --hiera_path" in err


def test_a_plan_fits_into_its_time_and_takes_a_part_of_many_images():
    recipe = Recipe(size=96, batch_size=8)
    few = divide_updates(30, 48, False, 0.6, "cpu", recipe)
    assert (few.validation, few.epoch) == (7, 16) and 0.75 < few.updates * few.seconds / (30 * 60) < 0.8
    many = divide_updates(1, 100_000, False, 1.0, "cpu", recipe)
    assert many.images == 8 * 48 and many.updates <= 48 and (many.epoch, many.repeat) == (1, 1)
    pretrained = divide_updates(60, 48, True, 0.01, "cuda", recipe)
    assert pretrained.epoch * pretrained.repeat == 60  # passes, and not more
    assert divide_updates(1, 4, False, 100, "cpu", Recipe(size=96, batch_size=4)).updates == 1


def test_quickstart_advises_only_what_helps():
    judgement = Judgement([], "predicting nothing", 127)
    few = divide_updates(30, 48, False, 0.6, "cpu", Recipe(size=96, batch_size=8))
    most = divide_updates(60, 48, True, 0.01, "cuda", Recipe(size=352, batch_size=12))  # it has its 60 passes
    for plan, best, words in (
        (few, 16, "Train longer: --minutes 60. The last checkpoints were the best ones."),
        (few, None, "Train longer: --minutes 60."),
        (few, 3, None),
        (most, 15, None),
    ):
        lines = advise(plan, judgement, best)
        assert [line for line in lines if line.startswith("Train longer")] == [words] * bool(words)


TOO_LITTLE = """
import resource
from sam2unet.cli import Parser, main
from sam2unet.quickstart import plan
plan.ENCODER = "micro"
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), used + (1 << 29)))
def run(args):
    size = plan.make_plan(1e5, 8, sides={sides}).size
    resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident)
main(Parser, run)
"""


def test_a_plan_has_the_largest_side_that_the_memory_allows(start, tmp_path):
    (tmp_path / "both.py").write_text(TOO_LITTLE.format(sides=(64, 1024)))
    (tmp_path / "large.py").write_text(TOO_LITTLE.format(sides=(1024,)))
    both, large = (process.finish() for process in [start(tmp_path / name) for name in ("both.py", "large.py")])
    assert both.returncode == 0, both.stderr
    size, released = map(int, both.stdout.splitlines()[-1].split())
    assert size == 64 and released > 150 * 2**20  # the training, another process, can use this memory
    assert large.returncode == 2 and large.stderr.startswith("error: out of memory on cpu with 8 images at 1024x1024;")


def test_the_threshold_has_few_wrong_pixels_on_the_validation_images(checkpoint, tmp_path):
    write_pairs(tmp_path, count=4)
    pairs = match(tmp_path / "images", tmp_path / "masks")
    validation = draw_validation_pairs(pairs, 0.5, seed=1024)
    assert len(validation) == 2 and set(validation) < set(pairs)
    model, wrong = sam2unet.load_model(checkpoint), np.zeros(256)
    for pair in validation:
        grey = np.rint(sam2unet.predict(model, pair.image, minmax=False) * 255)
        truth = np.asarray(Image.open(pair.mask)) > 128
        wrong += [((grey > level) != truth).mean() for level in range(256)]
    lowest, empty = min(wrong[:255]), wrong[255]
    usable = [wrong[i] <= lowest + max(0, min(0.05 * lowest, (empty - lowest) / 2)) for i in range(255)]
    level = choose_level(checkpoint, validation, None)
    assert usable[level] and not any(usable[i] for i in range(255) if abs(i - 127) < abs(level - 127))
    assert not all(usable)
    assert choose_level(checkpoint, [], None) == 127


def test_a_judgement_names_images_without_an_object_and_compares_with_simple_maps(tmp_path):
    """Masks with an object at the left, at the left, and with none; maps: right, at the wrong place, grey."""
    left, right, none = (np.zeros((20, 40), np.uint8) for _ in range(3))
    left[:, :8], right[:, 32:], none[:] = 255, 255, 51
    for name, mask, map_ in (("a", left, left), ("b", left, right), ("c", 0 * none, none)):
        save(tmp_path / f"images/{name}.png", left)
        save(tmp_path / f"masks/{name}.png", mask)
        save(tmp_path / f"maps/{name}.png", map_)
    pairs = match(tmp_path / "images", tmp_path / "masks")
    judgement = judge_maps(pairs, tmp_path / "maps", pairs[:2], None, 127)
    assert [facts.pair.image.stem for facts in judgement.sort()] == ["b", "c", "a"]
    assert [round(facts.error, 6) for facts in judgement.images] == [0, 0.4, 0.2]
    assert [facts.dice for facts in judgement.images] == [1, 0, 1]
    assert [round(judgement.mean(name), 6) for name in ("error", "empty_error", "median_error")] == [
        0.2, 0.133333, 0.066667,
    ]  # fmt: skip
    assert not judgement.is_better
    text = "\n".join(judgement.describe())
    assert "as good as predicting nothing: 13.3% of the pixels are wrong in both." in text
    assert "worse than the median mask of the training images: 13.3% of the pixels are wrong instead of 6.7%" in text
    assert "No object above 0.50 in 1 of 3 images: c.png." in text and "3 images are few" in text
