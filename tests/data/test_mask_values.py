"""Which pixels of a mask are foreground: palettes, label maps, alpha, deep grey, and the flags that say so."""

import numpy as np
import pytest
from PIL import Image

from sam2unet.data.checks.audit import audit_folders
from sam2unet.data.checks.check import check_pairs
from sam2unet.data.images.masks import MaskCoding, read_mask
from sam2unet.data.images.reading import read_image
from sam2unet.data.pairs import Pair, match
from sam2unet.errors import UserError
from sam2unet.masks.transforms import pair_bytes
from sam2unet.prompts.framing import Framing, read_label
from sam2unet.prompts.lists import refuse_bad_masks
from sam2unet.recipe import Recipe, to_foreground_flags
from sam2unet.scoring.score_folders import Entry, score_entries
from sam2unet.scoring.score_pair import ScoreOptions
from tests.conftest import load_script, save, write_pairs

INDICES = np.repeat(np.arange(4, dtype=np.uint8), 10)[None].repeat(30, 0)  # stripes of 0, 1, 2, 3


def palette_mask(indices=INDICES):
    image = Image.fromarray(indices).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 255, 255, 255])
    image.putdata(indices.ravel().tolist())
    return image


def stripes(*levels, dtype=np.uint8):
    return np.repeat(np.array(levels, dtype), 10)[None].repeat(30, 0)


def with_alpha(mode, grey, alpha):
    image = Image.fromarray(grey).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    return image


