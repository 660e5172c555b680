"""Validation during training: the numbers of test.py and eval.py, from one process or two, and nothing else changed."""

import csv
import json
import math
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.masks import validate as validation
from sam2unet.masks.step import mask_step
from sam2unet.masks.task import MaskTask
from sam2unet.masks.validate import draw_validation, validate
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.scoring.columns import is_better
from sam2unet.task import find_metric
from tests.conftest import save, write_pairs


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return sam2unet.create_model("sam2unet", encoder="micro")


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that tests start: sums come out the same to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def corner_mask(size, value):
    """S is not defined where the foreground's centre lies in the last row and column."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[-1, -1] = value
    return mask


def test_the_numbers_are_those_of_test_and_eval_to_the_last_digit(script, model, tmp_path, capsys):
    images, masks = write_pairs(tmp_path)
    for number, path in enumerate(sorted(masks.iterdir())):  # of other sizes than the images, of 0/120/200, cut at 100
        mask = Image.open(path).resize((50 + 7 * number, 40), Image.Resampling.NEAREST)
        save(path, np.maximum(np.asarray(mask) // 255 * 200, np.eye(40, mask.width, 3, dtype=np.uint8) * 120))
    save(images / "e.png", np.random.default_rng(1).integers(0, 256, (80, 120), np.uint8))
    save(masks / "e.png", corner_mask((60, 40), 200))
    torch.save(model.state_dict(), tmp_path / "SAM2-UNet-1.pth")
    flags = ["--test_image_path", images, "--test_gt_path", masks, "--size", 64, "--save_path", tmp_path / "maps"]
    done = script("test.py", "--checkpoint", tmp_path / "SAM2-UNet-1.pth", *flags)
    assert done.returncode == 0, done.stderr
    flags = ["--pred_path", tmp_path / "maps", "--gt_path", masks, "--mask_threshold", 100, "--save_dir", tmp_path]
    done = script("eval.py", "--dataset_name", "x", *flags, "--protocol", "all", "--workers", 1)
    assert done.returncode == 0, done.stderr

    result = validate(model, match(images, masks), 64, mask_threshold=100)
    assert result.table == json.loads((tmp_path / "results.json").read_text())["datasets"]["x"][""]
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert result.images == [row["image"] for row in rows] == ["a", "b", "c", "d", "e"]
    for key, values in result.per_image.items():
        np.testing.assert_array_equal(values, [float(row[key] or "nan") for row in rows])
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == ["warning: validation: S is not defined for 1 images (e); its mean leaves them out"]


def test_two_processes_return_what_one_does(start, model, tmp_path):
    images, masks = write_pairs(tmp_path, count=7)
    save(masks / "f.png", corner_mask((60, 50), 255))
    torch.save(model.state_dict(), tmp_path / "m.pth")
    (tmp_path / "two.py").write_text(
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "import sam2unet\n"
        "from sam2unet.data.pairs import match\n"
        "from sam2unet.masks import validate\n"
        "from sam2unet.runtime.processes import Processes\n"
        "rank, folder = int(sys.argv[1]), sys.argv[2]\n"
        "torch.set_num_threads(1)\n"
        "torch.distributed.init_process_group('gloo', f'file://{folder}/meet', rank=rank, world_size=2)\n"
        "validate.ROUND = 2\n"
        "pairs = match(*map(Path, sys.argv[3:5]))\n"
        "model = sam2unet.load_model(f'{folder}/m.pth', 'cpu')\n"
        "result = validate.validate(model, pairs, 64, processes=Processes(rank, 2))\n"
        "pickle.dump(result, open(f'{folder}/{rank}.pkl', 'wb'))\n"
        "pairs[3].image.unlink() if rank == 1 else None\n"  # belongs to the second process
        "torch.distributed.barrier()\n"
        "try:\n"
        "    validate.validate(model, pairs, 64, processes=Processes(rank, 2))\n"
        "except sam2unet.UserError as e:\n"
        "    open(f'{folder}/{rank}.txt', 'w').write(str(e))\n"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes: sums come out the same to the bit
    one = validate(model, match(images, masks), 64)
    torch.set_num_threads(threads)
    words = [tmp_path, images, masks]
    started = [start(tmp_path / "two.py", rank, *words) for rank in (0, 1)]
    results = [each.finish() for each in started]
    assert [results[rank].returncode for rank in (0, 1)] == [0, 0], results[0].stderr + results[1].stderr
    assert [results[rank].stderr.count("S is not defined for 1 images (f)") for rank in (0, 1)] == [1, 0]
    for rank in (0, 1):
        two = pickle.loads((tmp_path / f"{rank}.pkl").read_bytes())
        assert (two.images, two.table) == (one.images, one.table)
        for mine, theirs in ((one.per_image, two.per_image), (one.curves, two.curves)):
            assert all(np.array_equal(mine[key], theirs[key], equal_nan=True) for key in mine)
        assert (tmp_path / f"{rank}.txt").read_text() == f"no such file: {images / 'd.jpg'}"


@pytest.mark.parametrize("count, world", [(1, 3), (7, 2), (8, 2), (13, 3), (4, 1)])
def test_scores_of_all_processes_come_in_the_order_of_pairs(monkeypatch, count, world):
    found = [None] * world

    def gather(processes, value):
        found[processes.rank] = value
        barrier.wait()
        values = list(found)
        barrier.wait()
        return values

    barrier = threading.Barrier(world, timeout=10)
    monkeypatch.setattr(Processes, "gather", gather)
    orders = {}

    def process(rank):
        own = iter(range(count)[rank::world])
        orders[rank] = list(Processes(rank, world).exchange(own, count, size=2))

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert orders == {rank: list(range(count)) for rank in range(world)}


def test_validation_changes_neither_the_model_nor_the_random_numbers(model, tmp_path):
    images, masks = write_pairs(tmp_path, count=2)
    model.train()
    model.encoder.eval()  # a part may be kept from training
    modes = [module.training for module in model.modules()]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    drawn = torch.get_rng_state()
    validate(model, match(images, masks), 64)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    (losses,) = mask_step(model, (torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64)), Recipe())
    sum(losses.values()).backward()  # nothing that was made in inference mode is left in it
    model.zero_grad()


def test_images_are_read_while_the_model_predicts_and_few_are_held(monkeypatch, model, tmp_path):
    images, masks = write_pairs(tmp_path, count=1)
    pairs = match(images, masks) * 40
    read, predicted, most, second = [], [], [], threading.Event()

    def counted(path):
        read.append(path)
        if len(read) > 1:
            second.set()
        return Image.open(path)

    def predict(self, photos):
        assert second.wait(10), "the next image is read only after this one's prediction"
        most.append(len(read) - len(predicted))
        predicted.append(1)
        yield photos[0], torch.zeros(50, 60)

    monkeypatch.setattr(validation, "read_image", counted)
    monkeypatch.setattr(validation.Predictor, "predict", predict)
    assert len(validate(model, pairs, 64).images) == 40 == len(read) == len(predicted)
    assert max(most) <= validation.THREADS + 1


def test_a_metric_is_named_by_key_or_title_and_its_direction_known(model, tmp_path):
    metrics = MaskTask.metrics
    assert find_metric("Dice_mean", metrics) == find_metric("mDice", metrics) == "Dice_mean"
    assert find_metric("IoU.5", metrics) == "IoU_05" and find_metric("MAE", metrics) == "MAE"
    for name in ("dice", "mirror_IoU", "IoU", "HCE"):
        with pytest.raises(UserError, match="--best_metric; there are S, .*mDice"):
            find_metric(name, metrics)
    images, masks = write_pairs(tmp_path, count=1)
    assert validate(model, match(images, masks), 64).table.keys() == metrics.keys()
    dice, mae, s = (metrics[key] for key in ("Dice_mean", "MAE", "S"))
    assert is_better(dice, 0.5, None) and is_better(dice, 0.6, 0.5) and not is_better(dice, 0.5, 0.5)
    assert is_better(mae, 0.4, 0.5) and not is_better(mae, 0.6, 0.5)
    assert not is_better(s, math.nan, None) and not is_better(s, math.nan, 0.5) and is_better(s, 0.1, math.nan)


def test_the_pictures_are_image_mask_and_map_of_pairs_spread_evenly(model, tmp_path):
    images, masks = write_pairs(tmp_path, count=5)
    pairs = match(images, masks)
    draw_validation(model, pairs, 64, None, tmp_path / "sheet.png", rows=3, side=54)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (3 * 54, 3 * 54)
    for row, pair in enumerate((pairs[0], pairs[2], pairs[4])):
        map_ = Image.fromarray((sam2unet.predict(model, pair.image, size=64) * 255).astype(np.uint8))
        for column, picture in enumerate((Image.open(pair.image), Image.open(pair.mask), map_)):
            place = (column * 54 + 2, row * 54 + 2, column * 54 + 52, row * 54 + 52)
            wanted = picture.convert("RGB").resize((50, 50), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(sheet.crop(place), wanted)
    with pytest.raises(UserError, match="cannot write"):
        draw_validation(model, pairs, 64, None, tmp_path / "nowhere/sheet.png", rows=1)
