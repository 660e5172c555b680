"""Faster prediction: folded models, half precision, test.py --fast."""

import copy
import threading

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import nn

import sam2unet
from sam2unet.data.images.reading import read_image
from sam2unet.errors import UserError
from sam2unet.masks.prediction import predictor as predictor_module
from sam2unet.masks.prediction.faster import MergedRFB, fold_, halve_, pack_, pad_batches
from sam2unet.masks.prediction.open import build_predictor, choose_fast_options
from sam2unet.masks.prediction.options import PredictOptions
from sam2unet.masks.prediction.predictor import predict_grey
from sam2unet.masks.transforms import image_bytes, normalise_image
from sam2unet.runtime import cpu
from sam2unet.runtime.cpu import OneDNNLinear
from sam2unet.runtime.device import autocast, can_use_onednn, pick_half_type
from sam2unet.weights.formats import save_state

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(fill):
    """The smallest network, with generated weights whose maps use the whole grey range."""
    model = sam2unet.create_model("sam2unet", encoder="micro").eval()
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    return model


@pytest.fixture(scope="module")
def photos(polyps):
    return sorted((polyps / "images").iterdir())[:2]


@pytest.mark.parametrize("kind, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_folded_model_gives_the_same_logits(kind, tolerance, model, photos):
    plain = copy.deepcopy(model).to(kind)
    fast = fold_(copy.deepcopy(plain))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert [type(getattr(fast, f"rfb{number}")) for number in (1, 2, 3, 4)] == [MergedRFB] * 4
    images = torch.stack([normalise_image(image_bytes(read_image(photo), 96)) for photo in photos]).to(kind)
    with torch.inference_mode():
        for batch in (images, images[..., :64, :]):
            assert plain(batch)[0].std() > 1
            for ours, wanted in zip(fast(batch), plain(batch), strict=True):
                torch.testing.assert_close(ours, wanted, rtol=0, atol=tolerance)


def test_packed_matrix_products_give_the_same_logits(model, photos):
    fast = pack_(copy.deepcopy(model))
    assert not any(isinstance(module, nn.Linear) for module in fast.modules())
    images = torch.stack([normalise_image(image_bytes(read_image(photo), 96)) for photo in photos])
    with torch.inference_mode():
        for batch in (images, images[:1, :, :64], images):  # position maps are kept for each size
            for ours, wanted in zip(fast(batch), model(batch), strict=True):
                torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)
        if not can_use_onednn("bf16"):
            return
        half, once_more = pack_(halve_(copy.deepcopy(model), "bf16")), pack_(halve_(copy.deepcopy(model), "bf16"))
        with autocast(CPU, "bf16"):
            difference = (half(images)[0] - model(images)[0]).abs()
            assert 0 < difference.max() < 1 and difference.mean() < 0.05
            assert torch.equal(half(images)[0], once_more(images)[0])


def test_bf16_works_on_a_cpu_whose_onednn_has_no_bf16(model, photos, monkeypatch, capsys):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert pick_half_type(CPU) == "off"
    options, _ = choose_fast_options(CPU, PredictOptions(size=32, amp="bf16"), None)
    assert capsys.readouterr().out == "fast: --amp bf16 --batch_size 1; BatchNorm folded\n"
    predictor = build_predictor(copy.deepcopy(model), 32, options)
    assert np.ptp(predict_grey(predictor, read_image(photos[0]), (40, 50))) > 100


def test_halved_weights_change_nothing_where_autocast_would_round_them(model, photos):
    images = normalise_image(image_bytes(read_image(photos[0]), 96))[None]
    with torch.inference_mode(), autocast(CPU, "bf16"):
        wanted = model(images)[0]
        assert torch.equal(halve_(copy.deepcopy(model), "bf16")(images)[0], wanted)
        assert not torch.equal(halve_(fold_(copy.deepcopy(model)), "bf16")(images)[0], wanted)  # the check can fail


def test_a_short_batch_is_filled_up_to_the_size_of_those_before():
    seen = []

    def forward(images):
        seen.append(len(images))
        return images.mean((1, 2, 3), keepdim=True)

    call = pad_batches(forward)
    for side, count in ((8, 3), (8, 2), (16, 1), (8, 1), (8, 4)):
        images = torch.rand(count, 3, side, side)
        assert torch.equal(call(images), images.mean((1, 2, 3), keepdim=True))
    assert seen == [3, 3, 1, 3, 4]


def test_fast_says_what_it_chose_and_stays_close(script, model, photos, tmp_path):
    checkpoint = tmp_path / "SAM2-UNet-1.pth"
    save_state(model.state_dict(), checkpoint)
    (tmp_path / "photos.txt").write_text("\n".join(map(str, photos)))
    flags = ["--checkpoint", checkpoint, "--test_image_path", tmp_path / "photos.txt", "--size", 96]
    result = script("test.py", *flags, "--device", "cpu", "--fast", "--save_path", tmp_path / "maps")
    amp = pick_half_type(CPU)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"fast: --amp {amp} --batch_size 1; BatchNorm folded, weights packed\n2 images at")
    exact, ways = build_predictor(copy.deepcopy(model), 96, PredictOptions()), {}
    for name, way in {"exact": PredictOptions(fold=True), "fast": PredictOptions(fold=True, amp=amp)}.items():
        ways[name] = build_predictor(own := copy.deepcopy(model), 96, way)
        assert not any(isinstance(module, (nn.BatchNorm2d, nn.Linear)) for module in own.modules())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the process: sums come out the same to the bit
    for path in photos:
        photo = read_image(path)
        size = photo.height, photo.width
        wanted = predict_grey(exact, photo, size).astype(int)
        assert np.abs(predict_grey(ways["exact"], photo, size) - wanted).max() <= 1
        written = iio.imread(tmp_path / f"maps/{path.stem}.png")
        assert np.array_equal(written, predict_grey(ways["fast"], photo, size))
        # Generated weights make more of a rounding than trained ones do: 24 at most and 1.3 in the mean, against 2 and
        # 0.3 of a trained model.
        assert np.abs(written - wanted).max() <= 40 and np.abs(written - wanted).mean() < 2
    torch.set_num_threads(threads)


