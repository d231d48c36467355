"""A formula as an ONNX model: MatMul, Shrink, Add, Shrink for each layer. Input `x`, output `logits`, any batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fpes import __version__
from fpes.export.formula import Formula
from fpes.files import written_whole

_OPSET = 13  # Shrink came with 9; 13 is what every runtime of today knows
_IR_VERSION = 8


def to_onnx(formula: Formula) -> Any:
    """An onnx.ModelProto.

    Raises:
        ImportError: the package onnx isn't installed.
    """
    onnx = _onnx()
    helper = onnx.helper
    nodes, constants = [], []
    h = "x"
    for layer, (weight, bias) in enumerate(zip(formula.weights, formula.biases, strict=True), start=1):
        constants += [
            onnx.numpy_helper.from_array(weight, f"weight_{layer}"),
            onnx.numpy_helper.from_array(bias, f"bias_{layer}"),
        ]
        nodes.append(helper.make_node("MatMul", [h, f"weight_{layer}"], [f"product_{layer}"]))
        h = f"product_{layer}"
        if layer > 1:
            h = _shrunk(onnx, formula, nodes, h)
        nodes.append(helper.make_node("Add", [h, f"bias_{layer}"], [f"sum_{layer}"]))
        h = _shrunk(onnx, formula, nodes, f"sum_{layer}")
    nodes.append(helper.make_node("Identity", [h], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "fpes",
        [_matrix(onnx, "x", formula.features)],
        [_matrix(onnx, "logits", formula.classes)],
        constants,
        doc_string="A deep linear network whose underflow is written as Shrink.",
    )
    model = helper.make_model(
        graph,
        producer_name="fpes",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(formula: Formula, path: str | os.PathLike[str]) -> None:
    """Write the model to a file; it is whole, or what was there is still there.

    Raises:
        ImportError: the package onnx isn't installed.
        OSError: it can't be written.
    """
    contents = to_onnx(formula).SerializeToString()
    with written_whole(Path(path)) as aside:
        aside.write_bytes(contents)


def _shrunk(onnx: Any, formula: Formula, nodes: list[Any], value: str) -> str:
    """Append a Shrink of a value, where the formula has any; the name of what comes out."""
    if formula.threshold == 0.0:
        return value
    name = f"shrunk_{value}"
    nodes.append(onnx.helper.make_node("Shrink", [value], [name], lambd=formula.below_threshold, bias=0.0))
    return name


def _matrix(onnx: Any, name: str, columns: int) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", columns])


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(f"an ONNX model needs the package onnx ({error}): pip install onnx onnxruntime") from None
    return onnx
