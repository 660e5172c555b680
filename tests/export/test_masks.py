"""Exported models: what is in the files, that they compute what torch computes, and test.py with an .onnx."""

import importlib
import json
import shutil
import sys
import zipfile

import imageio.v3 as iio
import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, checker, helper, load, save
from PIL import Image

import sam2unet
from sam2unet.atomic import sha256
from sam2unet.data.images.reading import read_image
from sam2unet.export import masks as mask_export
from sam2unet.families.load import read_checkpoint
from sam2unet.families.table import FAMILIES
from sam2unet.masks.prediction import onnx_file as onnx_model
from sam2unet.masks.prediction.open import open_predictor
from sam2unet.masks.prediction.options import Averaging, PredictOptions
from sam2unet.masks.prediction.probability import stretch_range, to_uint8
from sam2unet.masks.transforms import image_bytes, normalise_image
from tests.conftest import ROOT
from tests.exported import SIDE

SIZE = 64
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(mask_checkpoint):
    return mask_checkpoint


@pytest.fixture(scope="module")
def model(checkpoint):
    return sam2unet.load_model(checkpoint, "cpu")


@pytest.fixture(scope="module")
def trained_model(trained, sam2_micro):
    """The model of `exported_onnx`."""
    return sam2unet.load_model(trained["trainable"], "cpu", hiera_path=sam2_micro)


@pytest.fixture(scope="module")
def photos(polyps):
    return [read_image(path) for path in sorted((polyps / "images").iterdir())[:3]]


@pytest.fixture(scope="module")
def images(polyps, tmp_path_factory):
    """A folder of three photographs."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted((polyps / "images").iterdir())[:3]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module", params=["convolution", pytest.param("sam2unet", marks=pytest.mark.slow)])
def pt2(request, convolution, checkpoint, photos, tmp_path_factory):
    """A checkpoint and its model.pt2. The exporter is the first half of that of ONNX, which has a whole SAM2-UNet."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    source = checkpoint if request.param == "sam2unet" else convolution()
    mask_export.run(read_checkpoint(source), path, photos, SIZE)
    return source, path


