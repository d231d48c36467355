"""A trained network for other libraries: the underflow written down as a hard shrink, at ordinary scale.

In units of 1 / scaling every operation that flushes is a hard shrink S: v stays v if abs(v) >= threshold and becomes 0
if not, with threshold = 2^-126 scaling, 0.5 by default. An elementwise operation flushes its operands too, so the
network of flush mode "boundary" is, to rounding,

    h = S(x W1 + b1)                    first layer
    h = S(S(h W) + S(b))                every other layer, the last one too

with logits h. (A network of one layer is its first formula.) Flush mode "never" has no S. "always" can't be exported:
there each multiply-add of a product flushes, which no other library's product does.

Where sums are added in another order, or a product keeps more digits of what is far below the threshold, logits differ
by some 1e-6, and a class differs only where two logits are as close as that.
"""

from fpes.export.formula import Formula, formula_of
from fpes.export.numpy_archive import read_npz, write_npz
from fpes.export.onnx_model import to_onnx, write_onnx
from fpes.export.torch_module import to_torch, write_torch

__all__ = ["Formula", "formula_of", "read_npz", "to_onnx", "to_torch", "write_npz", "write_onnx", "write_torch"]
