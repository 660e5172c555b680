"""What each departure from the released recipe does, and that its name alone turns it on."""

import json

import pytest
import torch

import sam2unet
from sam2unet.data.batches import Draw
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.families.table import find_family
from sam2unet.masks.cache import open_cache
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.training.prepare import choose_trained
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import FiniteGuard, Trainer, resize_batch
from tests.conftest import write_pairs


@pytest.fixture
def trainer(fill):
    """A function that makes a trainer in float64 for a recipe."""

    def make(recipe=Recipe(), speed=Speed()):  # noqa: B008
        model = sam2unet.create_model("sam2unet", encoder="micro").double().train()
        model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
        return Trainer(find_family("sam2unet"), mask_step, model, recipe, speed, torch.device("cpu"), Processes())

    return make


@pytest.fixture
def batch(fill):
    return lambda seed, count=2: (
        fill.fill_input((count, 3, 64, 64), seed).double(),
        fill.fill_mask((count, 1, 64, 64), seed).double(),
    )


def update(trainer, group, shares=None):
    return trainer.update(group, shares or [len(b[0]) / sum(len(b[0]) for b in group) for b in group])


def decoder(trainer):
    return {name: p.detach().clone() for name, p in trainer.trained.items() if not name.startswith("encoder.")}


def test_accumulated_gradients_are_those_of_the_whole_batch(trainer, batch):
    """Without BatchNorm's share, which sees each part alone."""
    whole, parts = trainer(), trainer(Recipe(accumulate=2))
    images, masks = batch(0, 3)
    for each in (whole, parts):
        each.model.eval()
    update(whole, [(images, masks)])
    update(parts, [(images[:2], masks[:2]), (images[2:], masks[2:])])
    torch.testing.assert_close(decoder(parts), decoder(whole), rtol=0, atol=1e-9)
    assert parts.steps == 1


def test_warm_up_raises_the_rate_and_leaves_the_cosine_alone(trainer, batch):
    slow, plain = trainer(Recipe(warmup=4, epoch=2)), trainer(Recipe(epoch=2))
    rates = []
    for _ in range(5):
        update(slow, [batch(0)])
        rates.append(slow.rate)
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    for each in (slow, plain):
        each.end_epoch()
    assert slow.schedule.get_last_lr() == plain.schedule.get_last_lr()


def test_multi_scale_updates_once_per_scale_at_multiples_of_32(trainer, batch):
    images, masks = batch(0)
    large = [torch.nn.functional.interpolate(part, size=(96, 96)) for part in (images, masks)]
    sides = [resize_batch(large, scale, 32)[1].shape[-1] for scale in (0.1, 0.75, 1, 1.25, 1.6)]
    assert sides == [32, 64, 96, 128, 160]
    assert resize_batch((images, masks), 1, 32)[0] is images
    scales = (0.4, 1, 1.6)  # sides of 32, 64 and 96
    several = trainer(Recipe(multi_scale=scales))
    found = update(several, [(images, masks)])
    assert several.steps == len(found) == 3
    steps = trainer()
    for scale in scales:
        update(steps, [resize_batch((images, masks), scale, 32)])
    torch.testing.assert_close(decoder(several), decoder(steps), rtol=0, atol=0)


def test_averaged_weights_are_the_decaying_mean_and_do_not_train(trainer, batch):
    averaging, plain = trainer(Recipe(ema=0.8)), trainer()
    mean = decoder(plain)
    for seed in range(2):
        update(averaging, [batch(seed)])
        update(plain, [batch(seed)])
        now = decoder(plain)
        mean = {name: 0.8 * value + 0.2 * now[name] for name, value in mean.items()}
    own = decoder(averaging)
    assert all(torch.equal(value, own[name]) for name, value in decoder(plain).items())
    assert not any(value.requires_grad for value in averaging.average.values())  # no graph that grows with each step
    with averaging.averaged():
        for name, value in decoder(averaging).items():
            torch.testing.assert_close(value, mean[name], rtol=0, atol=1e-12)
    assert all(torch.equal(value, own[name]) for name, value in decoder(averaging).items())


@pytest.mark.parametrize(
    ("amp", "before", "after"), [("off", False, True), ("off", True, False), ("fp16", False, True)]
)
def test_a_run_goes_on_with_other_options_of_speed(amp, before, after, trainer, batch):
    plain, first, second = (trainer(Recipe(amp=amp), Speed(channels_last=x, fused=x)) for x in (False, before, after))
    if amp == "fp16":
        for each in (plain, first, second):
            each.model.float()
    batches = [tuple(part.to(next(plain.model.parameters())) for part in batch(seed)) for seed in range(2)]
    for each, parts in ((plain, batches), (first, batches[:1])):
        for part in parts:
            update(each, [part])
    second.restore(first.state(list(first.model.state_dict())))
    update(second, batches[1:])
    assert bool(second.optimizer.param_groups[0]["fused"]) == after
    for name, value in decoder(plain).items():
        torch.testing.assert_close(
            decoder(second)[name], value, rtol=0, atol=1e-9 if amp == "off" else 2e-3
        )  # two steps


