"""`from_pretrained` and `push_to_hub`, with the real client of the hub and a stand-in for the hub's API."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants

import sam2unet
from sam2unet.atomic import sha256
from tests.weights.stand_in_hub import READ_ONLY, TOKEN, StandInHub

pytest.importorskip("huggingface_hub", "1.0", reason="older clients keep the address of the hub in many places")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, which the client uses as the hub, with a cache of its own and the token that may write."""
    server = StandInHub()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files over HTTP: the stand-in has no Xet store
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.chdir(tmp_path)
    yield server
    server.close()


def test_a_model_comes_back_from_the_hub_with_equal_maps(hub, class_checkpoint, polyps):
    url = sam2unet.push_to_hub(class_checkpoint, "lab/organs", private=True)
    repository = hub.repositories["lab/organs"]
    assert url == f"{hub.address}/lab/organs/commit/{repository.sha}" and repository.private
    assert set(repository.files) == {"model.safetensors", "config.json", "README.md"}
    (large,) = hub.large  # the weights travelled as a large file, the others in the commit
    assert hub.large[large] == repository.files["model.safetensors"]
    photo = sorted((polyps / "images").iterdir())[0]
    model = sam2unet.from_pretrained("lab/organs", "cpu")
    wanted = sam2unet.predict(sam2unet.load_model(class_checkpoint, "cpu"), photo)
    assert len(np.unique(wanted)) > 1 and np.array_equal(sam2unet.predict(model, photo), wanted)
    assert model.recipe.classes.names == ["background", "left", "right"] and not model.training

    requests = len(hub.requests)
    sam2unet.from_pretrained("lab/organs", "cpu", revision=repository.sha)
    assert len(hub.requests) == requests  # the files of a commit are in the cache


def test_a_second_push_is_a_new_commit_of_the_same_repository(hub, class_checkpoint):
    first = sam2unet.push_to_hub(class_checkpoint, "lab/organs")
    hub.repositories["lab/organs"].files["notes.md"] = b"mine"
    assert sam2unet.push_to_hub(class_checkpoint, "lab/organs") != first
    repository = hub.repositories["lab/organs"]
    assert len(repository.commits) == 2 and repository.files["notes.md"] == b"mine" and not repository.private


def test_a_folder_is_pushed_as_it_is_but_nothing_else_in_it(hub, class_checkpoint, convert, tmp_path):
    convert(class_checkpoint, "--hub", tmp_path / "folder")
    (tmp_path / "folder/README.md").write_text("---\nlicense: mit\n---\nMy own text.\n")
    (tmp_path / "folder/patients.csv").write_text("secret")
    sam2unet.push_to_hub(tmp_path / "folder", "lab/organs")
    files = hub.repositories["lab/organs"].files
    assert files["README.md"].endswith(b"My own text.\n") and "patients.csv" not in files
    assert files["model.safetensors"] == (tmp_path / "folder/model.safetensors").read_bytes()
    assert torch.equal(
        sam2unet.from_pretrained(tmp_path / "folder", "cpu").head.weight,
        sam2unet.from_pretrained("lab/organs", "cpu").head.weight,
    )


def test_the_card_has_numbers_classes_size_and_licences(hub, prompt_checkpoint, class_checkpoint, tmp_path):
    means = {"box": {"masks": 40, "Dice": 0.81234, "IoU": 0.7, "loss": 1.5}}
    (tmp_path / "results.json").write_text(json.dumps({"means": means}))
    sam2unet.push_to_hub(prompt_checkpoint, "lab/prompts", scores=tmp_path / "results.json")
    card = huggingface_hub.ModelCard(hub.repositories["lab/prompts"].files["README.md"].decode())
    assert "| prompts: box | 40 | 0.812 | 0.700 |" in card.text
    assert [result.metric_value for result in card.data.eval_results] == [0.81234, 0.7]
    model = sam2unet.from_pretrained("lab/prompts", "cpu")
    count = sum(parameter.numel() for parameter in model.parameters())
    weights = hub.repositories["lab/prompts"].files["model.safetensors"]
    assert f"| parameters | {count:,} |" in card.text and f"| {len(weights):,} bytes |" in card.text
    assert "| 256x256 pixels; blue, green, red |" in card.text and card.data.license == "apache-2.0"
    assert "| licence of the pretrained parts | apache-2.0 |" in card.text
    assert sha256(prompt_checkpoint) in card.text

    sam2unet.push_to_hub(class_checkpoint, "lab/organs")
    assert "| 2 | right | 2 |" in hub.repositories["lab/organs"].files["README.md"].decode()


def test_what_the_hub_refuses_is_one_line_and_changes_nothing(hub, class_checkpoint, monkeypatch, tmp_path):
    def refuses(words, call, *arguments, **options):
        with pytest.raises(sam2unet.UserError, match=words) as caught:
            call(*arguments, **options)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)

    push, load = sam2unet.push_to_hub, sam2unet.from_pretrained
    refuses("give a name on the hub of the form owner/name", push, class_checkpoint, "organs")
    refuses("no such file: .*none.pth", push, tmp_path / "none.pth", "lab/organs")
    refuses("takes no --sam3_path", push, class_checkpoint, "lab/organs", sam3_path=class_checkpoint)
    refuses("the hub has no such repository, or it is private; .*log in", load, "lab/nothing")
    refuses("You don't have the rights to create a model", push, class_checkpoint, "lab/organs", token=READ_ONLY)
    monkeypatch.delenv("HF_TOKEN")
    refuses(
        "there is no token .*run `hf auth login`, or set the variable HF_TOKEN", push, class_checkpoint, "lab/organs"
    )
    assert not hub.repositories

    push(class_checkpoint, "lab/organs", private=True, token=TOKEN)
    refuses("the hub has no such repository, or it is private", load, "lab/organs")
    assert not load("lab/organs", "cpu", token=READ_ONLY).training
    refuses("Revision Not Found for url", load, "lab/organs", revision="v2", token=TOKEN)
    hub.close()
    refuses("cannot upload to lab/organs .*Connection refused", push, class_checkpoint, "lab/organs", token=TOKEN)
    refuses("download from the Hugging Face hub failed: .*Connection refused", load, "lab/other")
