"""Exported models for prompts: by the script, and as the released exporter writes them."""

import warnings
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import load, save
from torch import nn

from sam2unet.export.prompt_graphs import GraphOptions
from sam2unet.models.sam_med2d import SAMMed2D
from tests.conftest import load_script


def export(checkpoint: Path, folder: Path, *flags: object) -> None:
    """Runs scripts/export.py, which writes x_encoder.onnx and x_decoder.onnx."""
    script = load_script("scripts/export.py")
    flags = script.parser().parse_args(["--checkpoint", str(checkpoint), *map(str, flags)])
    flags.output = folder / flags.output
    script.run(flags)
    assert sorted(file.name for file in folder.iterdir()) == ["x_decoder.onnx", "x_encoder.onnx"]


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


class ReleasedDecoder(nn.Module):
    """The graph that the released exporter writes: all four masks, or with `single` one of them."""

    outputs, options = ("masks", "iou_predictions", "low_res_masks"), GraphOptions(opset=18)

    def __init__(self, model, single=False):
        super().__init__()
        self.model, self.single = model, single

    def forward(self, image_embeddings, point_coords, point_labels, mask_input, has_mask_input, orig_im_size):
        prompts, labels = self.model.prompt_encoder, point_labels[..., None]
        code = prompts.pe_layer((point_coords + 0.5) / prompts.side)
        code = torch.where(labels == -1, prompts.not_a_point_embed.weight, code)
        for label, embedding in enumerate(prompts.point_embeddings):
            code = code + embedding.weight * (labels == label)
        without = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = has_mask_input * prompts.mask_downscaling(mask_input) + (1 - has_mask_input) * without
        low, quality = self.model.mask_decoder.predict_masks(image_embeddings, prompts.get_dense_pe(), code, dense)
        if self.single:
            untrained = torch.tensor([1000.0, 0, 0, 0])
            best = (quality + (point_labels.shape[1] - 2.5) * untrained).argmax(1)
            low, quality = low[:, best], quality[:, best]
        masks = F.interpolate(low, (self.model.side, self.model.side), mode="bilinear", align_corners=False)
        height, width = orig_im_size.to(torch.int64)  # not numbers, which tracing would fix
        return F.interpolate(masks, (height, width), mode="bilinear", align_corners=False), quality, low


def write_released(model: SAMMed2D, exported: Path, folder: Path) -> None:
    """Writes files without metadata: the encoder, a decoder of four masks, and one of one mask.

    The decoder of one mask is ours. Up to two points it is the released one too.
    """
    for target, source in (("x_encoder", "x_encoder"), ("single_decoder", "x_decoder")):
        content = load(exported / f"{source}.onnx")
        del content.metadata_props[:]
        save(content, folder / f"{target}.onnx")
    prompt = {
        "image_embeddings": torch.randn(1, 256, 16, 16),
        "point_coords": torch.rand(1, 5, 2),
        "point_labels": torch.randint(4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 64, 64),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([150.0, 90]),
    }
    graph = ReleasedDecoder(model).eval()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the old exporter, and about lengths that are fixed
        patch.setattr(torch.Tensor, "mT", property(lambda matrix: matrix.transpose(-2, -1)))  # it knows no mT
        torch.onnx.export(  # by the exporter of the released script, which takes a tenth of the time of the present one
            graph,
            tuple(prompt.values()),
            folder / "x_decoder.onnx",
            input_names=list(prompt),
            output_names=list(graph.outputs),
            dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
            opset_version=graph.options.opset,
            dynamo=False,
        )
