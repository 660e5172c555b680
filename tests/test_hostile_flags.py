"""Whatever is in a command line or a recipe: it works, or ends with status 2 and one line that a user can act on."""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam2unet.atomic import read_json
from sam2unet.errors import UserError, printable
from sam2unet.families.table import check_size, find_family
from sam2unet.limits import check_numbers
from sam2unet.masks.files.outputs import PredictOutputs
from sam2unet.masks.prediction.options import Averaging
from sam2unet.masks.prediction.tiles import Tile
from sam2unet.prompts.modes import PromptTestFlags
from sam2unet.recipe import Recipe, Study
from sam2unet.released_flags import translate_test_flags, translate_train_flags
from sam2unet.runtime.device import pick_device
from sam2unet.task import RunData
from tests.conftest import load_script

FEW, MANY = (
    settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    for count in (60, 3000)
)
PARSERS = {name: load_script(name).parser() for name in ("train.py", "test.py")}
ODD = ["0", "-1", "nan", "inf", "-inf", "1e400", "9" * 20, "9" * 400, "9" * 5000, "0x10", "1_0", " 5", "٣", "", "a\nb"]
ODD += ["None", "True", "meta", "cuda:99999999999999999999", "1,1", ",", "flip,scale", "~", "\udcff", "é" * 300]
WORDS = st.one_of(st.sampled_from(ODD), st.integers().map(str), st.floats().map(str), st.text(max_size=20))


def both(strategy):
    """Runs a test with few examples, and as a slow one with many."""

    def decorate(check):
        runs = [FEW(given(strategy)(check)), pytest.param(MANY(given(strategy)(check)), marks=pytest.mark.slow)]

        @pytest.mark.parametrize("run", runs, ids=["few", "many"])
        def test(run):
            run()

        return test

    return decorate


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(list(PARSERS)))
    actions = [a for a in PARSERS[name]._actions if a.option_strings and a.dest != "help"]
    words = []
    for action in draw(st.lists(st.sampled_from(actions), max_size=5)):
        words.append(draw(st.sampled_from(action.option_strings)))
        if action.nargs != 0:
            words += draw(st.lists(WORDS, min_size=action.nargs is None, max_size=2))
    return name, words


@both(command_lines())
def test_command_lines(case):
    name, words = case
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            USE[name](PARSERS[name].parse_args(words))
        except UserError as e:
            assert is_one_line(str(e))
        except SystemExit as e:
            assert e.code == 2 and is_one_line(err.getvalue().removesuffix("\n"))


def use_train_flags(args: argparse.Namespace) -> None:
    """As far as a run goes before it looks at files."""
    args.config = None
    translate_train_flags(args)
    values = {name: value for name in vars(Recipe()) if (value := getattr(args, name, None)) is not None}
    recipe = Recipe.read(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    check_size(find_family(recipe.model), recipe.size)
    check_numbers(vars(args))
    RunData(val_fraction=args.val_fraction)
    pick_device(args.device)


def use_test_flags(args: argparse.Namespace) -> None:
    translate_test_flags(args)
    check_numbers(vars(args))
    PredictOutputs(threshold=args.threshold, components=args.components)
    PromptTestFlags(args.boxes_prompt, args.point_num, args.iter_point).choose_modes()
    if args.tile:
        Tile.read(args.tile)
    if args.tta:
        Averaging.read(args.tta)
    pick_device(args.device)


USE = {"train.py": use_train_flags, "test.py": use_test_flags}

FIELDS = st.sampled_from([*vars(Recipe()), *vars(Study()), "unknown"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), WORDS.filter(str.isprintable)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
TAGGED = ["2024-13-45", "0b_", '!!int "abc"', "!!python/name:os.system", "*a", "&a [*a]", "!!binary x", "!!set {a}"]
RECIPES = st.one_of(
    st.dictionaries(FIELDS, VALUES, max_size=3).map(lambda values: yaml.safe_dump(values).encode()),
    st.tuples(FIELDS, st.sampled_from(TAGGED)).map(lambda words: ": ".join(words).encode()),
    st.text(alphabet="{}[]:,-&*!?|>'\"%@ \n\tab1.", max_size=60).map(str.encode),
    st.binary(max_size=40),
)


@both(RECIPES)
def test_recipes(content):
    with with_file(content) as path:
        for read in (Recipe.read, Study.read):
            try:
                read(path)
            except UserError as e:
                assert is_one_line(str(e)) and len(str(e)) < 1000


@both(st.one_of(st.binary(max_size=40), st.text(alphabet='{}[]:,"a1e.-\\u', max_size=60).map(str.encode)))
def test_json_files(content):
    with with_file(content) as path:
        try:
            assert isinstance(read_json(path), dict)
        except UserError as e:
            assert is_one_line(str(e))


@contextlib.contextmanager
def with_file(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_bytes(content)
        yield path


def is_one_line(text: str) -> bool:
    return printable(text) == text and text.strip() != "" and not text.startswith("Traceback")
