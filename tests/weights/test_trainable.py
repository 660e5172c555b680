"""Files of trained weights alone: what is in them, the way there and back, the right base weights and no others."""

import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sam2unet
from sam2unet.atomic import sha256
from sam2unet.families.load import list_saved_names, save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.layers.hiera import hiera
from sam2unet.weights.formats import RUN_FORMAT, same_bits
from sam2unet.weights.weight_files import WeightFile
from tests.conftest import write_pairs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A SAM 2 file, another one of the same size, a model trained from the first, and its checkpoints."""
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("sam2.pt", "other.pt")):
        torch.manual_seed(seed)
        trunk = {f"image_encoder.trunk.{name}": torch.randn(t.shape) / 20 for name, t in shapes(hiera, "micro").items()}
        torch.save({"model": trunk}, folder / name)
    model, base = start_model("sam2unet", NetworkShape(), {"hiera_path": folder / "sam2.pt"})
    with torch.no_grad():  # so that nothing has its first value, the counts of BatchNorm's batches included
        for name, t in model.state_dict().items():
            if name in list_saved_names(FAMILIES["sam2unet"], model, base):
                t.add_(torch.rand(t.shape) / 10 if t.is_floating_point() else 7)
    save_checkpoint(model, folder / "full.pth", base)
    save_checkpoint(model, folder / "trained.safetensors", base)
    return folder


def shapes(build, *args, **options):
    with torch.device("meta"):
        return build(*args, **options).state_dict()


def equal(a, b):
    return list(a) == list(b) and all(same_bits(a[name], b[name]) for name in a)


def test_large_takes_18_megabytes_instead_of_866(tmp_path):
    with torch.device("meta"):
        model = sam2unet.create_model("sam2unet", encoder="large")
    zeros = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in model.state_dict().items()}
    assert 865e6 < sum(t.nbytes for t in model.state_dict().values()) < 867e6
    save_checkpoint(model, tmp_path / "x.safetensors", {"hiera_path": WeightFile("sam2_hiera_large.pt", "3f")}, zeros)
    assert 17.5e6 < (tmp_path / "x.safetensors").stat().st_size < 18.5e6


def test_the_file_holds_all_but_the_trunk_and_says_what_it_needs(files):
    """Read with the safetensors library alone."""
    with safe_open(files / "trained.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "sam2unet-weights",
            "version": "2",
            "model": "sam2unet",
            "encoder": "micro",
            "hiera": "sam2.pt",
            "hiera_sha256": sha256(files / "sam2.pt"),
        }
    full, trained = torch.load(files / "full.pth"), load_file(files / "trained.safetensors")
    trunk = [name for name in full if name.startswith("encoder.") and "prompt_learn" not in name]
    assert sorted(trained) == sorted(set(full) - set(trunk))
    assert trained["rfb1.branch0.0.bn.num_batches_tracked"] == 7 and "up4.conv.double_conv.0.weight" in trained
    assert all(same_bits(trained[name], full[name]) for name in trained)


def test_equal_weights_make_equal_files(files, tmp_path):
    model, base = start_model("sam2unet", NetworkShape(), {"hiera_path": files / "sam2.pt"}, files / "full.pth")
    for _ in range(3):
        save_checkpoint(model, tmp_path / "x.safetensors", base)
        assert (tmp_path / "x.safetensors").read_bytes() == (files / "trained.safetensors").read_bytes()


def test_both_ways_give_the_same_file_again(files, convert, tmp_path):
    base = ("--hiera_path", files / "sam2.pt")
    convert(files / "full.pth", tmp_path / "a.safetensors", *base)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth", *base)
    assert (tmp_path / "a.safetensors").read_bytes() == (files / "trained.safetensors").read_bytes()
    assert equal(torch.load(tmp_path / "b.pth"), torch.load(files / "full.pth"))
    assert (tmp_path / "b.pth").read_bytes() == (files / "full.pth").read_bytes()


@pytest.mark.parametrize(
    "source, target, base, words",
    [
        ("full.pth", "x.safetensors", None, "give --hiera_path FILE, the weights that .*full.pth was trained from"),
        (
            "full.pth",
            "x.safetensors",
            "other.pt",
            r"another trunk than .*other.pt: \d+ of \d+ weights differ, first enc",
        ),
        ("trained.safetensors", "x.pth", None, "holds trained weights alone; give --hiera_path"),
        ("trained.safetensors", "x.pth", "other.pt", "--hiera_path is another file: other.pt"),
        ("full.pth", "x.pth", "sam2.pt", "one must be a .pth, the other a .safetensors"),
        ("full.pth", "x", "sam2.pt", "one must be a .pth, the other a .safetensors"),
        ("sam2.pth", "x.safetensors", "sam2.pt", "is a SAM 2 checkpoint, which belongs to --hiera_path"),
        ("trained.safetensors", "sam2.pth", "sam2.pth", "is the file to read from"),
        ("trained.safetensors", "no/x.pth", "sam2.pt", "cannot write .*no/x.pth: No such file"),
    ],
)
def test_what_cannot_be_converted(source, target, base, words, files, convert, tmp_path):
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "sam2.pth").symlink_to(files / "sam2.pt")
    before = set(tmp_path.iterdir())
    flags = [] if base is None else ["--hiera_path", tmp_path / base]
    with pytest.raises(sam2unet.UserError, match=words):
        convert(tmp_path / source, tmp_path / target, *flags)
    assert set(tmp_path.iterdir()) == before and (tmp_path / "sam2.pth").is_symlink()


def test_a_trunk_that_differs_in_one_bit_was_trained(files, convert, tmp_path):
    state = torch.load(files / "full.pth")
    bits = state["encoder.blocks.3.block.norm1.bias"].view(torch.int32)
    bits[0] ^= 1
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(sam2unet.UserError, match=r"1 of \d+ weights differ, first encoder.blocks.3.block.norm1.bias"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors", "--hiera_path", files / "sam2.pt")
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor(torch.nan), torch.tensor(torch.nan))


def test_both_formats_predict_the_same_map(files, script, tmp_path):
    images, _ = write_pairs(tmp_path, count=1)
    for name, flags in (("full.pth", ()), ("trained.safetensors", ("--hiera_path", files / "sam2.pt"))):
        flags = ("--test_image_path", images, "--save_path", tmp_path / name, "--size", 64, "--device", "cpu", *flags)
        result = script("test.py", "--checkpoint", files / name, *flags)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "full.pth/a.png").read_bytes() == (tmp_path / "trained.safetensors/a.png").read_bytes()
    models = [sam2unet.load_model(files / "full.pth", "cpu")]
    models.append(sam2unet.load_model(files / "trained.safetensors", "cpu", hiera_path=files / "sam2.pt"))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert all(same_bits(a, b) for a, b in zip(*(model(image) for model in models), strict=True))


@pytest.mark.parametrize(
    "name, base, words",
    [
        (
            "trained.safetensors",
            None,
            "holds trained weights alone; give --hiera_path FILE, the .* from: sam2.pt, SHA-256",
        ),
        (
            "trained.safetensors",
            "other.pt",
            "was trained from sam2.pt, SHA-256 .*; --hiera_path is another file: other.pt",
        ),
        ("trained.safetensors", "no.pt", "no such file: .*no.pt"),
        (
            "trained.safetensors",
            "full.pth",
            "full.pth is a SAM2-UNet checkpoint, which belongs to --checkpoint of test.py",
        ),
        ("trained.safetensors", "trained.safetensors", "is a SAM2-UNet checkpoint, which belongs to --checkpoint"),
        ("full.pth", "sam2.pt", "holds all weights, also those of the trunk; leave --hiera_path out"),
        ("no.safetensors", "sam2.pt", "no such file: .*no.safetensors"),
    ],
)
def test_the_wrong_base_is_refused(name, base, words, files):
    with pytest.raises(sam2unet.UserError, match=words):
        sam2unet.load_model(files / name, "cpu", hiera_path=base and files / base)


def test_both_hashes_are_named(files):
    with pytest.raises(sam2unet.UserError) as caught:
        sam2unet.load_model(files / "trained.safetensors", "cpu", hiera_path=files / "other.pt")
    assert all(sha256(files / name)[:16] in str(caught.value) for name in ("sam2.pt", "other.pt"))


@pytest.mark.parametrize("keep", [0, 5, 1000, -3])
def test_a_damaged_file_is_one_line(keep, files, tmp_path):
    (tmp_path / "x.safetensors").write_bytes((files / "trained.safetensors").read_bytes()[:keep])
    with pytest.raises(sam2unet.UserError, match="x.safetensors is not a safetensors file, or only a part of one"):
        sam2unet.load_model(tmp_path / "x.safetensors", "cpu", hiera_path=files / "sam2.pt")


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    with safe_open(files / "trained.safetensors", "pt") as file:
        facts = file.metadata()
    state = load_file(files / "trained.safetensors")
    path, base = tmp_path / "x.safetensors", files / "sam2.pt"
    save_file(state, path, facts | {"version": "3"})
    with pytest.raises(sam2unet.UserError, match="has version 3 of the format; this package reads 2"):
        sam2unet.load_model(path, "cpu", hiera_path=base)
    save_file({name: t for name, t in state.items() if name != "head.bias"} | {"new": torch.ones(1)}, path, facts)
    with pytest.raises(sam2unet.UserError, match="1 names are missing, 1 are unknown, 0 have .*; first: head.bias"):
        sam2unet.load_model(path, "cpu", hiera_path=base)
    save_file(state, path)  # of another program: no word of a base
    with pytest.raises(
        sam2unet.UserError, match=f"does not fit SAM2UNet: {len(shapes(hiera, 'micro'))} names are missing"
    ):
        sam2unet.load_model(path, "cpu")


@pytest.mark.parametrize(
    "name, base", [("full.pth", None), ("full.pth", "sam2.pt"), ("trained.safetensors", "sam2.pt")]
)
def test_new_training_starts_from_any_of_them(name, base, files, capsys):
    given = base and files / base
    model, found = start_model("sam2unet", NetworkShape(), {"hiera_path": given} if given else {}, files / name)
    assert equal(model.state_dict(), torch.load(files / "full.pth"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"weights: {name}, SAM2-UNet micro, SHA-256 {sha256(files / name)}"
    assert found == ({"hiera_path": WeightFile("sam2.pt", sha256(files / "sam2.pt"))} if base else {})
    assert len(lines) == (2 if base else 1)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith("encoder.") and "prompt_learn" not in n}
    assert equal(sam2unet.create_model("sam2unet", None, given, files / name).state_dict(), model.state_dict())


@pytest.mark.parametrize(
    "name, encoder, base, words",
    [
        (
            "full.pth",
            "large",
            None,
            "full.pth is SAM2-UNet micro, but the requested encoder is large; give --encoder micro",
        ),
        (
            "trained.safetensors",
            "large",
            "sam2.pt",
            "trained.safetensors is SAM2-UNet micro, but the requested encoder",
        ),
        ("full.pth", None, "other.pt", "full.pth has another trunk than .*other.pt"),
        ("trained.safetensors", None, None, "holds trained weights alone; give --hiera_path"),
        ("trained.safetensors", None, "other.pt", "--hiera_path is another file: other.pt"),
        ("sam2.pt", None, None, "is a SAM 2 checkpoint, which belongs to --hiera_path of train.py"),
    ],
)
def test_what_training_cannot_start_from(name, encoder, base, words, files):
    with pytest.raises(sam2unet.UserError, match=words):
        sam2unet.create_model("sam2unet", encoder, base and files / base, init_from=files / name)


def test_the_state_of_a_run_is_named(files, tmp_path):
    torch.save({"format": RUN_FORMAT, "weights": torch.load(files / "full.pth"), "step": 3}, tmp_path / "last.pt")
    words = "last.pt is the state of a training run; --resume of train.py takes it"
    with pytest.raises(sam2unet.UserError, match=words):
        sam2unet.load_model(tmp_path / "last.pt")
    with pytest.raises(sam2unet.UserError, match=words):
        sam2unet.create_model("sam2unet", init_from=tmp_path / "last.pt")


def test_what_was_trained_of_the_trunk_is_in_the_file(files, tmp_path):
    model, base = start_model("sam2unet", NetworkShape(), {"hiera_path": files / "sam2.pt"})
    model.encoder.pos_embed.requires_grad_(True).data.add_(1)
    save_checkpoint(model, tmp_path / "x.safetensors", base)
    loaded = sam2unet.load_model(tmp_path / "x.safetensors", "cpu", hiera_path=files / "sam2.pt")
    assert equal(loaded.state_dict(), model.state_dict())
    model.requires_grad_(True)
    save_checkpoint(model, tmp_path / "x.safetensors", base)
    assert equal(sam2unet.load_model(tmp_path / "x.safetensors", "cpu").state_dict(), model.state_dict())


def test_frozen_adapters_are_in_the_file(files):
    model, base = start_model("sam2unet", NetworkShape(), {"hiera_path": files / "sam2.pt"})
    names = list_saved_names(FAMILIES["sam2unet"], model, base)
    assert list_saved_names(FAMILIES["sam2unet"], model.requires_grad_(False), base) == names
    assert list_saved_names(FAMILIES["sam2unet"], model, {}) == list(model.state_dict())


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_other_weights_than_the_model_s_can_be_written(name, files, tmp_path):
    model, base = start_model("sam2unet", NetworkShape(), {"hiera_path": files / "sam2.pt"})
    averaged = torch.load(files / "full.pth")
    save_checkpoint(model, tmp_path / name, base, averaged)
    hiera_path = files / "sam2.pt" if name == "x.safetensors" else None
    assert equal(sam2unet.load_model(tmp_path / name, "cpu", hiera_path).state_dict(), averaged)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_full_disk_is_one_line_and_keeps_the_old_file(name, files, tmp_path):
    model, base = start_model(
        "sam2unet", NetworkShape(), {"hiera_path": files / "sam2.pt"}, files / "trained.safetensors"
    )
    (tmp_path / name).write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(sam2unet.UserError, match=f"cannot write .*{name}: "):
            save_checkpoint(model, tmp_path / name, base)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / name]
    with pytest.raises(sam2unet.UserError, match="x.bin: a checkpoint is called .pth"):
        save_checkpoint(model, tmp_path / "x.bin", base)


def test_a_safetensors_file_can_hold_the_base_weights(files, tmp_path):
    save_file(torch.load(files / "sam2.pt")["model"], tmp_path / "sam2.safetensors")
    ours = sam2unet.create_model("sam2unet", None, tmp_path / "sam2.safetensors", files / "full.pth")
    assert equal(ours.state_dict(), torch.load(files / "full.pth"))


def test_released_files_convert(reference, fill, files, convert, tmp_path):
    """A bare state dict in a pickle, its trunk that of the SAM 2 file."""
    keys = json.loads((reference / "sam2unet_hiera_t.keys.json").read_text())
    state = fill.fill_state_dict({key: torch.empty(shape) for key, shape, *_ in keys}, 0)
    state = {key: t.long() if "num_batches" in key else t for key, t in state.items()}
    trunk = {name: t for name, t in state.items() if name.startswith("encoder.") and "prompt_learn" not in name}
    base = {f"image_encoder.trunk.{name[8:].replace('.block.', '.')}": t for name, t in trunk.items()}
    torch.save({"model": base}, tmp_path / "sam2.pt")
    torch.save(state, tmp_path / "SAM2-UNet-20.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "SAM2-UNet-20.pth", tmp_path / "a.safetensors", "--hiera_path", tmp_path / "sam2.pt")
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth", "--hiera_path", tmp_path / "sam2.pt")
    assert equal(torch.load(tmp_path / "b.pth"), state)
