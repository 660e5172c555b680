"""Names of published weights: the table of their files, and the cache folder that keeps downloaded files."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

META = "https://dl.fbaipublicfiles.com"
DRIVE = "https://drive.google.com"
SAM2UNET_DRIVE = f"{DRIVE}/drive/folders/1w2fK8kLhtEmMWZ6G6w9_J17xwgfm3lev"  # the checkpoints and maps of SAM2-UNet
SOURCES = ("meta", "hub")  # Meta's server or the Hugging Face hub
SAM2_DATES = {"sam2": "072824", "sam2.1": "092824"}


def get_cache_folder() -> Path:
    """Returns the folder of downloaded files: `SAM2UNET_CACHE`, or `sam2unet` in the cache folder of the user."""
    folder = os.environ.get("SAM2UNET_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "sam2unet")
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as e:
        raise UserError("this user has no home folder; set SAM2UNET_CACHE to a folder for downloaded weights") from e


@dataclass(frozen=True)
class PublishedWeights:
    """A row of the table."""

    name: str  # stands for the file on the command line and in Python
    flag: str  # the flag that takes the file
    file: str  # the name of the file in the cache
    address: str = ""  # empty if the file is only on the hub
    sha256: str = ""  # empty if it is not known
    size: int | None = None  # number of bytes. None if it is not known.
    hub: str = ""  # `owner/name/file` on the Hugging Face hub. Empty if this file is not there.

    @property
    def path(self) -> Path:
        return get_cache_folder() / self.file

    @property
    def record(self) -> Path:
        """The file in the cache that records the SHA-256 of the first download, if the table has none."""
        return self.path.with_name(f"{self.file}.sha256")

    def get_sha256(self) -> str:
        """Returns the SHA-256 of the table or of the first download. Returns an empty text if there is neither."""
        if self.sha256 or not self.record.is_file():
            return self.sha256
        return self.record.read_text(encoding="utf-8", errors="replace").partition(" ")[0]


def make_sam2_row(version: str, size: str, sha256: str, count: int | None = None) -> PublishedWeights:
    name = f"{version}_hiera_{size}"
    address = f"{META}/segment_anything_2/{SAM2_DATES[version]}/{name}.pt"
    hub = f"facebook/{version}-hiera-{size.replace('_', '-')}/{name}.pt"
    return PublishedWeights(name, "hiera_path", f"{name}.pt", address, sha256, count, hub)


def make_dino_row(name: str, sha256: str, count: int | None = None) -> PublishedWeights:
    file = f"{name}_pretrain.pth"
    return PublishedWeights(name, "dinov2_path", file, f"{META}/dinov2/{name}/{file}", sha256, count)


def make_sam_row(name: str, md5_start: str, sha256: str, count: int | None = None) -> PublishedWeights:
    file = f"{name}_{md5_start}.pth"
    return PublishedWeights(name, "sam_checkpoint", file, f"{META}/segment_anything/{file}", sha256, count)


def make_table(*rows: PublishedWeights) -> dict[str, PublishedWeights]:
    return {row.name: row for row in rows}


# By name. Several independent public repositories agree on each SHA-256.
PUBLISHED = make_table(
    make_sam2_row("sam2", "tiny", "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125", 155_906_050),
    make_sam2_row("sam2", "small", "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    make_sam2_row("sam2", "base_plus", "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    make_sam2_row("sam2", "large", "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b", 897_952_466),
    make_sam2_row("sam2.1", "tiny", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    make_sam2_row("sam2.1", "small", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    make_sam2_row("sam2.1", "base_plus", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    make_sam2_row("sam2.1", "large", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    make_dino_row("dinov2_vits14", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    make_dino_row("dinov2_vitb14", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346_378_731),
    make_dino_row("dinov2_vitl14", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1_217_586_395),
    PublishedWeights(  # the copy of DINOv2 that SAM2-UNeXT was trained from
        name="vit_large_patch14_dinov2.lvd142m",
        flag="dinov2_path",
        file="vit_large_patch14_dinov2.lvd142m.safetensors",
        hub="timm/vit_large_patch14_dinov2.lvd142m/model.safetensors",
    ),
    make_sam_row(
        "sam_vit_b", "01ec64", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383
    ),
    make_sam_row("sam_vit_l", "0b3195", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    make_sam_row(
        "sam_vit_h", "4b8939", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879
    ),
    PublishedWeights(
        name="sam-med2d_b",
        flag="sam_checkpoint",
        file="sam-med2d_b.pth",
        address=f"{DRIVE}/file/d/1ARiB5RkSsWmAB_8mqWnwDF8ZKTtFwsjl/view",
    ),
)


def find_similar_names(text: str, flag: str | None = None) -> list[str]:
    """Returns at most three names that are similar to `text`, or whose file names are. `flag` limits them to a flag."""
    rows = [row for row in PUBLISHED.values() if flag in (None, row.flag)]
    names = {alias.lower(): row.name for row in rows for alias in (row.file, row.name)}
    return list(dict.fromkeys(names[alias] for alias in difflib.get_close_matches(text.lower(), names)))


def get_published(name: str) -> PublishedWeights:
    """Returns the row of a name. Raises UserError if there is no row."""
    if name not in PUBLISHED:
        names = ", ".join(find_similar_names(name) or PUBLISHED)
        raise UserError(f"no published weights have the name {name}; there are {names}")
    return PUBLISHED[name]