def test_half_precision_computes_close_to_the_same_and_keeps_full_weights(trainer, batch, fill):
    losses = {}
    for amp in ("off", "bf16", "fp16"):
        half = trainer(Recipe(amp=amp))
        half.model.float()
        images, masks = (part.float() for part in batch(0))
        ((found,),) = update(half, [(images, masks)])
        losses[amp] = found["total"].item()
        assert found["total"].dtype == torch.float32
        assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert losses["off"] not in (losses["bf16"], losses["fp16"])
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.02)
    assert losses["fp16"] == pytest.approx(losses["off"], rel=0.005)


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_change(trainer, batch):
    spoilt = trainer()
    before = decoder(spoilt)
    images, masks = batch(0)
    with pytest.raises(UserError, match=r"the loss is nan at epoch 2, step 1, batch a.jpg, b.jpg; last.pt holds"):
        spoilt.update([(images * float("nan"), masks)], [1.0], [["a.jpg", "b.jpg"]], epoch=2)
    assert all(torch.equal(value, before[name]) for name, value in decoder(spoilt).items())
    late = FiniteGuard(late=True)
    late.check(torch.tensor(float("inf")), "step 1", ["a.jpg"])
    with pytest.raises(UserError, match="the loss is inf at step 1"):
        late.check(torch.tensor(1.0), "step 2", ["b.jpg"])


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_cache_holds_what_the_files_give_and_needs_them_no_more(place, tmp_path):
    pairs = match(*write_pairs(tmp_path))
    plain = MaskFolder(pairs, 64)
    cached = MaskFolder(pairs, 64, cache=open_cache(place, pairs, 64, None, tmp_path))
    draws = [Draw(index, False, False) for index in range(4)]
    wanted = plain.__getitems__(draws)
    for pair in pairs:
        for path in pair:
            path.write_bytes(b"")
    found = cached.__getitems__(draws)
    assert torch.equal(found.images, wanted.images) and torch.equal(found.masks, wanted.masks)


def test_a_cache_on_disk_is_taken_again_until_a_file_changes(tmp_path):
    images, masks = write_pairs(tmp_path)
    pairs = match(images, masks)
    first = open_cache("disk", pairs, 64, None, tmp_path).clone()
    (file,) = tmp_path.glob("cache-*.npy")
    made = file.stat().st_mtime_ns
    assert torch.equal(open_cache("disk", pairs, 64, None, tmp_path), first) and file.stat().st_mtime_ns == made
    (images / "a.jpg").write_bytes((images / "b.jpg").read_bytes())
    assert torch.equal(open_cache("disk", pairs, 64, None, tmp_path)[0, :3], first[1, :3])


def test_a_cache_that_does_not_fit_is_refused(tmp_path):
    pairs = match(*write_pairs(tmp_path))
    with pytest.raises(UserError, match=r"4 pairs at 500000x500000 take .* GiB of RAM, .* free; give --cache disk"):
        open_cache("ram", pairs, 500_000, None, tmp_path)
    with pytest.raises(UserError, match="give --cache off"):
        open_cache("disk", pairs, 500_000, None, tmp_path)


def run(script, folder, name, *flags, images=6):
    image_folder, mask_folder = write_pairs(folder, count=images)
    small = "--encoder micro --size 64 --batch_size 2 --epoch 1 --device cpu".split()
    return script(
        "train.py", "--train_image_path", image_folder, "--train_mask_path", mask_folder,
        *small, "--save_path", folder / name, *flags,
    )  # fmt: skip


def test_a_seed_means_one_run_whatever_workers_and_cache_are(script, tmp_path):
    ways = {
        "plain": ["--workers", 0],
        "workers": ["--workers", 2],
        "ram": ["--cache", "ram"],
        "another": ["--workers", 0, "--seed", 4],
    }
    for name, flags in ways.items():
        result = run(script, tmp_path, name, *flags, "--deterministic")
        assert result.returncode == 0, result.stderr
    plain, workers, ram, another = (torch.load(tmp_path / f"{name}/SAM2-UNet-1.pth") for name in ways)
    for other in (workers, ram):
        assert all(torch.equal(value, other[key]) for key, value in plain.items())
    assert not torch.equal(plain["head.weight"], another["head.weight"])


@pytest.mark.parametrize("finetune", [None, "adapters", "decoder", "full"])
def test_what_trains_is_what_finetune_says(finetune, sam2_micro, batch, capsys):
    family, recipe = find_family("sam2unet"), Recipe(finetune=finetune)
    model = sam2unet.create_model("sam2unet", encoder="micro", hiera_path=sam2_micro)
    choose_trained(family, model, recipe, random=[])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(family, mask_step, model.train(), recipe, Speed(), torch.device("cpu"), Processes())
    update(trainer, [tuple(part.float() for part in batch(0))])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trunk = {name for name in before if name.startswith("encoder.") and "prompt_learn" not in name}
    adapters = {name for name in before if "prompt_learn" in name}
    assert "head.weight" in changed
    assert bool(changed & trunk) == (finetune == "full")
    assert bool(changed & adapters) == (finetune != "decoder")