def test_fast_leaves_what_was_asked_for(capsys):
    way, batch_size = choose_fast_options(CPU, PredictOptions(size=64, amp="fp16", compile=True), 3)
    assert (way, batch_size) == (PredictOptions(size=64, amp="fp16", compile=True, fold=True), 3)
    assert capsys.readouterr().out == "fast: --amp fp16 --compile --batch_size 3; BatchNorm folded\n"
    assert choose_fast_options(CPU, PredictOptions(amp="off"), None) == (PredictOptions(amp="off", fold=True), 1)
    assert choose_fast_options(CPU, PredictOptions(amp="auto"), None)[0].amp == pick_half_type(CPU)


def test_compile_compiles_the_model_and_fills_batches_up(model, photos, monkeypatch):
    """By eager PyTorch in place of its compiler, which takes minutes."""
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append((self, options)))
    own = copy.deepcopy(model)
    predictor = build_predictor(own, 32, PredictOptions(compile=True))
    assert compiled == [(own, {"dynamic": False})]
    seen = []
    own.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    prepared = [predictor.prepare(read_image(photo), (50, 60)) for photo in photos]
    (_, first), (_, second) = predictor.predict(prepared, batch_size=2)
    ((_, again),) = predictor.predict(prepared[1:])
    assert seen == [2, 2]
    torch.testing.assert_close(again, second, rtol=0, atol=1e-6)
    assert (first - second).abs().max() > 0.1


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_images_in_parallel_have_the_same_maps_in_order(model, photos, two_threads):
    own = copy.deepcopy(model)
    predictor = build_predictor(own, 64, PredictOptions())
    prepared = [predictor.prepare(read_image(photo), (50, 60), name) for name, photo in enumerate([*photos, *photos])]
    seen = set()
    hook = own.register_forward_pre_hook(lambda *_: seen.add((threading.get_ident(), torch.get_num_threads())))
    in_parallel = list(predictor.predict(iter(prepared)))
    assert torch.get_num_threads() == 2 and len(seen) == 2 and {threads for _, threads in seen} == {1}
    hook.remove()
    exact = build_predictor(copy.deepcopy(model), 64, PredictOptions(exact=True))
    torch.set_num_threads(1)  # two threads for one small image mostly wait for each other, which takes seconds
    expected = list(exact.predict(prepared))
    torch.set_num_threads(2)
    for name, (photo, map_), (_, wanted) in zip(range(4), in_parallel, expected, strict=True):
        assert photo.name == name and wanted.std() > 0.1
        torch.testing.assert_close(map_, wanted, rtol=0, atol=1e-5)
    with torch.no_grad():
        own.head.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="the model gives NaN or Inf for 0; "):
        list(predictor.predict(prepared))
    assert torch.get_num_threads() == 2


def test_too_little_memory_for_two_images_leaves_one_at_a_time(model, two_threads, monkeypatch):
    predictor = build_predictor(copy.deepcopy(model), 64, PredictOptions())
    assert predictor.limit_parallel(batch_size=1) == 2
    monkeypatch.setattr(predictor_module, "free_memory", lambda: 64 * 64 * predictor_module.MEMORY_PER_PIXEL * 3)
    assert predictor.limit_parallel(batch_size=1) == 1


def test_onednn_computes_the_linear_layers_of_a_model(model, photos):
    images = normalise_image(image_bytes(read_image(photos[0]), 96))[None]
    with torch.inference_mode(), torch.profiler.profile() as profile, OneDNNLinear():
        logits = model(images)[0]
    linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mkldnn::_linear_pointwise"] == linear and "aten::linear" not in calls
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(images)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("gain, library", [(1.4, "MKL"), (2.2, "oneDNN")])
def test_the_faster_library_is_used_and_named(gain, library, model, monkeypatch):
    assert 0.1 < cpu.measure_onednn_gain() < 10
    monkeypatch.setattr(cpu, "measure_onednn_gain", lambda: gain)
    assert cpu.describe_fast_linear().startswith(f"linear layers by {library}: oneDNN is ")
    predictor = build_predictor(copy.deepcopy(model), 64, PredictOptions())
    assert isinstance(predictor.linear_layers(), OneDNNLinear) == (library == "oneDNN")
    exact = build_predictor(copy.deepcopy(model), 64, PredictOptions(exact=True))
    assert not isinstance(exact.linear_layers(), OneDNNLinear)


def test_exact_goes_with_nothing_that_changes_the_arithmetic():
    for option in ({"amp": "bf16"}, {"fold": True}, {"compile": True}):
        with pytest.raises(UserError, match="--exact computes as the released script"):
            PredictOptions(exact=True, **option)
