"""The same weights in PyTorch: a formula that gives the right classes, and other ways, most of which don't.

    python examples/other_libraries.py                   # trains for some seconds first; needs PyTorch
    python examples/other_libraries.py CHECKPOINT        # the checkpoint of a network trained on the digits

The script compares the formula of docs/export.md with the obvious first tries: one hard shrink after each layer, and
PyTorch's own switch for flushing, which acts on one *thread* only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

import fpes
from fpes.export import formula_of, to_torch

Logits = np.ndarray


def trained() -> fpes.ES:
    """A network for the digits, after a few seconds of evolution strategies."""
    net = fpes.LinearNetwork([16, 64, 64, 10])
    es = fpes.ES(net, net.init(0), size=256, sigma=0.05, learning_rate=fpes.Cosine(0.02), weight_decay=0.1)
    es.fit(fpes.datasets.load("digits"), steps=150, batch=128)
    return es


def layer_by_layer(net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray, step: Callable) -> Logits:
    """h = step(h, W, b, first) for every layer, in ordinary units."""
    h = torch.from_numpy(x)
    for layer, (weight, bias) in enumerate(net.unpack(theta)):
        h = step(h, torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy()), layer == 0)
    return h.numpy()


def one_shrink_a_layer(h, weight, bias, first):
    """Wrong: an elementwise operation flushes its operands too."""
    return torch.nn.functional.hardshrink(h @ weight + bias, 0.49999997)


@contextmanager
def flushing(threads: int) -> Iterator[None]:
    """PyTorch with this number of threads. Only the calling thread flushes underflow."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def at_tiny_scale(net: fpes.LinearNetwork, theta: np.ndarray, x: np.ndarray, product: Callable) -> Logits:
    """The published network, at a scale of 2^-125, with the given matrix product."""
    h = torch.from_numpy(x)
    scaling = float(net.scaling)
    for layer, (weight, bias) in enumerate(net.unpack(theta)):
        w, b = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
        h = (product(h, w) + b) / scaling if layer == 0 else product(h, w) + b / scaling
    return (h * scaling).numpy()


def keeping_product(h, weight):
    """A product without flushing. This is flush mode "boundary", as long as there is only one thread."""
    torch.set_flush_denormal(False)
    try:
        return h @ weight
    finally:
        torch.set_flush_denormal(True)


def compare(es: fpes.ES, data: fpes.datasets.Dataset) -> list[tuple[str, float, int]]:
    """For every way: (name, accuracy on the test part, number of samples whose class differs from that of fpes)."""
    net, theta, x = es.net, es.solution, data.x_test
    ours = net(theta, x)
    results = {'fpes, flush "boundary"': ours, 'fpes, flush "always"': net.with_flush("always")(theta, x)}
    with torch.no_grad():
        formula = to_torch(formula_of(net, theta))
        results["PyTorch, S(S(h W) + S(b))"] = formula(torch.from_numpy(x)).numpy()
        results["PyTorch, S(h W + b)"] = layer_by_layer(net, theta, x, one_shrink_a_layer)
        for threads in (1, 2):
            with flushing(threads):
                results[f"PyTorch at 2^-125, flush_denormal everywhere, {threads} thread(s)"] = at_tiny_scale(
                    net, theta, x, torch.matmul
                )
            with flushing(threads):
                results[f"PyTorch at 2^-125, off around products, {threads} thread(s)"] = at_tiny_scale(
                    net, theta, x, keeping_product
                )
    best = ours.argmax(1)
    return [
        (name, float((logits.argmax(1) == data.y_test).mean()), int((logits.argmax(1) != best).sum()))
        for name, logits in results.items()
    ]


def main() -> None:
    """Print a line for each way."""
    es = fpes.ES.load(sys.argv[1]) if len(sys.argv) > 1 else trained()
    data = fpes.datasets.load("digits", seed=es.seed)
    print(f"{'':62} test, %   other classes")
    for name, accuracy, others in compare(es, data):
        print(f"{name:62} {100 * accuracy:7.1f}   {others:6d} of {len(data.x_test)}")


if __name__ == "__main__":
    main()
