"""Write a network as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

LIMIT = 1e-3  # in probability; rounding alone gives about 1e-6


def write_graph(
    graph: nn.Module,
    examples: tuple[Tensor, ...],
    given: Sequence[str],
    made: Sequence[str],
    dynamic: tuple[dict, ...],
    facts: dict[str, str],
    file: BinaryIO,
    opset: int | None = None,
) -> None:
    """ONNX, with the names of what is given and made, and of each given tensor the dimensions that change."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with sdpa_kernel(SDPBackend.MATH):  # others lay out the answer in another way than what ONNX gets in their place
        program = torch.onnx.export(
            graph,
            examples,
            input_names=given,
            output_names=made,
            dynamic_shapes=dynamic,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    ClearMetadataAndDocStringPass()(program.model)  # each node's lines of source, with this machine's paths
    program.model.metadata_props.update(facts)
    file.write(program.model_proto.SerializeToString())