def clear_palette():
    image = Image.fromarray(stripes(0, 1)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.putdata(stripes(0, 1).ravel().tolist())
    image.info["transparency"] = bytes([0, 255])
    return image


@pytest.mark.parametrize("rule, wanted", [(0, [1, 2, 3]), (1, [2, 3]), (2, [3]), ((1, 3), [1, 3]), ((2,), [2])])
def test_a_palette_mask_has_its_indices_as_values(rule, wanted, tmp_path):
    palette_mask().save(tmp_path / "m.png")
    assert np.array_equal(np.asarray(read_mask(tmp_path / "m.png", rule)) > 0, np.isin(INDICES, wanted))


CODINGS = {
    "colours": (palette_mask, "it has colours; palette indices found: 0, 1, 2, 3"),
    "RGBA": (lambda: with_alpha("RGB", stripes(0, 0), stripes(0, 255)), "alpha 0 to 255; values found: 0"),
    "LA": (lambda: with_alpha("L", stripes(255, 255), stripes(0, 255)), "alpha 0 to 255; values found: 255"),
    "tRNS": (clear_palette, "alpha 0 to 255; palette indices found: 0, 1"),
    "ignored pixels": (lambda: Image.fromarray(stripes(0, 1, 255)), "values found: 0, 1, 255"),
    "classes": (lambda: Image.fromarray(stripes(0, 60, 120, 180, 240)), "values found: 0, 60, 120, 180, 240"),
    "trimap": (lambda: Image.fromarray(stripes(0, 128, 255)), "values found: 0, 128, 255"),
    "many classes": (lambda: Image.fromarray(stripes(*range(21), 255)), "values found: 0, 1, 2, 3, 4, 5 and more"),
    "16-bit classes": (lambda: Image.fromarray(stripes(0, 1, 65535, dtype=np.uint16)), "values found: 0, 1, 65535"),
    "0 and -1": (lambda: Image.fromarray(stripes(0, -1, dtype=np.int32)), "values found: -1, 0"),
    "floats and -1": (lambda: Image.fromarray(stripes(0, -1, 1, dtype=np.float32)), "values found: -1, 0, 1"),
}


@pytest.mark.parametrize("name", CODINGS)
def test_codings_that_would_be_read_as_another_mask_are_refused(name, tmp_path):
    make, found = CODINGS[name]
    path = tmp_path / ("m.tif" if name.endswith("and -1") else "m.png")
    make().save(path)
    flags = "--foreground V .*--mask_threshold N .*--classes FILE .*--split values"
    for read in (read_mask, read_label):
        with pytest.raises(MaskCoding, match=flags) as raised:
            read(path)
        assert found in str(raised.value)
    assert set(np.unique(read_mask(path, 0))) <= {0, 255}  # a rule of the user is always applied


def test_nan_is_refused_with_and_without_a_rule(tmp_path):
    Image.fromarray(stripes(0, np.nan, dtype=np.float32)).save(tmp_path / "m.tif")
    for read in (read_image, read_mask, lambda path: read_mask(path, 0)):
        with pytest.raises(UserError, match=r"m\.tif holds values that are not finite \(NaN"):
            read(tmp_path / "m.tif")


@pytest.mark.parametrize("change", ["half", "third", "bicubic", "jpeg", "jpeg as png", "blurred"])
def test_soft_edges_are_no_label_map(change, polyps, tmp_path):
    mask = Image.open(sorted((polyps / "masks").iterdir())[3]).convert("L")
    if change in ("half", "third"):
        mask = mask.resize([side // (2 if change == "half" else 3) for side in mask.size], Image.Resampling.BOX)
    elif change == "bicubic":
        mask = mask.resize((352, 352), Image.Resampling.BICUBIC)
    elif change != "blurred":
        mask.save(tmp_path / "m.jpg", quality=20)
        mask = Image.fromarray(np.asarray(Image.open(tmp_path / "m.jpg")))
    else:
        mask = mask.resize((40, 40)).resize((800, 800), Image.Resampling.BILINEAR)
    path = tmp_path / ("m.jpg" if change == "jpeg" else "m.png")
    if change != "jpeg":
        mask.save(path)
    assert 2 < len(set(np.asarray(mask).ravel()))
    assert np.array_equal(read_mask(path), mask)


def test_floats_up_to_1_are_the_full_range(tmp_path):
    ramp = np.linspace(0, 1, 80, dtype=np.float32).reshape(8, 10)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif"))[..., 0], np.rint(ramp * 255))
    Image.fromarray(stripes(0, 1, dtype=np.float32)).save(tmp_path / "m.tif")
    assert np.array_equal(read_mask(tmp_path / "m.tif"), stripes(0, 255))


@pytest.fixture
def palette_pairs(tmp_path):
    images, masks = write_pairs(tmp_path, 4, (40, 30))
    for path in masks.iterdir():
        palette_mask().save(path)
    return images, masks


def test_all_programs_take_the_same_pixels_for_foreground(palette_pairs, tmp_path):
    images, masks = palette_pairs
    wanted = np.isin(INDICES, (1, 3))
    rule = Recipe(foreground=(1, 3)).mask_rule
    pair = match(images, masks)[0]
    assert pair_bytes(pair, 32, rule)[1].float().mean() / 255 == pytest.approx(wanted.mean(), abs=0.02)  # training
    assert np.array_equal(read_label(pair.mask, rule), wanted)  # prompts
    assert audit_folders(images, masks, mask_threshold=rule).masks[pair.mask].foreground == wanted.mean()  # check_data
    for path in masks.iterdir():
        save(tmp_path / "maps" / path.name, wanted.astype(np.uint8) * 255)
    (result,) = score_entries([Entry("a", "", tmp_path / "maps", masks)], ScoreOptions(rule), workers=1)
    assert result.table["MAE"] == 0
    script = load_script("scripts/make_prompt_data.py")
    flags = [images, masks, "--save_path", tmp_path / "lists", "--split", "values", *to_foreground_flags(rule)]
    script.run(script.parser().parse_args(list(map(str, flags))))
    written = sorted(path.name for path in (tmp_path / "lists/masks").glob("*.png"))
    assert written[:2] == ["a_001.png", "a_003.png"] and len(written) == 8


SCRIPTS = {
    "train.py": "--save_path out",
    "test.py": "--checkpoint a --save_path out",
    "eval.py": "",
    "scripts/check_data.py": "a b",
    "scripts/make_prompt_data.py": "a b --save_path out",
    "scripts/quickstart.py": "",
    "scripts/reproduce.py": "a --data_root b",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_program_takes_one_of_the_two_flags(name, capsys):
    module = load_script(name)
    words = SCRIPTS[name].split()
    assert module.parser().parse_args([*words, "--foreground", "1", "3"]).foreground == [1, 3]
    with pytest.raises(SystemExit):
        module.parser().parse_args([*words, "--foreground", "1", "3", "--mask_threshold", "0"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_recipe_holds_the_values_and_a_flag_wins_over_its_threshold(tmp_path):
    recipe = Recipe(foreground=(1, 3))
    recipe.write(tmp_path / "r.yaml")
    assert Recipe.read(tmp_path / "r.yaml") == recipe
    assert Recipe.read(tmp_path / "r.yaml", mask_threshold=0).mask_rule == 0
    with pytest.raises(UserError, match="--mask_threshold and --foreground both"):
        Recipe(mask_threshold=0, foreground=(1,))


@pytest.mark.parametrize(
    "rule, words",
    [
        (255, "--mask_threshold 255 leaves no foreground in all 4 masks"),
        (-1, "--mask_threshold -1 leaves nothing but foreground in all 4 masks"),
        ((7, 9), "--foreground 7 9 leaves no foreground in all 4 masks"),
        ((0, 255), "--foreground 0 255 leaves nothing but foreground in all 4 masks"),
    ],
)
def test_a_rule_that_leaves_all_masks_empty_or_full_is_refused(rule, words, tmp_path):
    images, masks = write_pairs(tmp_path)
    with pytest.raises(UserError, match=rf"{words} of \S+masks \(values found: 0, 255 in a\.png\)"):
        check_pairs(match(images, masks), rule)
    with pytest.raises(UserError, match=words):
        score_entries([Entry("a", "", images, masks)], ScoreOptions(rule, resize=True), workers=1)
    with pytest.raises(UserError, match=words if rule in (-1, (0, 255)) else "is empty with --"):
        refuse_bad_masks(match(images, masks), Framing(64, mask_threshold=rule))


def test_some_masks_left_empty_or_full_are_a_warning(tmp_path, capsys):
    images, masks = write_pairs(tmp_path)
    save(masks / "a.png", np.zeros((50, 60), np.uint8))
    save(masks / "b.png", np.full((50, 60), 9, np.uint8))
    wanted = [
        f"warning: --mask_threshold 0 leaves no foreground in 1 of 4 masks of {masks}: a.png",
        f"warning: --mask_threshold 0 leaves nothing but foreground in 1 of 4 masks of {masks}: b.png",
    ]
    check_pairs(match(images, masks), 0)
    assert capsys.readouterr().err.splitlines() == wanted
    score_entries([Entry("a", "", images, masks)], ScoreOptions(0), workers=1)
    assert [line for line in capsys.readouterr().err.splitlines() if "leaves" in line] == wanted
    refuse_bad_masks(
        [Pair(images / f"{stem}.jpg", masks / f"{stem}.png") for stem in "bcd"], Framing(64, mask_threshold=0)
    )
    assert "nothing but foreground in 1 of 3 masks" in capsys.readouterr().err
