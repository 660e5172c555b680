"""SAM-Med2D: what files of SAM and of SAM-Med2D give, and what is refused."""

import json
import shlex
from runpy import run_path

import numpy as np
import pytest
import torch
from torch import nn

import sam2unet
from sam2unet.families import load as families
from sam2unet.families.build import build_sam_med2d
from sam2unet.families.shape import NetworkShape
from sam2unet.layers.sam_vit import resize_sam_positions
from sam2unet.weights.formats import read_state_dict
from tests.conftest import ROOT


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def procedures(reference):
    return np.load(reference / "sammed2d_procedures.npz")


@pytest.fixture(scope="module")
def shapes(reference):
    return {name: shape for name, shape, _ in json.loads((reference / "sammed2d_vit_b.keys.json").read_text())}


def thin(shapes):
    """Zeros that take one number each in a file."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def sam_file(fill, shapes, tmp_path_factory):
    """SAM's own layout for images of 1024; generated where positions are, zero elsewhere."""
    large = {"image_encoder.pos_embed": [1, 64, 64, 768]}
    for block in (2, 5, 8, 11):
        large |= {f"image_encoder.blocks.{block}.attn.rel_pos_{axis}": [127, 64] for axis in "hw"}
    shapes = {name: large.get(name, shape) for name, shape in shapes.items() if ".Adapter." not in name}
    tables = {name: torch.empty(shape) for name, shape in shapes.items() if "_pos" in name or "pos_embed" in name}
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b.pth"
    torch.save(thin(shapes) | fill.fill_state_dict(tables, 0), path)
    return path


@pytest.mark.parametrize("side", [256, 512])
def test_tables_of_sam_are_resized_as_released(side, sam_file, procedures):
    state = read_state_dict(sam_file)
    encoder = {name.removeprefix("image_encoder."): t for name, t in state.items() if name.startswith("image_")}
    ours = resize_sam_positions(encoder, "vit_b", side // 16)
    changed = [name for name, t in ours.items() if t.shape != encoder[name].shape]
    expected = procedures[f"checkpoint.{side}.resized_keys"].tolist()
    assert sorted(f"image_encoder.{name}" for name in changed) == sorted(expected)
    close(ours["pos_embed"][..., ::32], procedures[f"checkpoint.{side}.pos_embed_c32"])
    for name in changed[1:]:
        close(ours[name][:, ::8], procedures[f"checkpoint.{side}.image_encoder.{name}"])


def test_training_starts_from_sam_with_new_adapters(sam_file, procedures, capsys):
    model, weight_files = build_sam_med2d(NetworkShape(), {"sam_checkpoint": sam_file})
    assert "weights: sam_vit_b.pth, SAM vit_b, new adapters, SHA-256" in capsys.readouterr().out
    assert weight_files["sam_checkpoint"].name == "sam_vit_b.pth"
    state = model.state_dict()
    close(state["image_encoder.pos_embed"][..., ::32], procedures["checkpoint.256.pos_embed_c32"])
    fresh = {name for name, t in state.items() if t.any() and "_pos" not in name and "pos_embed" not in name}
    biases = {name for name in state if name.endswith("Adapter.norm.bias")}  # which begin at zero
    assert fresh | biases == set(procedures["checkpoint.256.not_loaded_keys"])
    plain, _ = build_sam_med2d(NetworkShape(size=512, encoder_adapter=False), {"sam_checkpoint": sam_file})
    assert len(plain.state_dict()) == 314 and plain.image_encoder.pos_embed.shape == (1, 32, 32, 768)
    assert not any(p.requires_grad for p in plain.image_encoder.parameters())
    assert all(p.requires_grad for p in plain.mask_decoder.parameters())


@pytest.mark.parametrize("wrapped", [False, True])
def test_released_files_load_with_or_without_adapters(wrapped, shapes, tmp_path, capsys):
    path = tmp_path / "sam-med2d_b.pth"
    state = thin(shapes)
    state["image_encoder.blocks.3.Adapter.norm.bias"] = torch.arange(768.0)
    state["mask_decoder.mask_tokens.weight"] = torch.arange(1024.0).reshape(4, 256)
    torch.save({"model": state, "optimizer": {"state": {}}} if wrapped else state, path)
    model, _ = build_sam_med2d(NetworkShape("vit_b"), {"sam_checkpoint": path})
    assert model.image_encoder.blocks[3].Adapter.norm.bias[7] == 7 and model.image_encoder.blocks[3].Adapter is not None
    plain, _ = build_sam_med2d(NetworkShape(encoder_adapter=False), {"sam_checkpoint": path})
    for loaded in (model, plain):
        assert loaded.mask_decoder.mask_tokens.weight[1, 2] == 258
    assert len(model.state_dict()) == 386 and len(plain.state_dict()) == 314
    first, second = capsys.readouterr().out.splitlines()
    assert "SAM-Med2D vit_b, SHA" in first and "SAM-Med2D vit_b, no adapters, SHA" in second


def test_a_pickled_optimiser_is_refused_with_the_way_out(shapes, tmp_path, monkeypatch, capsys):
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "it's.pth"
    torch.save({"model": thin(shapes), "optimizer": optimizer}, path)
    with pytest.raises(sam2unet.UserError, match=r"holds a Python object \(torch.optim.adam.Adam\)") as refusal:
        build_sam_med2d(NetworkShape(), {"sam_checkpoint": path})
    command = str(refusal.value).split("convert the file to plain weights: ")[1]
    target = tmp_path / "it's_weights.pth"
    script = ["sam2unet", "convert-checkpoint", "--trust_pickle"]
    assert shlex.split(command) == [*script, str(path), str(target)]
    monkeypatch.setattr(families, "save_state", lambda state, path: torch.save(state, path))  # stays thin
    convert = run_path(ROOT / "scripts/convert_checkpoint.py")
    convert["run"](convert["parser"]().parse_args(shlex.split(command)[2:]))
    assert f"warning: --trust_pickle: reading {path} runs any code in the file" in capsys.readouterr().err
    model, _ = build_sam_med2d(NetworkShape(), {"sam_checkpoint": target})
    assert len(model.state_dict()) == 386


@pytest.mark.parametrize(
    "change, line",
    [
        ({"image_encoder.blocks.0.Adapter.norm.bias": None}, "1 names are missing, 0 are unknown, 0 have another"),
        ({"extra": torch.zeros(1)}, "0 names are missing, 1 are unknown, 0 have another shape; first: extra"),
        ({"mask_decoder.mask_tokens.weight": torch.zeros(3, 256)}, "1 have another shape; first: mask_decoder.mask_to"),
        ({"image_encoder.pos_embed": torch.zeros(1, 16, 16, 99)}, "of none of the sizes vit_b, vit_l, vit_h"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": None}, "a checkpoint of SAM or SAM-Med2D is needed"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(change, line, shapes, tmp_path):
    state = {name: t for name, t in (thin(shapes) | change).items() if t is not None}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(sam2unet.UserError, match=line):
        build_sam_med2d(NetworkShape(), {"sam_checkpoint": tmp_path / "x.pth"})


def test_another_size_than_the_file_is_refused(shapes, tmp_path):
    torch.save(thin(shapes), tmp_path / "x.pth")
    with pytest.raises(sam2unet.UserError, match="x.pth is SAM-Med2D vit_b, but the requested encoder is vit_l"):
        build_sam_med2d(NetworkShape("vit_l"), {"sam_checkpoint": tmp_path / "x.pth"})
    with pytest.raises(sam2unet.UserError, match="no encoder named huge; there are vit_b, vit_l, vit_h"):
        build_sam_med2d(NetworkShape("huge"), {})
