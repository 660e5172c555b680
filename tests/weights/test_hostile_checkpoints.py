"""Mutated files of weights: each is read or refused with a `UserError`."""

import io
import warnings
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam2unet.errors import UserError
from sam2unet.families.load import assemble, read_checkpoint, resize_checkpoint
from sam2unet.layers import dino
from sam2unet.weights.formats import TRAINABLE_FORMAT, TRAINABLE_VERSION
from sam2unet.weights.pretrained import read_dino, read_sam, read_trunk

QUICK = settings(
    max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
THOROUGH = settings(QUICK, max_examples=3000)

# Few numbers under names that the readers look for.
SHAPES = {
    "encoder.blocks.0.prompt_learn.0.weight": (1, 96),
    "encoder.pos_embed": (1, 96, 1, 1),
    "rfb1.branch0.0.bn.num_batches_tracked": (),
}
SAM = {
    "image_encoder.pos_embed": (1, 4, 4, 768),
    "image_encoder.blocks.0.attn.rel_pos_h": (7, 64),
    "image_encoder.blocks.2.attn.rel_pos_h": (7, 64),
    "mask_decoder.iou_token.weight": (1, 256),
} | {f"image_encoder.blocks.{block}.norm1.bias": (768,) for block in range(12)}
DINO = {"cls_token": (1, 1, 384), "pos_embed": (1, 5, 384), "blocks.0.ls1.gamma": (384,)}
TRUNK = {"image_encoder.trunk.pos_embed": (1, 96, 7, 7), "image_encoder.trunk.blocks.0.norm1.weight": (96,)}
FACTS = {"format": TRAINABLE_FORMAT, "version": TRAINABLE_VERSION, "model": "sam2unet", "encoder": "tiny", "hiera": "x"}


def state_of(shapes):
    """One number stored per tensor, so that the files are small."""
    return {
        name: torch.ones((), dtype=torch.long if "tracked" in name else torch.float32).expand(shape)
        for name, shape in shapes.items()
    }


def pickled(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def safetensors_of(state, facts):
    return safetensors.torch.save({name: t.contiguous() for name, t in state.items()}, facts)


STATE = state_of(SHAPES)
FILES = {
    "zip": pickled(STATE),
    "wrapped": pickled({"state_dict": {f"module.{name}": t for name, t in STATE.items()}, "epoch": 3}),
    "old pickle": pickled(STATE, _use_new_zipfile_serialization=False),
    "half": pickled({name: t.half() for name, t in STATE.items()}),
    "SAM": pickled(state_of(SAM)),
    "DINO": pickled(state_of(DINO)),
    "SAM 2": pickled({"model": state_of(TRUNK)}),
    "ours": safetensors_of(STATE, FACTS),
    "plain safetensors": safetensors_of(STATE, None),
}


def mutate(content: bytes, draw) -> bytes:
    """Replaces, inserts, removes and repeats bytes at one to four places, or cuts the rest off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["replace", "insert", "remove", "repeat", "cut"]))
        count = draw(st.integers(1, 9))
        if kind == "replace":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "remove":
            del content[at : at + count]
        elif kind == "repeat":
            content[at:at] = content[at : at + count]
        else:
            del content[at:]
    return bytes(content)


@st.composite
def hostile_files(draw):
    """A mutated file; of a zip file also one whose pickle alone is mutated, so that more of the reader is reached."""
    content = FILES[draw(st.sampled_from(sorted(FILES)))]
    if not content.startswith(b"PK") or draw(st.booleans()):
        return mutate(content, draw)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, mutate(data, draw) if name.endswith("data.pkl") else data)
    return file.getvalue()


TYPES = [torch.float32] * 4 + [torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64]


@st.composite
def hostile_states(draw):
    """A state dict in which some tensors have another shape or type, or are left out."""
    state = state_of(draw(st.sampled_from([SHAPES, SAM, DINO, TRUNK])))
    for name in draw(st.lists(st.sampled_from(sorted(state)), min_size=1, max_size=3, unique=True)):
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 5, 7, 96, 384, 768]), max_size=5))
        state[name] = torch.ones((), dtype=draw(st.sampled_from(TYPES))).expand(shape)
        if draw(st.integers(0, 9)) == 0:
            del state[name]
    return state


READERS = (
    lambda path: assemble(read_checkpoint(path), {}),
    lambda path: resize_checkpoint(read_checkpoint(path), size=96),
    read_trunk,
    read_dino,
    read_sam,
)


def read_every_way(content: bytes, path, readers=READERS) -> int:
    """Returns how many of the readers took the file."""
    path.write_bytes(content)
    taken = 0
    for reader in readers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about types that it no longer likes
            try:
                reader(path)
                taken += 1
            except UserError as e:
                assert "\n" not in str(e)
    return taken


def check_files(budget, folder):
    @budget
    @given(hostile_files(), st.sampled_from(["x.pth", "x.safetensors"]))
    def mutated(content, name):
        read_every_way(content, folder / name)

    mutated()


def check_states(budget, path, readers=READERS):
    @budget
    @given(hostile_states())
    def changed(state):
        read_every_way(pickled(state), path, readers)

    changed()


def test_mutated_files_of_weights_are_read_or_refused(tmp_path):
    assert [read_every_way(FILES[name], tmp_path / "x.pth") for name in ("SAM", "DINO", "SAM 2")] == [2, 1, 1]
    check_files(QUICK, tmp_path)


def test_state_dicts_of_other_shapes_and_types_are_read_or_refused(tmp_path):
    check_states(settings(QUICK, max_examples=40), tmp_path / "x.pth")


@pytest.mark.slow
def test_many_mutated_files_and_states_are_read_or_refused(tmp_path):
    check_files(THOROUGH, tmp_path)
    positions = (
        lambda path: dino.resize_dino_positions(read_dino(path).weights, 7),
    )  # imports timm, which takes seconds
    check_states(THOROUGH, tmp_path / "x.pth", (*READERS, *positions))
