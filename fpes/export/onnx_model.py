"""A formula as an ONNX model: MatMul, Shrink, Add, Shrink for each layer. Input `x`, output `logits`, any batch.

Its constants are `weight_1`, `bias_1`, `weight_2`, ... Tied layers share constants, named after the first of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fpes import __version__
from fpes._checks import FloatArray
from fpes.export.formula import Formula, first_layers
from fpes.files import written_whole

_OPSET = 13  # Shrink exists since 9; every current runtime knows 13
_IR_VERSION = 8


def to_onnx(formula: Formula) -> Any:
    """The formula as an onnx.ModelProto.

    Raises:
        ImportError: the package onnx isn't installed.
    """
    onnx = _onnx()
    helper = onnx.helper
    nodes: list[Any] = []
    h = "x"
    layers = zip(first_layers(formula.weights), first_layers(formula.biases), strict=True)
    for layer, (weight, bias) in enumerate(layers, start=1):
        nodes.append(helper.make_node("MatMul", [h, f"weight_{weight}"], [f"product_{layer}"]))
        h = f"product_{layer}"
        if layer > 1:
            h = _shrunk(onnx, formula, nodes, h)
        nodes.append(helper.make_node("Add", [h, f"bias_{bias}"], [f"sum_{layer}"]))
        h = _shrunk(onnx, formula, nodes, f"sum_{layer}")
    nodes.append(helper.make_node("Identity", [h], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "fpes",
        [_matrix(onnx, "x", formula.features)],
        [_matrix(onnx, "logits", formula.classes)],
        [*_constants(onnx, "weight", formula.weights), *_constants(onnx, "bias", formula.biases)],
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
    """Write the model to a file. If writing fails, the old file remains.

    Raises:
        ImportError: the package onnx isn't installed.
        OSError: it can't be written.
    """
    contents = to_onnx(formula).SerializeToString()
    with written_whole(Path(path)) as aside:
        aside.write_bytes(contents)


def _constants(onnx: Any, name: str, arrays: tuple[FloatArray, ...]) -> list[Any]:
    """The constants of all layers. Tied layers share theirs."""
    return [
        onnx.numpy_helper.from_array(array, f"{name}_{layer}")
        for layer, (first, array) in enumerate(zip(first_layers(arrays), arrays, strict=True), start=1)
        if first == layer
    ]


def _shrunk(onnx: Any, formula: Formula, nodes: list[Any], value: str) -> str:
    """Append a Shrink of a value, if the formula has a threshold. Returns the name of the result."""
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
