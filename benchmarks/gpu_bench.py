"""What a GPU does with the kernels, beside cuBLAS, PyTorch and JAX on the same GPU in the same minutes.

Each case times its variants in turn, round by round, so that clocks and temperature are the same for all, and each
round also measures the card's own peak: independent chains of fused multiply-adds without memory. Medians over the
rounds are reported. TF32 is off everywhere: all variants multiply in float32.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other libraries need memory too
os.environ["CUPY_TF32"] = "0"

import bench_peers
import numpy as np
from bench_cases import PERTURBATIONS, SIGMA, Case, samples

import fpes
from fpes._backends import cuda_modules
from fpes._backends.cuda import cuda_backend

ROUNDS = 9
ROUND_SECONDS = 0.03  # of each variant in a round
PEAK_STEPS = 5_000
MEMBERS_AT_A_TIME = 64  # whose weights a peer materialises: 170 MB for 784-512-512-10
GEMM_SHAPES = [(4096, 4096, 4096), (8192, 512, 512), (1024, 1024, 1024)]
MNIST = "784-512-512-10"
# Of the pixels of so many random images of MNIST, how many are zero in all.
ZERO_PIXELS = {32: 0.42, 64: 0.37, 128: 0.33}


@dataclass
class Variant:
    """One row of a table."""

    name: str
    call: Callable[[], Any]
    flops: float
    of: str | None = None  # the variant whose time this one's is a fraction of
    member_samples: int | None = None
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0  # seconds of the first call, which loads code and allocates


def run(say: Callable[[str], None], budget: float) -> dict[str, Any]:
    """Measure everything; what doesn't fit into `budget` seconds is left out, and named.

    Raises:
        RuntimeError, ImportError: no GPU, no CuPy, no CUDA build.
    """
    backend = cuda_backend(None)
    import cupy

    began = time.perf_counter()
    peak = _Peak(cupy, backend)
    tables, left_out = [], []
    for title, variants in _cases(cupy):
        if time.perf_counter() - began > budget:
            left_out.append(title)
            continue
        say(title)
        with _memory_returned(cupy):
            tables.append(_measure(cupy, title, variants(), peak, say))
    return {"device": _device(cupy), "peak_tflops": peak.median() / 1e12, "tables": tables, "left_out": left_out}


def _cases(cupy: Any) -> Iterator[tuple[str, Callable[[], list[Variant]]]]:
    """Titles, and what makes the variants: only when their turn comes, for memory's sake."""
    for shape in GEMM_SHAPES:
        yield "gemm " + "x".join(map(str, shape)), lambda shape=shape: _gemm(cupy, *shape)
    for size, batch in ((1024, 32), (1024, 64), (1024, 128)):
        yield f"full rank, {MNIST}, population {size}, batch {batch}", lambda n=size, b=batch: _full_rank(cupy, n, b)
    for family, size, batch in (("low rank 1", 8192, 8), ("low rank 4", 8192, 8), ("node", 8192, 8)):
        title = f"{family}, {MNIST}, population {size}, batch {batch}"
        yield title, lambda f=family, n=size, b=batch: _shared_weights(cupy, f, n, b)
    yield f"training step, one layer at a time, {MNIST}, batch 2048, 24 + 8 + 8 draws", lambda: _training_step(cupy)


def _gemm(cupy: Any, m: int, n: int, k: int) -> list[Variant]:
    rng = np.random.default_rng(0)
    a, b = (cupy.asarray(rng.standard_normal(shape, np.float32)) for shape in ((m, k), (k, n)))
    flops = 2.0 * m * n * k
    cublas = Variant("cuBLAS (CuPy)", lambda: a @ b, flops)
    ours = [
        Variant(f'fpes, "{flush}"', lambda flush=flush: fpes.gemm(a, b, flush=flush), flops, of=cublas.name)
        for flush in ("never", "boundary", "always")
    ]
    return [*ours, cublas, *_torch_gemm(a, b, flops, cublas.name)]


def _torch_gemm(a: Any, b: Any, flops: float, of: str) -> list[Variant]:
    torch = _torch()
    if torch is None:
        return []
    left, right = torch.from_dlpack(a), torch.from_dlpack(b)
    return [Variant("PyTorch", lambda: left @ right, flops, of=of)]


