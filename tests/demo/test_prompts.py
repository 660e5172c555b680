"""The page for prompts without its server: what a visit contains, and what undo restores."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sam2unet
from sam2unet.demo import serve
from sam2unet.demo.files import Limits
from sam2unet.demo.prompts import session as prompt_session
from sam2unet.demo.prompts.panel import object_list_html, picture_html, place_html
from sam2unet.demo.prompts.session import PromptMethod, PromptSession
from sam2unet.demo.prompts.state import Box, Click, State
from sam2unet.errors import UserError
from sam2unet.families.load import Checkpoint
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.masks.prediction.predictor import Predictor
from sam2unet.prompts.framing import Framing
from sam2unet.prompts.prompter import PromptResult
from tests.demo.prompt_server import SIDE, photo

FRAMING = Framing(SIDE)


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
    session.add_images([dropped])
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
    session.add_images([dropped])
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
    session.add_images([dropped])
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


def test_a_queue_keeps_the_objects_of_each_image_and_only_the_last_images_stay_encoded(session, dropped, monkeypatch):
    monkeypatch.setattr(prompt_session, "IMAGES", 2)
    session.add_images([dropped])
    session.click(40, 30, 1)
    before = seen(session), picture_html(session)
    files = [photo(dropped.with_name(name), size) for name, size in (("c.png", (60, 50)), ("b.png", (50, 60)))]
    assert session.add_images(files) == [] and session.state.objects == () and session.image.name == "b"
    session.draw_box(5, 5, 40, 40)
    after = seen(session)
    session.move(1)
    assert session.image.name == "c" and "3 of 3 · 60 x 50" in place_html(session)
    assert [item.prompter is None for item in session.queue] == [True, False, False]
    session.undo()  # nothing was done on this image
    session.move(1)
    session.move(-1)
    assert session.image.name == "b" and seen(session) == after
    session.undo()
    session.move(-1)
    assert (seen(session), picture_html(session)) == before and session.queue[1].state.objects == ()
    session.click(5, 60, 0)
    session.undo()
    assert (seen(session), picture_html(session)) == before
    files[0].unlink()  # as gradio removes uploads
    session.move(1), session.move(1)
    assert session.image.name == "c"


def test_a_drop_takes_what_it_can_and_names_the_rest(session, dropped, monkeypatch):
    text = dropped.with_name("a.txt")
    text.write_text("no image")
    cut = dropped.with_name("b.png")
    cut.write_bytes(dropped.read_bytes()[:300])
    problems = session.add_images([dropped, text, cut])
    assert [item.name for item in session.queue] == ["one"] == [session.image.name]
    assert [line.split()[0] for line in problems] == ["a.txt", "cannot"] and "b.png" in problems[1]
    last = photo(dropped.with_name("z.png"), (50, 60))
    broken = dropped.with_name("y.png")
    broken.write_bytes(dropped.read_bytes()[:1000])
    session.add_images([dropped, broken, last])
    assert [item.name for item in session.queue] == ["one", "one_2", "y", "z"] and session.image.name == "one_2"
    assert "cannot read y.png" in session.move(1)[0] and session.image.name == "z"
    small = limited(session, 2)
    assert "3 files are too many; the page took the first 2" in small.add_images([dropped] * 3)[0]
    monkeypatch.setattr(prompt_session, "LONGEST_QUEUE", 2)
    small.add_images([dropped] * 2)
    with pytest.raises(UserError, match="a queue has at most 4 images"):
        small.add_images([dropped])


def limited(session, images: int) -> PromptSession:
    return PromptSession(replace(session.bench, limits=Limits(images=images)))


def test_the_history_ends_somewhere(session, dropped, monkeypatch):
    monkeypatch.setattr(prompt_session, "HISTORY", 2)
    session.add_images([dropped])
    for x in (10, 20, 30):
        session.click(x, 30, 1)
    for _ in range(5):
        session.undo()
    assert [click.x for click in session.state.objects[0].clicks] == [10]


def test_objects_keep_their_numbers_and_each_its_own_clicks(session, dropped):
    session.add_images([dropped])
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


def test_an_empty_mask_is_told_and_not_saved(session, dropped, monkeypatch):
    session.add_images([dropped])
    session.click(40, 30, 1)
    before = seen(session)
    nothing = PromptResult(np.full((1, 70, 90), -9.0), np.zeros(1), np.zeros((1, 1, 16, 16), np.float32))
    monkeypatch.setattr(session.current.prompter, "predict", lambda *_: nothing)
    for work in (lambda: session.click(3, 3, 0), lambda: (session.select(None), session.draw_box(1, 1, 9, 9))):
        with pytest.raises(UserError, match="Nothing found here: the model predicts an empty mask"):
            work()
        assert seen(session) == before


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
    session.add_images([dropped])
    session.click(40, 30, 1)
    before = seen(session)
    with pytest.raises(UserError, match=line):
        work(session)
    assert seen(session) == before and len(session.past) == 1


def test_a_bad_file_is_one_line_without_our_folders_and_changes_nothing(session, dropped, tmp_path):
    session.add_images([dropped])
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
            session.add_images([path])
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(UserError, match="large.jpg has 400 x 300 pixels; the limit is 0.1"):
        session.add_images([photo(dropped.with_name("large.jpg"), (400, 300))])
    outside = tmp_path / "private.png"
    shutil.copy(dropped, outside)
    dropped.with_name("link.png").symlink_to(outside)
    for path in (outside, dropped.with_name("link.png"), dropped.parent / "../../private.png"):
        with pytest.raises(UserError, match="reads only files that were dropped"):
            session.add_images([path])
    assert (seen(session), picture_html(session)) == before
    session.undo()
    assert session.state.objects == ()


def test_what_is_shown_is_small_and_the_masks_are_not(session, dropped, monkeypatch):
    monkeypatch.setattr("sam2unet.demo.draw.VIEW", 45)
    session.add_images([dropped])
    session.click(40, 30, 1)
    (found,) = session.state.objects
    assert session.image.view.shape == (35, 45, 3) and found.view.decompress().shape == (35, 45)
    assert found.mask.decompress().shape == (70, 90) and 'data-width="90" data-height="70"' in picture_html(session)


def test_the_area_is_shown_and_the_expected_quality_is_a_tooltip_within_0_and_1(session, dropped):
    session.add_images([dropped])
    session.click(40, 30, 1)
    (one,) = session.state.objects
    area = one.mask.decompress()
    assert f"area {area.mean():.1%} ({area.sum()} pixels) · 1 point" in object_list_html(session)
    for quality, shown in ((1.4, "1.00"), (-0.2, "0.00"), (0.456, "0.46")):
        session.add_step(State((replace(one, quality=quality),), 1))
        assert f'title="Expected IoU {shown}: ' in object_list_html(session)


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
