"""The Python interface for the Hugging Face hub: loads models from it, and uploads models with their model card."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..families.load import ANY_SHAPE, assemble, check_network_options, load_model, read_checkpoint, to_paths
from ..weights.hub import CONFIG, REPOSITORY, WEIGHTS, explain_hub_error, locate_weights
from .hub_folder import CARD_FILE, write_folder


def from_pretrained(
    repo_or_folder: str | Path,
    device: str | torch.device | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> nn.Module:
    """Loads a model of the Hugging Face hub, or of a folder for the hub, in evaluation mode, as `load_model` does.

    Raises UserError if there is no such repository or folder, the hub cannot be reached and the model is not in its
    cache, the repository has no `model.safetensors`, or the weights are of an unknown model.

    Args:
        repo_or_folder: `owner/name` on the hub, or a local folder that `push_to_hub` or `convert_checkpoint.py --hub`
            could upload. An existing local path comes first.
        device: the device of the model. None: a GPU if there is one.
        revision: a branch, a tag or a commit of the repository. None: the newest commit.
        token: a token for private repositories. None: the token of `hf auth login` or of the variable HF_TOKEN.
    """
    return load_model(locate_weights(repo_or_folder, revision=revision, token=token), device)


def push_to_hub(
    checkpoint: str | Path,
    repo_id: str,
    scores: str | Path | None = None,
    private: bool | None = None,
    token: str | None = None,
    **weight_paths: str | Path,
) -> str:
    """Uploads a checkpoint to the Hugging Face hub with its settings and a model card. Returns the URL of the commit.

    The repository is made if it does not exist. In a repository that exists, the files become a new commit. Raises
    UserError, and changes nothing on the hub, if there is no token, the name is not `owner/name`, or the checkpoint
    cannot be read; and if the hub refuses the upload.

    Args:
        checkpoint: a checkpoint, as for `load_model`; or a folder of `convert_checkpoint.py --hub`, for example with a
            model card that you edited. Its three files are uploaded unchanged.
        repo_id: the name `owner/name` of the repository.
        scores: results.json of eval.py, or of test.py for SAM-Med2D; the numbers of the model card.
        private: whether a new repository is private. None: the default of the hub, which is public for most accounts.
        token: a token with the permission to write. None: the token of `hf auth login` or of the variable HF_TOKEN.
        weight_paths: `hiera_path`, `dinov2_path`, `sam_checkpoint` or `sam3_path`, for a checkpoint with trained
            weights only.
    """
    import huggingface_hub

    if not REPOSITORY.fullmatch(str(repo_id)):
        raise UserError(f"the repository is {repo_id!r}; give a name on the hub of the form owner/name")
    if not (token or huggingface_hub.get_token()):
        raise UserError("there is no token for the Hugging Face hub; run `hf auth login`, or set the variable HF_TOKEN")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(checkpoint)
        if not folder.is_dir():
            folder = Path(temporary) / "model"
            content, paths = read_checkpoint(Path(checkpoint)), to_paths(**weight_paths)
            check_network_options(content.family, ANY_SHAPE, paths)
            write_folder(folder, content, *assemble(content, paths), None if scores is None else Path(scores))
        elif scores is not None or weight_paths:
            raise UserError(f"{folder} is a folder and is uploaded unchanged; leave out scores and weight files")
        files = [WEIGHTS, CONFIG, CARD_FILE]
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise UserError(
                f"{folder} has no {missing[0]}; give a checkpoint, or a folder of convert_checkpoint.py --hub"
            )
        api = huggingface_hub.HfApi(token=token, library_name="sam2unet")
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, allow_patterns=files, commit_message="Upload a model of sam2unet"
            )
        except Exception as e:  # several network packages raise errors without a common class
            raise UserError(f"cannot upload to {repo_id} on the Hugging Face hub: {explain_hub_error(e)}") from e
    return commit.commit_url
