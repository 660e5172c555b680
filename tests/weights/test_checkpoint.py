"""Files of weights: what is read from them, what is refused, and that a written file is whole."""

import json
import math
import re
from runpy import run_path

import pytest
import safetensors.torch
import torch

import sam2unet
from sam2unet.atomic import sha256, write_atomic
from sam2unet.layers.hiera import SIZES
from sam2unet.weights.formats import is_finite, is_safetensors, read_state_dict, to_float32
from tests.conftest import ROOT, sam2_file

LETTERS = {"tiny": "t", "small": "s", "base_plus": "bplus", "large": "l"}


@pytest.mark.parametrize("version", ["SAM 2", "SAM 2.1"])
@pytest.mark.parametrize("size", SIZES)
def test_sam2_files_of_every_size_and_version_give_the_trunk(size, version, reference, tmp_path, capsys):
    letter = LETTERS[size]
    difference = json.loads((reference / "sam21_checkpoint_differences.json").read_text())["sizes"][letter]
    extra = difference["extra_in_21"] if version == "SAM 2.1" else None
    path = sam2_file(tmp_path / "sam2.pt", reference / f"sam2_checkpoint_{letter}.keys.json", extra)
    model = sam2unet.create_model("sam2unet", encoder=None, hiera_path=path)
    assert capsys.readouterr().out == f"weights: sam2.pt, {version} {size}, SHA-256 {sha256(path)}\n"
    assert all(not p.any() and not p.requires_grad for n, p in model.named_parameters() if ".block." in n)
    assert all(p.any() for n, p in model.named_parameters() if "prompt_learn" in n)
    with pytest.raises(sam2unet.UserError, match=rf"is {version} {size}, but the requested encoder is .*--encoder"):
        sam2unet.create_model("sam2unet", encoder="tiny" if size == "large" else "large", hiera_path=path)


def test_trunk_weights_arrive_under_the_right_names(reference, fill, tmp_path):
    keys = json.loads((reference / "sam2_checkpoint_t.keys.json").read_text())
    state = fill.fill_state_dict({name: torch.empty(shape) for name, shape, _ in keys}, 0)
    torch.save({"model": state}, tmp_path / "sam2.pt")
    ours = sam2unet.create_model("sam2unet", encoder="tiny", hiera_path=tmp_path / "sam2.pt").state_dict()
    for name, weight in state.items():
        if name.startswith("image_encoder.trunk."):
            name = re.sub(r"^image_encoder\.trunk\.(blocks\.\d+\.)?", lambda m: block(m[1]), name)
            assert torch.equal(ours.pop(name), weight)
    assert all(name.startswith(("rfb", "up", "side", "head")) or "prompt_learn" in name for name in ours)


def block(name):
    return f"encoder.{name}block." if name else "encoder."


