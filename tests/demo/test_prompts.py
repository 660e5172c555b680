"""The page for prompts without its server: what a visit contains, and what undo restores."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.demo import serve
from sam2unet.demo.files import Limits
from sam2unet.demo.prompts import session as prompt_session
from sam2unet.demo.prompts.bundle import write_label_map, write_masks
from sam2unet.demo.prompts.panel import object_list_html, picture_html
from sam2unet.demo.prompts.session import PromptBench, PromptMethod, PromptSession
from sam2unet.demo.prompts.state import Box, Click, Object, State
from sam2unet.errors import UserError
from sam2unet.families.load import Checkpoint
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.masks.predictor import Predictor
from sam2unet.prompts.framing import Framing
from tests.demo.prompt_server import SIDE, photo, small_model

FRAMING = Framing(SIDE)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def session(model, tmp_path):
    (tmp_path / "home/uploads").mkdir(parents=True)
    method, limits = PromptMethod("small", model), Limits(megapixels=0.1, megabytes=0.2)
    return PromptSession(PromptBench(method, tmp_path / "home", (tmp_path / "home/uploads",), limits))


@pytest.fixture
def dropped(tmp_path):
    return photo(tmp_path / "home/uploads/one.png", (90, 70))


def seen(session) -> list[tuple]:
    """All that a visitor is shown of each object."""
    return [
        (
            each.number,
            each.clicks,
            each.box,
            each.quality,
            each.mask_prompt.numpy().tobytes(),
            each.mask.decompress().tobytes(),
        )
        for each in session.state.objects
    ]


def test_clicks_add_up_and_the_answer_before_is_a_prompt_too(session, dropped, model):
    session.set_image(dropped)
    session.click(40, 30, 1)
    session.click(5, 60, 0)
    prompter = sam2unet.Prompter(model, FRAMING).set_image(dropped)
    first = prompter.predict([[40, 30]], [1])
    second = prompter.predict([[40, 30], [5, 60]], [1, 0], mask=first.prompt)
    (found,) = session.state.objects
    assert found.clicks == [Click(40, 30, 1), Click(5, 60, 0)] and found.quality == second.quality[0]
    assert np.array_equal(found.mask.decompress(), second.masks[0]) and second.masks.any() and not second.masks.all()
    assert not np.array_equal(first.masks, second.masks)


def test_a_box_asks_alone_whichever_corner_comes_first(session, dropped, model):
    session.set_image(dropped)
    session.click(40, 30, 1)
    session.draw_box(60, 50, 20, 10)
    answer = sam2unet.Prompter(model, FRAMING).set_image(dropped).predict(box=[20, 10, 60, 50])
    (found,) = session.state.objects
    assert found.box == Box(20, 10, 60, 50) and found.clicks == []
    assert np.array_equal(found.mask.decompress(), answer.masks[0])
    session.click(30, 30, 0)
    after = sam2unet.Prompter(model, FRAMING).set_image(dropped).predict([[30, 30]], [0], mask=answer.prompt)
    assert np.array_equal(session.state.objects[0].mask.decompress(), after.masks[0])
    assert session.state.objects[0].box == found.box


def test_undo_gives_back_exactly_what_was_there(session, dropped):
    session.set_image(dropped)
    steps = [
        lambda: session.click(40, 30, 1),
        lambda: session.click(70, 60, 0),
        lambda: (session.select(None), session.draw_box(2, 2, 30, 40)),
        lambda: session.click(10, 10, 0),
        lambda: (session.select(1), session.draw_box(20, 20, 50, 50)),
        lambda: session.delete(),
        lambda: session.clear(),
    ]
    before = []
    for step in steps:
        before.append((seen(session), picture_html(session)))
        step()
        assert seen(session) != before[-1][0]
    for objects_before, _ in reversed(before):
        session.undo()
        assert seen(session) == objects_before
    assert picture_html(session) == before[0][1] and session.past == []
    session.undo()
    assert session.state.objects == ()


def test_undo_brings_back_the_image_with_its_objects(session, dropped, model, monkeypatch):
    monkeypatch.setattr(prompt_session, "IMAGES", 2)
    session.set_image(dropped)
    session.click(40, 30, 1)
    before = seen(session), picture_html(session)
    other = photo(dropped.with_name("two.png"), (50, 60))
    session.set_image(other)
    assert session.state.objects == () and session.image.name == "two"
    session.undo()
    assert (seen(session), picture_html(session)) == before
    session.click(5, 60, 0)
    prompter = sam2unet.Prompter(model, FRAMING).set_image(dropped)
    mask = prompter.predict([[40, 30], [5, 60]], [1, 0], mask=prompter.predict([[40, 30]], [1]).prompt).masks[0]
    assert np.array_equal(session.state.objects[0].mask.decompress(), mask)
    for image in (other, dropped, other):
        session.set_image(image)
    assert len({id(step.image) for step in session.past}) == 2 == len(session.past)


def test_the_history_ends_somewhere(session, dropped, monkeypatch):
    monkeypatch.setattr(prompt_session, "HISTORY", 2)
    session.set_image(dropped)
    for x in (10, 20, 30):
        session.click(x, 30, 1)
    for _ in range(5):
        session.undo()
    assert [click.x for click in session.state.objects[0].clicks] == [10]


def test_objects_keep_their_numbers_and_each_its_own_clicks(session, dropped):
    session.set_image(dropped)
    for x in (20, 40, 60):
        session.select(None)
        session.click(x, 30, 1)
    session.select(2)
    session.click(41, 31, 0)
    assert [len(each.clicks) for each in session.state.objects] == [1, 2, 1]
    session.delete()
    assert [each.number for each in session.state.objects] == [1, 3] and session.selected is None
    session.click(50, 50, 1)
    assert [each.number for each in session.state.objects] == [1, 3, 4]
    session.select(99)
    assert session.selected is None and session.next_number == 5


def test_where_objects_overlap_the_lower_number_stands(session, dropped):
    session.set_image(dropped)
    session.click(40, 30, 1)
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    first, second = (each.mask.decompress() for each in session.state.objects)
    assert (first & second).any() and (second & ~first).any()
    labels = session.make_label_map()
    assert labels.dtype == np.uint8 and labels.shape == (70, 90)
    assert np.array_equal(labels, np.where(first, 1, np.where(second, 2, 0)))
    session.select(1)  # drawn on top on the page; the file is the same
    session.click(41, 30, 1)
    first = session.state.objects[0].mask.decompress()
    assert np.array_equal(session.make_label_map(), np.where(first, 1, np.where(second, 2, 0)))


def test_the_label_map_has_16_bits_where_8_are_too_few(session, dropped):
    session.set_image(dropped)
    session.click(40, 30, 1)
    (one,) = session.state.objects
    many = tuple(Object(**{**vars(one), "number": number}) for number in (255, 256))
    session.add_step(State(many[:1]))
    assert np.asarray(Image.open(write_label_map(session))).max() == 255
    session.add_step(State(many[1:]))
    labels = np.asarray(Image.open(write_label_map(session)))
    assert set(np.unique(labels)) == {0, 256} and np.array_equal(labels > 0, one.mask.decompress())


def test_files_hold_the_masks_whole(session, dropped):
    session.set_image(dropped)
    with pytest.raises(UserError, match="nothing to save yet"):
        write_masks(session)
    session.click(40, 30, 1)
    session.select(None)
    session.draw_box(5, 5, 80, 60)
    path = write_masks(session)
    assert path.name == "one_masks.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.png", "object_1.png", "object_2.png"]
        labels, *masks = (np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist())
    assert np.array_equal(labels, session.make_label_map())
    for mask, each in zip(masks, session.state.objects, strict=True):
        assert np.array_equal(mask, np.where(each.mask.decompress(), 255, 0))
    assert write_label_map(session).exists() and not path.exists()
    session.close()
    assert not session.folder.exists()


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (lambda session: session.click(90, 0, 1), "90, 0 is not in the image of 90 x 70 pixels"),
        (lambda session: session.draw_box(0, -1, 5, 5), "0, -1 is not in the image"),
        (lambda session: (session.select(None), session.click(5, 5, 0)), "First click on the object"),
    ],
)
def test_a_prompt_that_cannot_be_is_a_line_and_changes_nothing(session, dropped, work, line):
    with pytest.raises(UserError, match="no image yet"):
        session.click(0, 0, 1)
    session.set_image(dropped)
    session.click(40, 30, 1)
    before = seen(session)
    with pytest.raises(UserError, match=line):
        work(session)
    assert seen(session) == before and len(session.past) == 1


def test_a_bad_file_is_one_line_without_our_folders_and_changes_nothing(session, dropped, tmp_path):
    session.set_image(dropped)
    session.click(40, 30, 1)
    before = seen(session), picture_html(session)
    bad = {"text.jpg": b"no image", "heavy.jpg": b"\0" * 300_000, "notes.txt": b""}
    lines = [
        "cannot read text.jpg",
        "heavy.jpg has 0.3 MB; the limit is 0.2 MB",
        "notes.txt does not have the extension of an image",
    ]
    for (name, content), line in zip(bad.items(), lines, strict=True):
        path = dropped.with_name(name)
        path.write_bytes(content)
        with pytest.raises(UserError, match=line) as caught:
            session.set_image(path)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(UserError, match="large.jpg has 400 x 300 pixels; the limit is 0.1"):
        session.set_image(photo(dropped.with_name("large.jpg"), (400, 300)))
    outside = tmp_path / "private.png"
    shutil.copy(dropped, outside)
    dropped.with_name("link.png").symlink_to(outside)
    for path in (outside, dropped.with_name("link.png"), dropped.parent / "../../private.png"):
        with pytest.raises(UserError, match="reads only files that were dropped"):
            session.set_image(path)
    assert (seen(session), picture_html(session)) == before
    session.undo()
    assert session.state.objects == ()


def test_what_is_shown_is_small_and_the_masks_are_not(session, dropped, monkeypatch):
    monkeypatch.setattr("sam2unet.demo.draw.VIEW", 45)
    session.set_image(dropped)
    session.click(40, 30, 1)
    (found,) = session.state.objects
    assert session.image.view.shape == (35, 45, 3) and found.view.shape == (35, 45)
    assert found.mask.decompress().shape == (70, 90) and 'data-width="90" data-height="70"' in picture_html(session)


def test_the_expected_quality_is_shown_within_0_and_1(session, dropped):
    session.set_image(dropped)
    session.click(40, 30, 1)
    (one,) = session.state.objects
    for quality, shown in ((1.4, "1.00"), (-0.2, "0.00"), (0.456, "0.46")):
        session.add_step(State((Object(**{**vars(one), "quality": quality}),), 1))
        assert f"expected IoU <em>{shown}</em>" in object_list_html(session)


def checkpoint_of(task: str, path: Path) -> Checkpoint:
    return Checkpoint(path, next(family for family in FAMILIES.values() if family.task == task), NetworkShape(), {}, {})


def test_a_page_is_chosen_by_the_task_of_the_family(model, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "read_model_file", lambda path: checkpoint_of(path.stem.split("-")[0], path))
    monkeypatch.setattr(serve, "open_model", lambda *_: model)
    predictor = Predictor(lambda images: images[:, :1], 64, torch.device("cpu"))
    monkeypatch.setattr(serve, "open_predictor", lambda *_: predictor)
    asked, mapped = tmp_path / "prompts-1.pth", tmp_path / "masks-1.pth"
    method = serve.open_methods([asked], {}, None, "cpu")
    assert method == PromptMethod("prompts-1", model)
    assert [each.predictor for each in serve.open_methods([mapped], {}, None, "cpu")] == [predictor]
    for both in ([asked, mapped], [mapped, asked], [asked, asked]):
        with pytest.raises(
            UserError,
            match=r"prompts-1.pth is a model for prompts, which has its own page; give it as the only checkpoint",
        ):
            serve.open_methods(both, {}, None, "cpu")
    with pytest.raises(UserError, match="takes images at 64x64 only; leave --size out"):
        serve.open_methods([asked], {}, 256, "cpu")
    assert serve.open_methods([asked], {}, 64, "cpu") == PromptMethod("prompts-1", model)
