"""Exports of a trained network to other libraries. Underflow becomes a hard shrink at ordinary scale.

In units of 1 / scaling every operation that flushes is a hard shrink S: v stays v if abs(v) >= threshold, else it
becomes 0, with threshold = 2^-126 scaling, 0.5 by default. An elementwise operation flushes its operands too. So, up to
rounding, the network of flush mode "boundary" is

    h = S(x W1 + b1)                    first layer
    h = S(S(h W) + S(b))                every other layer, also the last

The last h holds the logits. (For a network of one layer only the first formula applies.) Flush mode "never" has no S.
"always" can't be exported, because each multiply-add of a product flushes, and other libraries can't do this.

Logits of other libraries differ by about 1e-6, because they add in another order or keep more digits of numbers far
below the threshold. A class differs only if two logits are as close as that.
"""

from fpes.export.formula import Formula, formula_of
from fpes.export.numpy_archive import read_npz, write_npz
from fpes.export.onnx_model import to_onnx, write_onnx
from fpes.export.torch_module import to_torch, write_torch

__all__ = ["Formula", "formula_of", "read_npz", "to_onnx", "to_torch", "write_npz", "write_onnx", "write_torch"]
