"""The Prompter: the answers of the released predictor, properties that always hold, and bad prompts."""

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.prompts.framing import Framing
from tests.conftest import tiny_sam_med2d

RELEASED = Framing(rgb=True, padding=False)  # the released predictor takes the array's channels as they are


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "sammed2d_forward.npz")


@pytest.fixture(scope="module")
def released(sam_med2d_b, golden):
    """The stored image, encoded once."""
    return sam2unet.Prompter(sam_med2d_b, RELEASED).set_image(golden["predictor.image"])


@pytest.fixture(scope="module")
def small():
    return tiny_sam_med2d(side=32)


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_points_and_their_refinement_are_the_released_predictors(released, golden):
    close(released.embedding[:, ::32], golden["predictor.RGB.embedding_c32"])
    points, labels = golden["predictor.points.coords"], golden["predictor.points.labels"]
    first = released.predict(points, labels)
    expected = np.unpackbits(golden["predictor.points.mask_packed"])[: 300 * 200].reshape(1, 300, 200)
    assert first.masks.shape == (1, 300, 200) and (first.masks != expected).sum() <= 2
    close(first.quality, golden["predictor.points.iou"])
    close(first.prompt[:, 0, ::4, ::4], 1 / (1 + np.exp(-golden["predictor.points.lowres_s4"])))
    refined = released.predict(points, labels, mask=first.prompt)
    close(refined.logits[:, ::8, ::8], golden["predictor.points_mask.logits_s8"])
    close(refined.quality, golden["predictor.points_mask.iou"])


def test_boxes_are_the_released_predictors_one_or_several(released, golden):
    one = released.predict(box=golden["predictor.box.box"], multimask=False)
    close(one.logits[:, ::8, ::8], golden["predictor.box.single_logits_s8"])
    close(one.quality, golden["predictor.box.single_iou"])
    several = released.predict(box=golden["predictor.boxes.boxes"])
    close(several.logits[:, None, ::8, ::8], golden["predictor.boxes.logits_s8"])
    close(several.quality[-1:, None], golden["predictor.boxes.last_iou"])


def test_channels_are_swapped_as_trained_unless_asked_not_to(sam_med2d_b, golden):
    found = sam2unet.Prompter(sam_med2d_b, Framing(padding=False)).set_image(golden["predictor.image"])
    close(found.embedding[:, ::32], golden["predictor.BGR.embedding_c32"])


def test_many_prompts_at_once_are_each_alone(small):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    prompter = sam2unet.Prompter(small).set_image(noise)
    points = np.array([[[5, 6], [50, 30]], [[20, 8], [3, 39]], [[0, 0], [59, 39]]])
    labels = np.array([[1, 0], [1, 1], [0, -1]])
    boxes = np.array([[2, 3, 30, 20], [10, 0, 60, 40], [0, 0, 5, 5]])
    together = prompter.predict(points, labels, boxes)
    for place in range(3):
        alone = prompter.predict(points[place], labels[place], boxes[place])
        for ours, expected in zip(alone, together, strict=True):
            close(ours, expected[place : place + 1])