@pytest.mark.parametrize(
    "name, kind",
    [
        ("image_encoder.trunk.pos_embed", "a SAM 2 checkpoint, which belongs to --hiera_path of train.py"),
        ("blocks.0.ls1.gamma", "a DINOv2 checkpoint, which belongs to --dinov2_path of train.py"),
        ("something.else", "an unknown kind of checkpoint"),
    ],
)
def test_files_of_another_kind_are_named(name, kind, tmp_path):
    torch.save({name: torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(sam2unet.UserError, match=f"x.pth is {kind}"):
        sam2unet.load_model(tmp_path / "x.pth")


def test_sam_is_no_sam_2(tmp_path):
    torch.save({"mask_decoder.iou_token.weight": torch.zeros(1)}, tmp_path / "x.pth")
    words = "x.pth is a checkpoint of SAM or SAM-Med2D, which belongs to --checkpoint of test.py or --sam_checkpoint"
    with pytest.raises(sam2unet.UserError, match=words):
        sam2unet.create_model("sam2unet", hiera_path=tmp_path / "x.pth")


@pytest.fixture(scope="module")
def state():
    """One number stored per tensor; tests change some."""
    with torch.device("meta"):
        model = sam2unet.create_model("sam2unet", encoder="tiny")
    return {name: torch.ones((), dtype=t.dtype).expand(t.shape) for name, t in model.state_dict().items()}


def renamed(state, prefix):
    return {prefix + name: t for name, t in state.items()}


@pytest.mark.parametrize(
    "wrap, note",
    [
        (lambda state: state, None),
        (
            lambda state: {"state_dict": state, "epoch": 3},
            "the weights are below state_dict; this part is ignored",
        ),
        (lambda state: {"model": state}, "the weights are below model; this part is ignored"),
        (lambda state: renamed(state, "module."), "each name starts with module.; this part is ignored"),
        (
            lambda state: {"state_dict": renamed(state, "model.")},
            "the weights are below state_dict, and each name starts with model.; this part is ignored",
        ),
    ],
)
def test_weights_as_training_frameworks_save_them_are_unwrapped(wrap, note, state, tmp_path, capsys):
    torch.save(wrap(state), tmp_path / "x.pth")
    assert list(sam2unet.load_model(tmp_path / "x.pth", "cpu").state_dict()) == list(state)
    assert capsys.readouterr().out == (f"note: {tmp_path / 'x.pth'}: {note}\n" if note else "")


def test_the_content_decides_the_format_not_the_name(state, tmp_path):
    small = {name: t for name, t in state.items() if t.numel() < 1000}
    safetensors.torch.save_file({name: t.contiguous() for name, t in small.items()}, tmp_path / "x.pth")
    torch.save(small, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        assert read_state_dict(tmp_path / name).keys() == small.keys()
        assert is_safetensors(tmp_path / name) == (name == "x.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_with_a_note(dtype, state, tmp_path, capsys):
    torch.save(state | {"head.weight": torch.full((1, 64, 1, 1), 0.5, dtype=dtype)}, tmp_path / "x.pth")
    model = sam2unet.load_model(tmp_path / "x.pth", "cpu")
    assert model.head.weight.dtype == torch.float32 and (model.head.weight == 0.5).all()
    line = f"note: {tmp_path / 'x.pth'}: 1 of {len(state)} weights are {str(dtype)[6:]}, converted to float32\n"
    assert capsys.readouterr().out == line
    counts = to_float32({"bn.num_batches_tracked": torch.tensor(7, dtype=dtype)}, tmp_path)
    assert torch.equal(counts["bn.num_batches_tracked"], torch.tensor(7))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change, name",
    [
        (torch.Tensor.double, "float64"),
        (torch.Tensor.int, "int32"),
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "qint8"),
        (lambda t: t.to("meta"), r"meta \(a shape without numbers\)"),
        (torch.Tensor.to_sparse, "sparse_coo"),
    ],
)
def test_weights_of_other_types_are_refused_with_the_type(change, name, state, tmp_path):
    torch.save(state | {"head.weight": change(torch.ones(1, 64, 1, 1))}, tmp_path / "x.pth")
    words = rf"x.pth: 1 of {len(state)} weights have a type that cannot be used; first: head.weight is {name}, but must"
    with pytest.raises(sam2unet.UserError, match=words):
        sam2unet.load_model(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value, state, tmp_path):
    torch.save(state | {"head.bias": torch.tensor([value])}, tmp_path / "x.pth")
    convert = run_path(ROOT / "scripts/convert_checkpoint.py")
    for use in (
        lambda path: sam2unet.load_model(path),
        lambda path: sam2unet.create_model("sam2unet", init_from=path),
        lambda path: convert["run"](convert["parser"]().parse_args([str(path), "--hub", str(tmp_path / "hub")])),
    ):
        with pytest.raises(sam2unet.UserError, match="1 of 616 weights contain NaN or Inf; first: head.bias. The file"):
            use(tmp_path / "x.pth")
    assert not (tmp_path / "hub").exists()
    assert is_finite(torch.tensor([3e38, 3e38]))  # whose sum is not


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"Quota exceeded", b"root:x:0:0:root:/root:/bin/sh\n" * 9, b"PK\x03\x04" * 9])
def test_a_file_of_something_else_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    words = f"{name} .*is not a (PyTorch file that holds only weights|safetensors file), or only a part of one"
    with pytest.raises(sam2unet.UserError, match=words) as caught:
        sam2unet.load_model(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.pth").touch()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(sam2unet.UserError, match="^cannot read .*x.pth: Permission denied$"):
        sam2unet.load_model(tmp_path / "x.pth")
    monkeypatch.setattr("os.stat", refuse)  # in a folder that may not be entered
    with pytest.raises(sam2unet.UserError, match="^cannot read .*x.pth: Permission denied$"):
        sam2unet.load_model(tmp_path / "x.pth")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return open, (str(ran), "w")

    torch.save({"model": Attack()}, tmp_path / "x.pth")
    with pytest.raises(sam2unet.UserError, match="is not a PyTorch file that holds only weights"):
        sam2unet.load_model(tmp_path / "x.pth")
    assert not ran.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(sam2unet.UserError, match="cannot write .*No space left"), write_atomic(path) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt), write_atomic(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