@pytest.fixture(scope="module")
def whole_file(convolution, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "whole.onnx"
    mask_export.run(read_checkpoint(convolution()), path, photos, SIZE, whole=True)
    return path


def session(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def shapes(puts):
    return [(put.name, put.type, put.shape) for put in puts]


def logits_of(model, photos, size=SIZE):
    with torch.inference_mode():
        return torch.cat([model(normalise_image(image_bytes(photo, size))[None])[0] for photo in photos])


def test_onnxruntime_alone_gives_the_logits_of_any_number_of_images(exported_onnx, trained_model, photos):
    checker.check_model(exported_onnx, full_check=True)
    found = session(exported_onnx)
    assert shapes(found.get_inputs()) == [("image", "tensor(float)", ["batch", 3, SIDE, SIDE])]
    assert shapes(found.get_outputs()) == [("logits", "tensor(float)", ["batch", 1, SIDE, SIDE])]
    batch = normalise_image(torch.stack([image_bytes(photo, SIDE) for photo in photos]))
    wanted = logits_of(trained_model, photos, SIDE)
    for count in (1, 2, 3):
        (logits,) = found.run(None, {"image": batch[:count].numpy()})
        np.testing.assert_allclose(logits, wanted[:count], atol=1e-4)  # rounding alone gives 2e-5


def test_the_file_says_how_to_use_it_and_where_it_is_from(exported_onnx, whole_file, trained, sam2_micro):
    facts = {prop.key: prop.value for prop in load(exported_onnx).metadata_props}
    assert facts["checkpoint"] == "trained.safetensors" and facts["checkpoint_sha256"] == sha256(trained["trainable"])
    assert facts["hiera_sha256"] == sha256(sam2_micro)
    assert (facts["model"], facts["encoder"], facts["size"], facts["whole"]) == ("sam2unet", "micro", "96", "no")
    assert (facts["mean"], facts["std"]) == ("0.485 0.456 0.406", "0.229 0.224 0.225")
    assert "96x96, bilinear with antialiasing" in facts["preprocessing"] and "min" in facts["postprocessing"]
    assert session(whole_file).get_modelmeta().custom_metadata_map["whole"] == "yes"


def test_no_path_of_this_machine_is_in_a_file(exported_onnx, pt2):
    with zipfile.ZipFile(pt2[1]) as archive:
        contents = [archive.read(name) for name in archive.namelist() if "weight_" not in name]
    for content in (exported_onnx.read_bytes(), *contents):
        assert not any(name.encode() in content for name in (str(ROOT), "hiera.py", "conftest.py"))


def test_a_whole_model_makes_maps_of_photographs(whole_file, convolution, photos):
    found = session(whole_file)
    assert shapes(found.get_inputs()) == [("photo", "tensor(uint8)", ["batch", SIZE, SIZE, 3])]
    assert shapes(found.get_outputs()) == [("map", "tensor(uint8)", ["batch", SIZE, SIZE])]
    batch = torch.stack([image_bytes(photo, SIZE).permute(1, 2, 0) for photo in photos]).numpy()
    model = sam2unet.load_model(convolution(), "cpu")
    wanted = [to_uint8(stretch_range(logits.sigmoid()[0])) for logits in logits_of(model, photos)]
    for count in (1, 2, 3):  # each map has a range of its own, whatever else is in the batch
        (maps,) = found.run(None, {"photo": batch[:count]})
        assert maps.dtype == np.uint8 and np.abs(maps.astype(int) - wanted[:count]).max() <= 1
        assert all(map_.min() == 0 and map_.max() >= 254 for map_ in maps)


def test_torch_loads_the_pt2(pt2, photos):
    extra, (checkpoint, path) = {"sam2unet.json": ""}, pt2
    found = torch.export.load(path, extra_files=extra).module()
    batch = normalise_image(torch.stack([image_bytes(photo, SIZE) for photo in photos]))
    wanted = logits_of(sam2unet.load_model(checkpoint, "cpu"), photos)
    for count in (1, 2, 3):
        torch.testing.assert_close(found(batch[:count]), wanted[:count], atol=1e-4, rtol=0)
    assert json.loads(extra["sam2unet.json"])["checkpoint_sha256"] == sha256(checkpoint)


def test_pngs_are_at_most_one_grey_level_apart(exported_onnx, trained, sam2_micro, images, script, tmp_path):
    for name, file, flags in (
        ("torch", trained["trainable"], ("--hiera_path", sam2_micro)),
        ("onnx", exported_onnx, ("--batch_size", 2)),
    ):
        result = script(
            *("test.py", "--checkpoint", file, "--test_image_path", images, "--save_path", tmp_path / name),
            *("--device", "cpu", *flags),
        )
        assert result.returncode == 0, result.stderr
        assert "3 images at 96x96 on cpu" in result.stdout
    for path in images.iterdir():
        a, b = (iio.imread(tmp_path / name / f"{path.stem}.png").astype(int) for name in ("torch", "onnx"))
        assert a.shape == read_image(path).size[::-1] and np.ptp(a) >= 254 and np.abs(a - b).max() <= 1


def test_flips_are_averaged_as_in_torch(exported_onnx, trained, photos):
    maps = []
    for path in (exported_onnx, trained["file"]):
        predictor = open_predictor(path, CPU, options=PredictOptions(size=SIDE, averaging=Averaging(flip=True)))
        maps.append(predictor.predict_photo(photos[0], (80, 90)))
    plain = open_predictor(exported_onnx, CPU)
    torch.testing.assert_close(*maps, atol=1e-5, rtol=0)
    assert not torch.allclose(maps[0], plain.predict_photo(photos[0], (80, 90)), atol=1e-3)


@pytest.mark.parametrize(
    "way, hiera_path, words",
    [
        (PredictOptions(size=64), None, "takes images of 96x96 alone; leave out --size 64"),
        (PredictOptions(amp="bf16"), None, "runs as it was exported; leave out --amp, or give the checkpoint"),
        (PredictOptions(compile=True, fold=True), None, "leave out --compile, --fast, or"),
        (PredictOptions(averaging=Averaging(scales=(0.75, 1.0))), None, "leave out --tta scale, or"),
        (PredictOptions(), "sam2.pt", "leave out --hiera_path, or"),
    ],
)
def test_what_a_fixed_file_cannot_do(way, hiera_path, words, exported_onnx):
    with pytest.raises(sam2unet.UserError, match=words):
        open_predictor(exported_onnx, CPU, {"hiera_path": hiera_path} if hiera_path else {}, way)


def test_other_files_are_one_line(exported_onnx, whole_file, pt2, script, tmp_path):
    content = exported_onnx.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.onnx").touch()
    shutil.copy(pt2[1], tmp_path / "zip.onnx")
    put = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "other", [put], [out])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    save(other, tmp_path / "other.onnx")
    helper.set_model_props(other, {"format": onnx_model.FORMAT, "version": "2"})
    save(other, tmp_path / "new.onnx")
    for path, words in (
        (tmp_path / "cut.onnx", "is not an ONNX file, or only a part of one"),
        (tmp_path / "empty.onnx", r"\(0 bytes\) is not an ONNX file"),
        (tmp_path / "zip.onnx", "is not an ONNX file"),
        (tmp_path / "no.onnx", "no such file: .*no.onnx"),
        (tmp_path / "other.onnx", "is not a model that sam2unet export made"),
        (tmp_path / "new.onnx", "has version 2 of the format, known here is 1"),
        (whole_file, "was exported with --whole"),
        (pt2[1], "reading a .pt2 can run code"),
    ):
        with pytest.raises(sam2unet.UserError, match=words):
            open_predictor(path, CPU)
    flags = ("--test_image_path", tmp_path, "--save_path", tmp_path / "maps")
    (tmp_path / "a.png").write_bytes(b"")
    result = script("test.py", "--checkpoint", tmp_path / "cut.onnx", *flags)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


FACTS = {"format": onnx_model.FORMAT, "version": "1", "size": "64", "whole": "no"}


def crafted(path, inputs=1, constant=1, axis=1, **facts):
    """An ONNX of a few nodes with the facts of an export: the mean of all inputs along `axis`, by a constant."""
    names = [f"image{number}" for number in range(inputs)]
    puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 64, 64]) for name in names]
    outs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
        helper.make_node("ReduceMax", ["ones"], ["one"], keepdims=0),
        helper.make_node("Sum", [*names, "one"], ["sum"]),
        helper.make_node("ReduceMean", ["sum", "axis"], ["logits"]),
    ]
    numbers = {"shape": [constant], "axis": [axis]}
    values = [helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "crafted", puts, outs, values)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(content, {name: text for name, text in (FACTS | facts).items() if text is not None})
    save(content, path)
    return path


