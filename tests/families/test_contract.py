"""What every model guarantees: each row of the table, and the invented row of docs/new-model.md, passes these tests."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.errors import UserError
from sam2unet.export import masks as mask_export
from sam2unet.export import prompts as prompt_export
from sam2unet.export.hub_folder import write_folder
from sam2unet.families.load import load_model, read_checkpoint, save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES, check_size, find_family_of
from sam2unet.limits import round_size
from sam2unet.prompts.dataset import PromptDraw, PromptFolder
from sam2unet.prompts.framing import Framing
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.training.prepare import TASKS, Hardware, build_model
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer
from sam2unet.weights.formats import same_bits, save_state
from tests.conftest import ROOT
from tests.test_docs import read_blocks

INVENTED = "linear_probe"
SMALL = {  # the smallest network of each model; "micro" exists in the tests alone
    "sam2unet": NetworkShape("micro"),
    "sam2unext": NetworkShape("micro", "micro"),
    "sam3unet": NetworkShape("micro"),
    "sam_med2d": NetworkShape("micro", size=64, encoder_adapter=True),
    INVENTED: NetworkShape("micro"),
}
FROZEN = {  # how the names of frozen weights begin; adapters inside train
    "sam2unet": ("encoder.",),
    "sam2unext": ("sam.", "dino."),
    "sam3unet": ("sam3_vit.",),
    "sam_med2d": ("image_encoder.",),
    INVENTED: ("trunk.",),
}
KEYS = [  # model, shape, file of names
    *(
        ("sam2unet", NetworkShape(size), f"sam2unet_hiera_{letter}")
        for size, letter in zip(("tiny", "small", "base_plus", "large"), ("t", "s", "bplus", "l"), strict=True)
    ),
    ("sam2unext", NetworkShape(), "sam2unext"),
    ("sam3unet", NetworkShape(), "sam3unet"),
    ("sam_med2d", NetworkShape(), "sammed2d_vit_b"),
]
EXPORTED = {"sam2unet": "exported_onnx", "sam_med2d": "exported_prompts"}  # exports that other tests look into
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(sam2_micro, sam3_micro, dino_micro, fill, tmp_path_factory) -> dict[str, Path]:
    """A small weight file for each flag."""
    folder = tmp_path_factory.mktemp("weights")
    state = start_model("sam_med2d", SMALL["sam_med2d"])[0].state_dict()
    save_state(fill.fill_state_dict(state, 1), folder / "sam.pth")
    paths = dict(hiera_path=sam2_micro, sam3_path=sam3_micro, dinov2_path=dino_micro)
    return paths | {"sam_checkpoint": folder / "sam.pth"}


@pytest.fixture(scope="module", params=[*FAMILIES, INVENTED])
def case(request, files, fill, tmp_path_factory):
    """A model of each family with generated weights, its checkpoint, and the files that its frozen parts come from."""
    name, shape = request.param, SMALL[request.param]
    with pytest.MonkeyPatch.context() as patch:
        if name == INVENTED:
            (block,) = read_blocks(ROOT / "docs/new-model.md", "python")
            page = {}
            exec(block.text, page)
            patch.setitem(FAMILIES, name, page["row"])
        family = FAMILIES[name]
        paths = {source.flag: files[source.flag] for source in family.weight_flags}
        model = start_model(name, shape)[0].eval()
        model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
        path = tmp_path_factory.mktemp(name) / f"{family.title}-20.pth"
        save_checkpoint(model, path)
        side = round_size(64, family.stride)
        yield SimpleNamespace(name=name, family=family, shape=shape, model=model, path=path, paths=paths, side=side)


def equal(model, other) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(same_bits(t, theirs[name]) for name, t in ours.items())


def frozen_names(name, model) -> set[str]:
    names = (n for n, _ in model.named_parameters() if n.startswith(FROZEN[name]))
    return {n for n in names if "prompt_learn" not in n and ".Adapter." not in n}


# Names, shapes, numbers


@pytest.mark.parametrize("name, shape, keys", KEYS, ids=lambda value: value if isinstance(value, str) else "")
def test_names_shapes_and_trained_set_are_those_of_released_checkpoints(name, shape, keys, reference):
    with torch.device("meta"):
        model, _ = start_model(name, shape)
    trains = {n: p.requires_grad for n, p in model.named_parameters()}
    ours = [
        [n, list(t.shape), str(t.dtype).removeprefix("torch."), n in trains, trains.get(n, False)]
        for n, t in model.state_dict().items()
    ]
    expected = json.loads((reference / f"{keys}.keys.json").read_text())
    assert [row[: len(other)] for row, other in zip(ours, expected, strict=True)] == expected
    assert {n for n, train in trains.items() if not train} == frozen_names(name, model)


def sam2unet_outputs(model, image, case):
    features = []
    with model.encoder.register_forward_hook(lambda encoder, inputs, outputs: features.extend(outputs)):
        outputs = zip(("out", "out1", "out2"), model(image), strict=True)
    assert len(features) == 4
    for number, feature in enumerate(features, start=1):
        yield f"{case}/feat{number}", feature[:, ::16, ::4, ::4], 5e-4, 1e-4
    for name, out in outputs:
        # Rounding alone gives 5e-5 on outputs that spread over 2 to 5.
        yield f"{case}/{name}", out[..., ::8, ::8], 5e-4, 0
        yield f"{case}/{name}.mean_std", moments(out), 1e-4, 0


def sam2unext_outputs(model, image, case):
    (out,) = model(image)
    # Rounding alone gives 2e-5 on an output that spreads over 2.
    yield f"{case}/out", out[..., ::16, ::16], 1e-3, 0
    yield f"{case}/out.mean_std", moments(out), 1e-4, 0


def sam_med2d_outputs(model, image, case):
    embedding = model.image_encoder(image)
    yield "encoder.embedding_c8", embedding[:, ::8], 2e-5, 0
    spread = torch.stack([embedding.double().mean(), embedding.double().std()])
    yield "encoder.embedding_mean_std", spread, 2e-5, 0
    masks, quality = model.decode(embedding, boxes=torch.tensor([[40, 52, 180, 201]]))
    yield "box.lowres_multi_s4", masks[..., ::4, ::4], 1e-5, 0
    yield "box.iou_multi", quality, 1e-5, 0


def moments(out):
    return torch.stack([out.double().mean(), out.double().std(correction=0)])


@pytest.mark.parametrize(
    "name, encoder, outputs, file, sides",
    [
        ("sam2unet", "tiny", sam2unet_outputs, "sam2unet_forward", ["t_352x352"]),
        ("sam2unet", "large", sam2unet_outputs, "sam2unet_forward", ["l_352x352"]),
        pytest.param(
            *("sam2unet", "large", sam2unet_outputs, "sam2unet_forward", ["l_320x416", "l_350x350"]),
            marks=pytest.mark.slow,
        ),
        ("sam2unext", "large", sam2unext_outputs, "sam2unext_forward", ["256x256"]),
        ("sam_med2d", "vit_b", sam_med2d_outputs, "sammed2d_forward", ["256x256"]),
    ],
)
def test_forward_agrees_with_the_released_system(name, encoder, outputs, file, sides, reference, fill, request):
    golden = np.load(reference / f"{file}.npz")
    if name == "sam_med2d":
        model = request.getfixturevalue("sam_med2d_b")
    else:
        with torch.device("meta"):
            model, _ = start_model(name, NetworkShape(encoder))
        model.eval().load_state_dict(fill.fill_state_dict(model.state_dict(), 0), assign=True)
    for case in sides:
        height, width = map(int, case.split("_")[-1].split("x"))
        with torch.inference_mode():
            for key, value, atol, rtol in outputs(model, fill.fill_input((1, 3, height, width), 0), case):
                np.testing.assert_allclose(value, golden[key], rtol=rtol, atol=atol, err_msg=key)


# Checkpoints


def test_a_row_is_found_by_name_by_weights_and_by_shape(case):
    assert case.name in sam2unet.list_models() and case.family.name == case.name
    assert find_family_of(case.model) is case.family
    assert case.family.find_shape(case.model.state_dict()) == case.shape
    parameters = [id(p) for part in case.family.parts(case.model).values() for p in part]
    assert sorted(parameters) == sorted(id(p) for p in case.model.parameters())
    assert {n for n, p in case.model.named_parameters() if not p.requires_grad} == frozen_names(case.name, case.model)


def test_a_checkpoint_is_a_bare_state_dict_and_loads_to_the_same_model(case, tmp_path):
    state = torch.load(case.path, weights_only=True)
    assert list(state) == list(case.model.state_dict())
    write_folder(tmp_path / "hub", read_checkpoint(case.path), case.model, {}, None)
    for source in (case.path, tmp_path / "hub"):
        loaded = load_model(source, "cpu")
        assert not loaded.training and equal(loaded, case.model)
    assert equal(start_model(case.name, init_from=case.path)[0], case.model)


def test_trained_weights_alone_need_their_files_again(case, tmp_path):
    model, weight_files = start_model(case.name, case.shape, case.paths)
    assert weight_files.keys() == case.paths.keys()
    path = tmp_path / "trained.safetensors"
    save_checkpoint(model, path, weight_files)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert path.stat().st_size < sum(t.nbytes for t in model.state_dict().values()) - frozen / 2
    assert read_checkpoint(path).shape == case.shape
    assert equal(load_model(path, "cpu", **case.paths), model)
    with pytest.raises(UserError, match=f"holds trained weights alone; give --{next(iter(case.paths))} FILE"):
        load_model(path, "cpu")


def test_a_file_that_does_not_fit_is_refused(case, tmp_path):
    state = case.model.state_dict()
    removed, changed = [name for name in state if name != case.family.marker and "pos" not in name][-2:]
    state[changed] = torch.zeros(7, 7)
    del state[removed]
    torch.save(state | {"extra": torch.zeros(1)}, tmp_path / "x.pth")
    words = f"1 names are missing, 1 are unknown, 1 have another shape; first: {removed}"
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "x.pth", "cpu")
    other = next(family for family in FAMILIES.values() if family is not case.family)
    torch.save({other.marker: torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth: a .* checkpoint, but of no size"):
        start_model(case.name, init_from=tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"is a checkpoint of {case.family.title}; wanted one of {other.title}"):
        start_model(other.name, init_from=case.path)


def test_a_size_that_does_not_fit_is_refused(case):
    stride = case.family.stride
    for size, advice in ((100, {32: "96 or 128", 14: "98 or 112"}), (40, {32: "32 or 64", 14: "42"})):
        with pytest.raises(UserError, match=f"size {size} is not a multiple of {stride}; give {advice[stride]}$"):
            check_size(case.family, size)
    with pytest.raises(UserError, match="no encoder named huge; there are "):
        start_model(case.name, NetworkShape("huge"))
    for options in (dict(init_from=case.path), dict(weight_paths=case.paths)):
        with pytest.raises(UserError, match="but the requested encoder is .*; give --encoder micro"):
            start_model(case.name, NetworkShape("vit_b" if case.family.task == "prompts" else "large"), **options)
    if "dino" not in case.family.options:
        with pytest.raises(UserError, match=f"{case.family.title} takes no --dino; it takes --encoder") as error:
            start_model(case.name, NetworkShape(dino="small"))
        assert "--class_count" not in str(error.value)  # it is no flag


# Use


def test_it_predicts(case):
    photo = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    if case.family.task == "masks":
        grey = sam2unet.predict(case.model, photo, size=case.side)
        assert grey.shape == (50, 60) and grey.dtype == np.float32 and (grey.min(), grey.max()) == (0, 1)
        return
    result = sam2unet.Prompter(case.model).set_image(photo).predict(points=[[20, 30]], labels=[1])
    assert result.masks.shape == (1, 50, 60) and np.isfinite(result.logits).all() and np.ptp(result.logits) > 0


def test_it_is_exported(case, tmp_path, request):
    """`run` itself compares the file with torch."""
    if case.name in EXPORTED:
        assert request.getfixturevalue(EXPORTED[case.name]).exists()
        return
    checkpoint, picture = read_checkpoint(case.path), Image.effect_noise((60, 50), 50).convert("RGB")
    if case.family.task == "masks":
        mask_export.run(checkpoint, tmp_path / "x.pt2", [picture], size=case.side)
    else:
        prompt_export.run(checkpoint, tmp_path / "x.onnx", [picture])
    assert any(tmp_path.iterdir())


def mask_batch(fill, lists, side):
    return fill.fill_input((2, 3, side, side), 0), fill.fill_mask((2, 1, side, side), 0)


def prompt_batch(fill, lists, side):
    draws = [PromptDraw(index, seed=0, epoch=1, batch=0) for index in range(2)]
    return PromptFolder(lists, Framing(side), mask_num=2).__getitems__(draws).on(CPU)


def test_a_training_step_changes_what_trains_and_nothing_else(case, fill, lists):
    recipe = Recipe.read(model=case.name, size=case.side, iter_point=1)
    task = TASKS[case.family.task]
    model, _ = build_model(case.family, recipe, Hardware(), case.paths, None)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = {"masks": mask_batch, "prompts": prompt_batch}[case.family.task](fill, lists, case.side)
    trainer = Trainer(case.family, task.step, model.train(), recipe, Speed(), CPU, Processes())
    history = trainer.update([batch], [1.0])
    assert len(history) == trainer.steps >= 1 and all(losses[0]["total"].isfinite() for losses in history)
    changed = {name for name, p in model.named_parameters() if not same_bits(p, before[name])}
    idle = {id(p) for p in case.family.unused_parameters(model)}
    expected = {name for name, p in model.named_parameters() if p.requires_grad and id(p) not in idle}
    assert changed <= expected and not expected & frozen_names(case.name, model)
    # A loss of SAM-Med2D reaches the mask that the model expects to be the best, so some of four small MLPs may rest.
    assert all("hypernetworks" in name for name in expected - changed)