def test_training_starts_from_a_checkpoint(script, tmp_path, sam2_micro):
    """With a learning rate too small to change a weight."""
    first = run(script, tmp_path, "first", "--hiera_path", sam2_micro, "--save", "trainable", "--workers", 0)
    assert first.returncode == 0, first.stderr
    start = tmp_path / "first/SAM2-UNet-1.safetensors"
    flags = ["--init_from", start, "--hiera_path", sam2_micro, "--lr", 1e-30, "--workers", 0]
    second = run(script, tmp_path, "second", *flags)
    assert second.returncode == 0, second.stderr
    wanted = sam2unet.load_model(start, "cpu", hiera_path=sam2_micro)
    found = sam2unet.load_model(tmp_path / "second/SAM2-UNet-1.pth", "cpu")
    for (name, a), b in zip(wanted.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b), name
    record = json.loads((tmp_path / "second/run.json").read_text())
    assert set(record["weights"]) == {sam2_micro.name, start.name}


def test_a_bad_image_stops_or_is_left_out(script, tmp_path):
    images, masks = write_pairs(tmp_path, count=6)
    (images / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:200])
    small = "--encoder micro --size 64 --batch_size 2 --epoch 1 --device cpu --workers 1".split()
    words = ["--train_image_path", images, "--train_mask_path", masks, *small, "--save_path", tmp_path / "run"]
    stopped = script("train.py", *words)
    assert stopped.returncode == 2 and "b.jpg" in stopped.stderr
    assert not (tmp_path / "run").exists()
    skipped = script("train.py", *words, "--on_bad_image", "skip")
    assert skipped.returncode == 0 and "warning: left out: cannot read" in skipped.stderr
    assert "data: 5 pairs" in skipped.stdout


def test_an_image_that_vanishes_during_training_is_named_or_left_out(tmp_path):
    pairs = match(*write_pairs(tmp_path))
    pairs[1].image.unlink()
    draws = [Draw(index, False, False) for index in range(3)]
    with pytest.raises(UserError, match=r"no such file: .*b.jpg \(--on_bad_image skip goes on without it\)"):
        MaskFolder(pairs, 64).__getitems__(draws)
    batch = MaskFolder(pairs, 64, skip_bad=True).__getitems__(draws)
    assert batch.indices.tolist() == [0, 2] and len(batch.images) == len(batch.flips) == 2
    assert "b.jpg" in batch.skipped[0]
    with pytest.raises(UserError, match="nothing in a batch could be read: b.jpg"):
        MaskFolder(pairs, 64, skip_bad=True).__getitems__(draws[1:2])


def test_several_folders_are_one_set_and_a_fraction_is_held_out(script, tmp_path):
    first, second = write_pairs(tmp_path / "first"), write_pairs(tmp_path / "second", count=6)
    words = ["--train_image_path", first[0], second[0], "--train_mask_path", first[1], second[1], "--val_fraction", 0.2]
    small = "--encoder micro --size 64 --batch_size 4 --epoch 1 --device cpu --workers 0".split()
    result = script("train.py", *words, *small, "--save_path", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "data: 8 pairs" in result.stdout and "best: epoch 1, mDice" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]["losses"]) == {"total", "main", "side1", "side2"} and lines[0]["learning_rate"] == 1e-3
    assert {line["kind"] for line in lines} == {"train", "epoch", "validation"}
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["data"]["count"] == 8 and record["validation"]["count"] == 2


def test_too_little_memory_is_answered_with_what_helps(script, tmp_path):
    """A limit on the process's address space, which allocations then really exceed."""
    images, masks = write_pairs(tmp_path)
    words = ["--train_image_path", images, "--train_mask_path", masks, "--save_path", tmp_path / "run"]
    small = "--encoder micro --size 2048 --batch_size 4 --epoch 1 --device cpu --workers 0".split()
    code = (
        "import resource, runpy, torch\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    (tmp_path / "limited.py").write_text(code)
    result = script(tmp_path / "limited.py", *words, *small)
    assert result.returncode == 2, result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: out of memory on cpu with batches of 4 at 2048x2048")
    assert all(flag in line for flag in ("--grad_checkpointing", "--amp bf16", "--batch_size 2 --accumulate 2"))


def test_the_paper_s_loss_is_the_weighted_one(trainer, batch):
    images, masks = batch(0)
    for name in ("released", "weighted"):
        each = trainer(Recipe(loss=name))
        with torch.no_grad():
            wanted = [sam2unet.structure_loss(out, masks, name == "weighted").item() for out in each.model(images)]
        ((found,),) = update(each, [(images, masks)])
        assert [found[key].item() for key in ("main", "side1", "side2")] == pytest.approx(wanted, rel=1e-9)
        assert found["total"].item() == pytest.approx(sum(wanted), rel=1e-12)