def _full_rank(cupy: Any, size: int, batch: int) -> list[Variant]:
    case = Case(MNIST, "full", size, batch)
    variants = [
        *(_evaluate(cupy, case, flush, noise) for flush, noise in
          (("boundary", "binomial"), ("always", "binomial"), ("never", "binomial"), ("boundary", "rademacher"))),
        _images(cupy, case),
        _gradient(cupy, case),
        *_peers(cupy, case),
    ]  # fmt: skip
    for variant in variants[1:]:
        variant.of = variants[0].name
    return variants


def _shared_weights(cupy: Any, family: str, size: int, batch: int) -> list[Variant]:
    """Beside pure inference: the unperturbed network on as many samples as there are members times samples."""
    case = Case(MNIST, family, size, batch)
    theta, (x, _) = case.net.init(0, device="cuda"), samples(batch, case.net.features, case.net.classes)
    many = cupy.tile(cupy.asarray(x), (size, 1))
    inference = Variant("pure inference", lambda: case.net(theta, many), case.flops, member_samples=size * batch)
    ours = [_evaluate(cupy, case, flush) for flush in ("boundary", "always", "never")]
    variants = [*ours, _gradient(cupy, case), *_jax_low_rank(case, family)]
    for variant in variants:
        variant.of = inference.name
    return [inference, *variants]


def population(cupy: Any, case: Case, flush: str = "boundary", noise: str = "binomial") -> tuple[Any, Any, Any]:
    """A population on the GPU, x and labels."""
    net = case.net.with_flush(flush)
    perturbation = PERTURBATIONS[case.family] if noise == "binomial" else fpes.FullRank(noise)
    theta = net.init(0, device="cuda")
    members = fpes.Population(net, theta, size=case.size, sigma=SIGMA, perturbation=perturbation)
    return members, *(cupy.asarray(array) for array in case.data())


def _evaluate(cupy: Any, case: Case, flush: str, noise: str = "binomial") -> Variant:
    members, x, y = population(cupy, case, flush, noise)
    name = f'fpes, {case.family}, {noise}, "{flush}"'
    return Variant(name, lambda: members.evaluate(x, y), case.flops, member_samples=case.member_samples)


def _images(cupy: Any, case: Case) -> Variant:
    """Inputs as images are: some pixels are zero in all samples of the batch, which full rank leaves out."""
    members, x, y = population(cupy, case)
    x[:, : round(ZERO_PIXELS[case.batch] * case.net.features)] = 0.0
    name = f"fpes, {case.family}, {100 * ZERO_PIXELS[case.batch]:.0f} % of pixels zero in all samples"
    return Variant(name, lambda: members.evaluate(x, y), case.flops, member_samples=case.member_samples)


def _gradient(cupy: Any, case: Case) -> Variant:
    members, x, y = population(cupy, case)
    if case.family == "node":
        weights = members.evaluate(x, y, per_sample=True)
    else:
        weights = cupy.asarray(fpes.centred_ranks(cupy.asnumpy(members.evaluate(x, y))))
    flops = 2.0 * case.net.parameters * (case.member_samples if case.family == "node" else case.size / 2)
    return Variant("fpes, gradient", lambda: members.gradient(weights), flops)


def _training_step(cupy: Any) -> list[Variant]:
    case = Case(MNIST, "node", 80, 2048)
    perturbation = fpes.NodePerturbation(allocation=fpes.OneLayer(units=(16, None, None), pairs=(24, 8, 8)))
    theta = case.net.init(0, device="cuda")
    population = fpes.Population(case.net, theta, size=80, sigma=0.1, perturbation=perturbation)
    x, y = (cupy.asarray(array) for array in case.data())
    losses = population.evaluate(x, y, per_sample=True)
    dense = 2.0 * 2048 * case.net.parameters  # one unperturbed pass, all that both have in common
    return [
        Variant("fpes, evaluate", lambda: population.evaluate(x, y, per_sample=True), dense),
        Variant("fpes, gradient", lambda: population.gradient(losses), dense),
    ]


def _peers(cupy: Any, case: Case) -> list[Variant]:
    peers = {"CuPy, batched cuBLAS": bench_peers.cupy_batched(case, MEMBERS_AT_A_TIME)}
    if _torch() is not None:
        peers["PyTorch, baddbmm"] = bench_peers.torch_baddbmm(case, "cuda", MEMBERS_AT_A_TIME)
        peers["PyTorch, vmap"] = bench_peers.torch_vmap(case, "cuda", MEMBERS_AT_A_TIME)
    if _jax() is not None:
        peers["JAX, jitted vmap"] = bench_peers.jax_vmap(case, at_a_time=MEMBERS_AT_A_TIME)
    return [Variant(name, call, case.flops, member_samples=case.member_samples) for name, call in peers.items()]


