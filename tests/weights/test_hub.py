"""Folders for the Hugging Face hub: what is in them, reading them by our own way and the hub's, and where they are."""

import json

import huggingface_hub
import pytest
import torch
import yaml
from safetensors import safe_open

import sam2unet
from sam2unet.atomic import sha256
from sam2unet.export.hub_folder import format_scores, front_matter, read_scores
from sam2unet.families.load import save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.masks.prediction.open import open_predictor
from sam2unet.weights.formats import same_bits, save_state
from sam2unet.weights.hub import locate_weights
from tests.conftest import write_pairs

NUMBERS = {"Dice_mean": 0.8, "IoU_mean": 0.7, "S": 0.9, "Fw": 0.75, "F_adaptive": 0.76, "E_mean": 0.77, "MAE": 0.1234}


@pytest.fixture(scope="module")
def checkpoint(fill, tmp_path_factory):
    """The smallest network, trained at 64."""
    folder = tmp_path_factory.mktemp("run")
    model = sam2unet.create_model("sam2unet", encoder="micro")
    save_state(fill.fill_state_dict(model.state_dict(), 0), folder / "SAM2-UNet-20.pth")
    (folder / "recipe.yaml").write_text("size: 64\n")
    return folder / "SAM2-UNet-20.pth"


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return results_file(tmp_path_factory.mktemp("scores") / "results.json", ["ours"])


def results_file(path, methods, protocol="released"):
    counts = {method: {"images": 40, "undefined": {}} for method in methods}
    everything = {
        "datasets": {"CA|MO": dict.fromkeys(methods, NUMBERS)},
        "files": {"CA|MO": counts},
        "arguments": {"protocol": protocol},
    }
    path.write_text(json.dumps(everything))
    return path