@pytest.mark.parametrize(
    "changes, words",
    [
        *(({"size": size}, f"is damaged: it says that it has size {size} and") for size in ("abc", "0", "96", "-64")),
        ({"size": None}, "is damaged: it says that it has size None and"),
        ({"whole": None}, "and whole None, but its inputs and outputs are image0"),
        ({"version": None}, "has version None of the format"),
        ({"version": "2\nerror: fine"}, r"has version 2\\nerror: fine of the format"),
        ({"inputs": 2}, r"its inputs and outputs are image0 .*image1 .*logits"),
        ({"axis": 2}, r"logits tensor\(float\) \['batch', 3, 1, 64\]; export it again"),
    ],
)
def test_an_onnx_whose_facts_do_not_fit_its_graph_is_one_line(changes, words, tmp_path):
    path = crafted(tmp_path / "x.onnx", **changes)
    with pytest.raises(sam2unet.UserError, match=words) as error:
        open_predictor(path, CPU)
    assert "\n" not in str(error.value)


def test_an_onnx_that_cannot_be_computed_is_one_line(tmp_path):
    image = Image.new("RGB", (8, 8))
    good = open_predictor(crafted(tmp_path / "good.onnx"), CPU)
    assert good.predict_photo(image).shape == (8, 8)
    large = open_predictor(crafted(tmp_path / "large.onnx", constant=2**43), CPU)
    with pytest.raises(
        sam2unet.UserError, match="onnxruntime cannot compute .*large.onnx .*; export it again"
    ) as error:
        large.predict_photo(image)
    assert "\n" not in str(error.value)


def test_without_onnxruntime_the_line_says_what_to_install(exported_onnx, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(sam2unet.UserError, match="pip install onnxruntime"):
        open_predictor(exported_onnx, CPU)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(sam2unet.UserError, match=r'onnxscript is not .*: pip install "sam2unet\[export\]"'):
        mask_export.run(read_checkpoint(checkpoint), tmp_path / "x.onnx", [], SIZE)


@pytest.mark.parametrize(
    "whole, wrong",
    [
        (False, lambda logits: logits + 0.01),
        (False, lambda logits: torch.cat([logits[:1], logits[1:] + 0.01])),  # right for one image alone
        (False, lambda logits: logits * torch.nan),
        (True, lambda maps: maps // 4 * 4),
    ],
)
def test_a_model_that_differs_is_not_written(whole, wrong, checkpoint, model, photos, monkeypatch, tmp_path, capsys):
    graph = mask_export.Logits(FAMILIES["sam2unet"], model)
    graph = mask_export.WholeGraph(graph) if whole else graph
    kind = ((), lambda graph, example, facts, file: file.write(b"x"), lambda path: lambda given: wrong(graph(given)))
    monkeypatch.setitem(mask_export.FORMATS, ".onnx", kind)
    with pytest.raises(sam2unet.UserError, match="differs from torch by (0.00|nan).* in probability, more than 0.001"):
        mask_export.run(read_checkpoint(checkpoint), tmp_path / "model.onnx", photos, SIZE, whole)
    assert not list(tmp_path.iterdir()) and "bytes;" not in capsys.readouterr().out
    monkeypatch.setitem(mask_export.FORMATS, ".onnx", (*kind[:2], lambda path: graph))
    mask_export.run(read_checkpoint(checkpoint), tmp_path / "model.onnx", photos, SIZE, whole)
    with pytest.raises(sam2unet.UserError, match="model.onnx exists and is not overwritten"):
        mask_export.run(read_checkpoint(checkpoint), tmp_path / "model.onnx", photos, SIZE, whole)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"x"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--output", "x.onnx", "--format", "pt2"), "--format pt2 and --output x.onnx say different things"),
        (("--output", "x"), "x: the name of an exported model ends in .onnx or .pt2"),
        (("--output", "x.onnx", "--size", "100"), "size 100 is not a multiple of 32; give 96 or 128"),
        (("--output", "no/x.onnx"), "cannot write no/x.onnx: No such file"),
        (("--output", "x.onnx", "--images", "none"), "no such .*: none"),
    ],
)
def test_what_cannot_be_exported(flags, words, checkpoint, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module("export")
    with pytest.raises(sam2unet.UserError, match=words):
        script.run(script.parser().parse_args(["--checkpoint", str(checkpoint), *flags]))
    assert not list(tmp_path.iterdir())
