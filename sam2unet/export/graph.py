"""Writes a network as an ONNX graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UserError

LIMIT = 1e-3  # the largest difference in probability; rounding gives about 1e-6


def check_difference(difference: float, *outputs: Path) -> None:
    """Raises UserError if an exported model differs from PyTorch by more than `LIMIT`, or by NaN."""
    if not difference <= LIMIT:
        files = " and ".join(map(str, outputs))
        raise UserError(
            f"the exported model differs from torch by {difference:.2g} in probability, more than {LIMIT:g}; "
            f"{files} {'was' if len(outputs) == 1 else 'were'} not written"
        )


def write_graph(
    graph: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: tuple[dict, ...],
    facts: Mapping[str, str],
    file: BinaryIO,
    opset: int | None = None,
) -> None:
    """Exports `graph` to ONNX with `facts` as metadata. `dynamic` are the variable dimensions of each input."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with sdpa_kernel(SDPBackend.MATH):  # other backends return another memory layout than their ONNX replacement
        program = torch.onnx.export(
            graph,
            examples,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None without `dynamo` only
    ClearMetadataAndDocStringPass()(program.model)  # source lines and local paths of each node
    program.model.metadata_props.update(facts)
    file.write(program.model_proto.SerializeToString())