def test_the_way_back_is_that_of_the_test(small, tmp_path):
    """A small image is not stretched, and its points are in its own pixels."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (21, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    prompter = sam2unet.Prompter(small).set_image(tmp_path / "a.png")
    found = prompter.predict([[4, 7]], [1])
    assert found.logits.shape == (1, 21, 30)
    square, _ = Framing(32).image(tmp_path / "a.png")
    whole = np.zeros((32, 32, 3), np.uint8)
    whole[5:26, 1:31] = square.numpy()[::-1, 5:26, 1:31].transpose(1, 2, 0)
    assert (square.numpy().transpose(1, 2, 0)[..., ::-1] == whole).all()
    with torch.no_grad():
        points = torch.tensor([[[5.0, 12.0]]]), torch.tensor([[1]])
        low, quality = small.decode(prompter.embedding, points)
    choice = quality.argmax()
    logits = torch.nn.functional.interpolate(low[:, choice : choice + 1], (32, 32), mode="bilinear")
    close(found.logits, logits[0, :, 5:26, 1:31])


def test_a_model_in_training_gives_the_same_answers_without_gradients(small):
    found = []
    for mode in (True, False):
        prompter = sam2unet.Prompter(small.train(mode)).set_image(np.full((32, 32, 3), 90, np.uint8))
        found.append(prompter.predict([[1, 1]], [1]))
        assert not prompter.embedding.requires_grad and small.training == mode
    assert np.array_equal(found[0].logits, found[1].logits) and found[0].logits.dtype == np.float32


@pytest.mark.parametrize(
    "words, prompts",
    [
        ("there is no prompt; give points with labels", {}),
        ("points need labels, and labels need points", {"points": [[1, 2]]}),
        ("2 points have 1 labels; give one label per point", {"points": [[1, 2], [3, 4]], "labels": [1]}),
        ("a label must be 1 for foreground", {"points": [[1, 2]], "labels": [2]}),
        ("box has shape (3,); wanted (4) or (K, 4)", {"box": [1, 2, 3]}),
        ("points has shape (2,); wanted (N, 2) or (K, N, 2)", {"points": [1, 2], "labels": [1]}),
        ("points has shape (0, 2)", {"points": np.zeros((0, 2)), "labels": np.zeros(0)}),
        ("mask has shape (1, 4, 4); wanted (1, 8, 8)", {"mask": np.zeros((1, 4, 4))}),
        (
            "the numbers of prompts differ: 1 for points, 1 for labels, 2 for box",
            {"points": [[1, 2]], "labels": [1], "box": [[0] * 4] * 2},
        ),
        ("not a finite number", {"box": [0, 0, float("nan"), 3]}),
        ("not an array of numbers", {"box": "abcd"}),
    ],
)
def test_prompts_that_do_not_fit_are_refused(words, prompts, small):
    prompter = sam2unet.Prompter(small).set_image(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(sam2unet.UserError) as error:
        prompter.predict(**prompts)
    assert words in str(error.value)


def test_prompts_can_be_tensors_of_a_training(small):
    """They have gradients and half precision, for which NumPy has no array."""
    prompter = sam2unet.Prompter(small).set_image(np.zeros((20, 24, 3), np.uint8))
    points = torch.tensor([[5.0, 7.0]], dtype=torch.bfloat16, requires_grad=True)
    wanted, found = (prompter.predict(prompts, [1]).logits for prompts in ([[5, 7]], points))
    assert np.array_equal(found, wanted)


def test_a_model_trained_with_logits_as_mask_prompts_is_given_them(small):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    as_released = sam2unet.Prompter(small).set_image(image).predict([[5, 6]], [1])
    as_logits = sam2unet.Prompter(small, mask_prompt="logits").set_image(image).predict([[5, 6]], [1])
    close(1 / (1 + np.exp(-as_logits.prompt)), as_released.prompt)
    assert as_logits.prompt.min() < 0 <= as_released.prompt.min()


def test_without_an_image_or_with_another_model_it_says_so(small):
    with pytest.raises(sam2unet.UserError, match="set_image first"):
        sam2unet.Prompter(small).predict(box=[0, 0, 1, 1])
    with torch.device("meta"):
        other = sam2unet.create_model("sam2unet", encoder="tiny")
    with pytest.raises(sam2unet.UserError, match="SAM2-UNet takes no prompts"):
        sam2unet.Prompter(other)
    with pytest.raises(sam2unet.UserError, match="SAM-Med2D predicts masks for prompts, not one map"):
        sam2unet.predict(small, np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize("part", ["image_encoder.pos_embed", "mask_decoder.iou_token.weight"])
def test_an_output_that_is_not_finite_is_an_error(part):
    model = tiny_sam_med2d(side=32)
    with torch.no_grad():
        model.get_parameter(part).fill_(1e38)
    with pytest.raises(sam2unet.UserError, match="^the model gives NaN or Inf; the weights are damaged"):
        sam2unet.Prompter(model).set_image(np.zeros((32, 32, 3), np.uint8)).predict(box=[0, 0, 9, 9])


def test_an_image_that_fails_leaves_the_one_before_it():
    model, box = tiny_sam_med2d(side=32), [2, 3, 20, 25]
    prompter = sam2unet.Prompter(model).set_image(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    before = prompter.predict(box=box)
    with torch.no_grad():
        model.get_parameter("image_encoder.pos_embed").fill_(1e38)
    with pytest.raises(sam2unet.UserError, match="the model gives NaN or Inf"):
        prompter.set_image(np.zeros((32, 32, 3), np.uint8))
    after = prompter.predict(box=box)
    assert after.masks.shape == (1, 40, 60) and np.array_equal(before.logits, after.logits)


def test_prompts_can_be_tensors_of_any_type(small):
    prompter = sam2unet.Prompter(small).set_image(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    wanted = prompter.predict([[5, 6]], [1], box=[2, 3, 20, 25])
    points, box = torch.tensor([[5.0, 6.0]], requires_grad=True), torch.tensor([2, 3, 20, 25], dtype=torch.bfloat16)
    found = prompter.predict(points, torch.tensor([1]), box=box)
    assert np.array_equal(found.logits, wanted.logits)