@pytest.fixture(scope="module")
def folder(convert, checkpoint, scores, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "sam2-unet-micro"
    convert(checkpoint, "--hub", path, "--scores", scores)
    return path


def test_the_folder_holds_all_weights_and_what_they_are(folder, checkpoint):
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    wanted = torch.load(checkpoint)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(wanted)
        assert all(same_bits(file.get_tensor(name), t) for name, t in wanted.items())
    config = json.loads((folder / "config.json").read_text())
    assert (config["model"], config["encoder"], config["size"]) == ("sam2unet", "micro", 64)
    assert (config["mean"], config["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert config["checkpoint"] == {"name": "SAM2-UNet-20.pth", "sha256": sha256(checkpoint)}


def test_the_card_has_scores_and_licence_for_people_and_for_the_hub(folder, checkpoint):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "image-segmentation"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == NUMBERS and {result.dataset_name for result in card.data.eval_results} == {"CA|MO"}
    assert "| data set | images | mDice ↑ | mIoU ↑ | S ↑ | wF ↑ | adpF ↑ | mE ↑ | MAE ↓ |" in card.text
    assert r"| CA\|MO | 40 | 0.800 | 0.700 | 0.900 | 0.750 | 0.760 | 0.770 | 0.123 |" in card.text
    assert sha256(checkpoint) in card.text and "size=64" in card.text and "Apache" in card.text


def test_a_card_without_scores_says_so(convert, checkpoint, tmp_path):
    convert(checkpoint, "--hub", tmp_path / "a")
    text = (tmp_path / "a/README.md").read_text()
    assert "## Scores\n\nNo scores.\n" in text and "model-index" not in yaml.safe_load(text.split("---")[1])


def test_every_way_to_load_it_gives_the_same_model(folder, checkpoint, script, tmp_path):
    wanted = torch.load(checkpoint)
    ours = sam2unet.load_model(folder, "cpu")
    hubs = sam2unet.create_model("sam2unet", json.loads((folder / "config.json").read_text())["encoder"])
    huggingface_hub.load_torch_model(hubs, folder, strict=True)
    started, _ = start_model("sam2unet", init_from=folder)
    for model in (ours, hubs, started):
        assert all(same_bits(t, wanted[name]) for name, t in model.state_dict().items())
    images, _ = write_pairs(tmp_path, count=1)
    for source in (folder, checkpoint):
        flags = ("--test_image_path", images, "--save_path", tmp_path / source.name, "--device", "cpu")
        result = script("test.py", "--checkpoint", source, *flags)
        assert "1 images at 64x64" in result.stdout, result.stderr
    assert (tmp_path / folder.name / "a.png").read_bytes() == (tmp_path / checkpoint.name / "a.png").read_bytes()


def test_trained_weights_alone_are_put_together_with_their_base(convert, sam2_micro, tmp_path):
    model, weight_files = start_model("sam2unet", NetworkShape(), {"hiera_path": sam2_micro})
    save_checkpoint(model, tmp_path / "trained.safetensors", weight_files)
    with pytest.raises(sam2unet.UserError, match="holds trained weights alone; give --hiera_path"):
        convert(tmp_path / "trained.safetensors", "--hub", tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
    convert(tmp_path / "trained.safetensors", "--hub", tmp_path / "hub", "--hiera_path", sam2_micro)
    found = sam2unet.load_model(tmp_path / "hub", "cpu").state_dict()
    assert all(same_bits(t, found[name]) for name, t in model.state_dict().items())
    assert json.loads((tmp_path / "hub/config.json").read_text())["hiera_sha256"] == weight_files["hiera_path"].sha256
    assert f"The weights of its trunk come from `{sam2_micro.name}`" in (tmp_path / "hub/README.md").read_text()


def test_the_hub_is_asked_for_owner_and_name_alone(folder, monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, allow_patterns, **options):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    model = sam2unet.load_model("owner/sam2.1-unet", "cpu")
    assert asked == [("owner/sam2.1-unet", ["model.safetensors", "config.json"])] and not model.training
    assert open_predictor(locate_weights("owner/x"), torch.device("cpu")).sides == (64,)
    del asked[:]
    (tmp_path / "runs").mkdir()
    (tmp_path / "owner/name").mkdir(parents=True)
    for source in ("runs/typo", "best.pth", "no/best.pth", "a/b/c", "../x/y", "/no/such", "x", "owner/name"):
        with pytest.raises(sam2unet.UserError, match="no such file|is a folder without model.safetensors"):
            sam2unet.load_model(source, "cpu")
    assert not asked


def test_what_the_hub_cannot_give_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sam2unet.UserError, match="no such file: no-one/nothing; and the download from the") as caught:
        sam2unet.load_model("no-one/nothing", "cpu")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(tmp_path))
    with pytest.raises(sam2unet.UserError, match="no-one/nothing on the Hugging Face hub has no model.safetensors"):
        sam2unet.load_model("no-one/nothing", "cpu")


@pytest.mark.parametrize("content, words", [("{", "is not JSON"), ("[]", "not an object"), ("{}", "size is None")])
def test_a_damaged_configuration_is_one_line(content, words, folder, tmp_path):
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(sam2unet.UserError, match=words):
        open_predictor(tmp_path, torch.device("cpu"))


def test_what_makes_no_folder(convert, checkpoint, scores, folder, tmp_path):
    before = sha256(folder / "README.md")
    several = results_file(tmp_path / "several.json", ["a", "b"])
    (tmp_path / "other.json").write_text("{}")
    for words, flags in (
        ("give either TARGET or --hub DIR", ()),
        ("give either TARGET or --hub DIR", (tmp_path / "x.safetensors", "--hub", tmp_path / "x")),
        ("--scores goes with --hub", (tmp_path / "x.safetensors", "--scores", scores)),
        ("exists and is not an empty folder", ("--hub", folder)),
        ("exists and is not an empty folder", ("--hub", scores)),
        (r"has scores of several models \(a, b\)", ("--hub", tmp_path / "x", "--scores", several)),
        ("is not a results.json", ("--hub", tmp_path / "x", "--scores", tmp_path / "other.json")),
        ("no such file: .*none.json", ("--hub", tmp_path / "x", "--scores", tmp_path / "none.json")),
    ):
        with pytest.raises(sam2unet.UserError, match=words):
            convert(checkpoint, *flags)
    assert not (tmp_path / "x").exists() and sha256(folder / "README.md") == before


def test_columns_are_those_of_the_scores_protocol(convert, checkpoint, tmp_path):
    results_file(tmp_path / "r.json", ["ours"], "camouflaged")
    convert(checkpoint, "--hub", tmp_path / "hub", "--scores", tmp_path / "r.json")
    assert "| data set | images | S ↑ | adpF ↑ | mE ↑ | MAE ↓ |" in (tmp_path / "hub/README.md").read_text()


def test_names_and_numbers_of_a_results_file_are_not_trusted(tmp_path):
    hostile = "<img src=x>\n---\n|\udcff"
    front = front_matter("sam2unet", "t", "apache-2.0", {hostile: {"S": 0.5}}, ["S"])
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["dataset"]["name"] == hostile
    assert format_scores({hostile: {"S": 0.5, "images": 3}}, ["S"]).splitlines()[2] == (
        r"| &lt;img src=x&gt;\\n---\\n\|\\xff | 3 | 0.500 |"
    )
    for numbers in ({"S": "</table>"}, {"S": [1]}, {"S": 10**400}):
        path = results_file(tmp_path / "r.json", ["ours"])
        content = json.loads(path.read_text())
        content["datasets"]["CA|MO"]["ours"] = numbers
        path.write_text(json.dumps(content))
        with pytest.raises(sam2unet.UserError, match="is not a results.json"):
            read_scores(path)
    path = results_file(tmp_path / "r.json", ["ours"])
    path.write_text(path.read_text().replace('"images": 40', '"images": null'))
    with pytest.raises(sam2unet.UserError, match="is not a results.json"):
        read_scores(path)