def _jax_low_rank(case: Case, family: str) -> list[Variant]:
    if not family.startswith("low rank") or _jax() is None:
        return []
    call = bench_peers.jax_vmap(case, int(family.rsplit(maxsplit=1)[-1]))
    return [Variant(f"JAX, jitted vmap, {family}", call, case.flops, member_samples=case.member_samples)]


def _torch() -> Any:
    """PyTorch with CUDA and without TF32, or None."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    return torch if torch.cuda.is_available() else None


def _jax() -> Any:
    """JAX on the GPU and without TF32, or None."""
    if importlib.util.find_spec("jax") is None:
        return None
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    return jax if jax.default_backend() == "gpu" else None


class _Peak:
    """Measures the card's fused multiply-adds a second."""

    def __init__(self, cupy: Any, backend: Any) -> None:
        self._module = cuda_modules.any_module()
        self._where = self._module.Execution(int(backend.device.partition(":")[2]), 0)
        self._out = cupy.empty(1, cupy.float32)
        self._synchronise = cupy.cuda.Device().synchronize
        self.values: list[float] = []
        self.measure()  # the first call loads the code
        self.values.clear()

    def measure(self) -> float:
        """Operations a second, now."""
        self._synchronise()
        start = time.perf_counter()
        multiply_adds = self._module.multiply_add_chains(self._where, PEAK_STEPS, self._out.data.ptr)
        self._synchronise()
        self.values.append(2.0 * multiply_adds / (time.perf_counter() - start))
        return self.values[-1]

    def median(self) -> float:
        return statistics.median(self.values)


def _measure(cupy: Any, title: str, variants: list[Variant], peak: _Peak, say: Callable[[str], None]) -> dict[str, Any]:
    """Time all variants of a case in turn. One that fails is noted, and the others go on."""
    synchronise = cupy.cuda.Device().synchronize
    errors = {}
    repeats = {}
    for variant in list(variants):
        try:
            variant.first = _seconds(variant.call, 1, synchronise)
            once = _seconds(variant.call, 1, synchronise)
            repeats[variant.name] = max(1, int(ROUND_SECONDS / max(once, 1e-6)))
        except Exception as error:  # whatever a peer's library raises: the table says so
            errors[variant.name] = f"{type(error).__name__}: {error}"
            say(f"  {variant.name} failed: {errors[variant.name]}")
            variants.remove(variant)
    peaks = []
    for _ in range(ROUNDS):
        peaks.append(peak.measure())
        for variant in variants:
            variant.seconds.append(_seconds(variant.call, repeats[variant.name], synchronise))
    by_name = {variant.name: variant for variant in variants}
    return {"title": title, "rows": [_row(variant, by_name, peaks) for variant in variants], "errors": errors}


def _seconds(call: Callable[[], Any], repeats: int, synchronise: Callable[[], None]) -> float:
    synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise()
    return (time.perf_counter() - start) / repeats


def _row(variant: Variant, by_name: dict[str, Variant], peaks: list[float]) -> dict[str, Any]:
    seconds = statistics.median(variant.seconds)
    row = {
        "variant": variant.name,
        "milliseconds": 1e3 * seconds,
        "first_milliseconds": 1e3 * variant.first,
        "spread": (max(variant.seconds) - min(variant.seconds)) / seconds,
        "tflops": variant.flops / seconds / 1e12,
        "fraction_of_peak": statistics.median(
            variant.flops / t / peak for t, peak in zip(variant.seconds, peaks, strict=True)
        ),
    }
    if variant.member_samples is not None:
        row["member_samples_per_second"] = variant.member_samples / seconds
    if variant.of in by_name and variant.of != variant.name:
        other = by_name[variant.of].seconds
        row["speed_relative_to"] = variant.of
        row["relative_speed"] = statistics.median(o / t for t, o in zip(variant.seconds, other, strict=True))
    return row


@contextmanager
def _memory_returned(cupy: Any) -> Iterator[None]:
    yield
    cupy.get_default_memory_pool().free_all_blocks()
    torch = _torch()
    if torch is not None:
        torch.cuda.empty_cache()


def _device(cupy: Any) -> dict[str, Any]:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return {
        "name": properties["name"].decode(),
        "multiprocessors": properties["multiProcessorCount"],
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "memory_bytes": properties["totalGlobalMem"],
        "cupy": cupy.__version__,
        **{
            name: importlib.import_module(name).__version__
            for name in ("torch", "jax")
            if importlib.util.find_spec(name)
        },
    }
