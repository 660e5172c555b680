"""A visit to the page for prompts, without its server."""

from pathlib import Path

import pytest

from sam2unet.demo.files import Limits
from sam2unet.demo.prompts.session import PromptBench, PromptMethod, PromptSession
from sam2unet.models.sam_med2d import SAMMed2D
from tests.demo.prompt_server import photo, small_model


@pytest.fixture(scope="module")
def model() -> SAMMed2D:
    return small_model()


@pytest.fixture
def session(model, tmp_path) -> PromptSession:
    (tmp_path / "home/uploads").mkdir(parents=True)
    method, limits = PromptMethod("small", model), Limits(megapixels=0.1, megabytes=0.2)
    return PromptSession(PromptBench(method, tmp_path / "home", (tmp_path / "home/uploads",), limits))


@pytest.fixture
def dropped(tmp_path) -> Path:
    return photo(tmp_path / "home/uploads/one.png", (90, 70))
