"""What a user would take instead: the same population on the same samples with NumPy, PyTorch and JAX.

Each peer draws its own noise in every evaluation, as ES does in every generation, and returns the mean cross-entropy of
every member. None of them can flush the way fpes does, and none is asked to. `device` and `at_a_time`, the members
whose weights are materialised together, are for GPUs (gpu_bench.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bench_cases import SIGMA, Case

# Members whose weights are materialised at a time: 43 MB of them for 784-512-512-10.
AT_A_TIME = 16


def require(name: str) -> None:
    """Skip, and say so, where a peer isn't installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"NOT COMPARED: {name} is not installed (pip install {name})")


def gemm(name: str, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
    """The matrix product of a peer."""
    require(name)
    if name == "numpy":
        return lambda: a @ b
    import torch

    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: left @ right


def numpy_full(case: Case) -> Callable[[], np.ndarray]:
    """A loop over antithetic pairs, a perturbed copy of the weights for each member."""
    x, y = case.data()
    layers = case.net.unpack(case.net.init(0))
    scaling = np.float32(case.net.scaling)
    rng = np.random.default_rng(0)
    rows = np.arange(case.batch)

    def member(signed: list[tuple[np.ndarray, np.ndarray]]) -> float:
        h = x
        for number, (weight, bias) in enumerate(signed):
            h = (h @ weight + bias) / scaling if number == 0 else h @ weight + bias / scaling
        logits = h * scaling
        logits -= logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[rows, y]))

    def evaluate() -> np.ndarray:
        losses = []
        for _ in range(case.size // 2):
            noise = [[SIGMA * rng.standard_normal(p.shape, np.float32) for p in layer] for layer in layers]
            for sign in (1, -1):
                pairs = zip(layers, noise, strict=True)
                losses.append(member([(w + sign * zw, b + sign * zb) for (w, b), (zw, zb) in pairs]))
        return np.array(losses)

    return evaluate


def torch_baddbmm(case: Case, device: str = "cpu", at_a_time: int = AT_A_TIME) -> Callable[[], Any]:
    """Weights of some members at a time, materialised, and batched matrix products."""
    require("torch")
    import torch

    x, y = (torch.from_numpy(array).to(device) for array in case.data())
    layers = [[torch.from_numpy(p).to(device) for p in layer] for layer in case.net.unpack(case.net.init(0))]
    scaling = case.net.scaling

    def members(pairs: int) -> torch.Tensor:
        h = x.expand(2 * pairs, -1, -1)
        for number, (weight, bias) in enumerate(layers):
            z = SIGMA * torch.randn(pairs, *weight.shape, device=device)
            zb = SIGMA * torch.randn(pairs, 1, bias.shape[0], device=device)
            w, b = torch.cat([weight + z, weight - z]), torch.cat([bias + zb, bias - zb])
            h = torch.baddbmm(b, h, w) / scaling if number == 0 else torch.baddbmm(b / scaling, h, w)
        labels = y.expand(2 * pairs, -1).reshape(-1)
        losses = torch.nn.functional.cross_entropy((h * scaling).flatten(0, 1), labels, reduction="none")
        return losses.view(2 * pairs, -1).mean(1)

    def evaluate() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([members(at_a_time // 2) for _ in range(case.size // at_a_time)])

    return evaluate


def torch_vmap(case: Case, device: str = "cpu", at_a_time: int = AT_A_TIME) -> Callable[[], Any]:
    """torch.func.vmap over a function of one member's noise."""
    require("torch")
    import torch

    x, y = (torch.from_numpy(array).to(device) for array in case.data())
    layers = [[torch.from_numpy(p).to(device) for p in layer] for layer in case.net.unpack(case.net.init(0))]
    scaling = case.net.scaling

    def loss(*noise: torch.Tensor) -> torch.Tensor:
        h = x
        for number, (weight, bias) in enumerate(layers):
            w, b = weight + SIGMA * noise[2 * number], bias + SIGMA * noise[2 * number + 1]
            h = (h @ w + b) / scaling if number == 0 else h @ w + b / scaling
        return torch.nn.functional.cross_entropy(h * scaling, y)

    each = torch.func.vmap(loss)

    def members(pairs: int) -> torch.Tensor:
        draws = [torch.randn(pairs, *p.shape, device=device) for layer in layers for p in layer]
        return each(*(torch.cat([z, -z]) for z in draws))

    def evaluate() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([members(at_a_time // 2) for _ in range(case.size // at_a_time)])

    return evaluate


def jax_vmap(case: Case, rank: int | None = None, at_a_time: int = AT_A_TIME) -> Callable[[], Any]:
    """A jitted vmap over random keys, as evosax does it; full rank, or low rank applied to the activations."""
    require("jax")
    import jax
    import jax.numpy as jnp

    x, y = map(jnp.asarray, case.data())
    layers = [tuple(map(jnp.asarray, layer)) for layer in case.net.unpack(case.net.init(0))]
    scaling = np.float32(case.net.scaling)

    def product(h: Any, weight: Any, key: Any, sign: Any) -> Any:
        if rank is None:
            return h @ (weight + sign * SIGMA * jax.random.normal(key, weight.shape))
        a = jax.random.normal(jax.random.fold_in(key, 1), (weight.shape[0], rank))
        b = jax.random.normal(jax.random.fold_in(key, 2), (rank, weight.shape[1]))
        return h @ weight + (h @ a * (sign * SIGMA / np.sqrt(rank))) @ b

    def loss(key: Any, sign: Any) -> Any:
        h = x
        for number, (weight, bias) in enumerate(layers):
            own = jax.random.fold_in(key, number)
            b = bias + sign * SIGMA * jax.random.normal(jax.random.fold_in(own, 3), bias.shape)
            h = product(h, weight, own, sign)
            h = (h + b) / scaling if number == 0 else h + b / scaling
        logits = h * scaling
        chosen = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.scipy.special.logsumexp(logits, axis=1) - chosen)

    pair = jax.vmap(loss, in_axes=(None, 0))

    @jax.jit
    def evaluate_all(key: Any) -> Any:
        keys = jax.random.split(key, case.size // 2)
        signs = jnp.array([1.0, -1.0])
        if rank is None:  # materialised weights of all members at once would not fit most machines
            return jax.lax.map(lambda k: pair(k, signs), keys, batch_size=at_a_time // 2)
        return jax.vmap(lambda k: pair(k, signs))(keys)

    key = jax.random.key(0)
    return lambda: evaluate_all(key).block_until_ready()


def cupy_batched(case: Case, at_a_time: int = AT_A_TIME) -> Callable[[], Any]:
    """Weights of some members at a time, materialised by CuPy, and batched products of cuBLAS."""
    import cupy

    x, y = map(cupy.asarray, case.data())
    layers = [tuple(map(cupy.asarray, layer)) for layer in case.net.unpack(case.net.init(0))]
    scaling = np.float32(case.net.scaling)
    rows = cupy.arange(case.batch)

    def both(parameter: Any, pairs: int) -> Any:
        z = np.float32(SIGMA) * cupy.random.standard_normal((pairs, *parameter.shape), dtype=cupy.float32)
        return cupy.concatenate([parameter + z, parameter - z])

    def members(pairs: int) -> Any:
        h = x
        for number, (weight, bias) in enumerate(layers):
            w, b = both(weight, pairs), both(bias, pairs)[:, None]
            h = (cupy.matmul(h, w) + b) / scaling if number == 0 else cupy.matmul(h, w) + b / scaling
        logits = h * scaling
        logits -= logits.max(axis=2, keepdims=True)
        return (cupy.log(cupy.exp(logits).sum(axis=2)) - logits[:, rows, y]).mean(axis=1)

    def evaluate() -> Any:
        return cupy.concatenate([members(at_a_time // 2) for _ in range(case.size // at_a_time)])

    return evaluate
