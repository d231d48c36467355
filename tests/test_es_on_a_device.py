"""Training on a GPU, without one: the state stays on the host, and the bits are those of the CPU."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from training_run import SETTINGS, beginning, dataset

import fpes

cuda_double = pytest.importorskip("cuda_double", reason="the stand-in for CUDA comes with the CUDA backend")
fake_cupy = pytest.importorskip("fake_cupy", reason="the stand-in for CuPy comes with the CUDA backend")


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    cuda_double.install(monkeypatch, {build: cuda_double.CpuKernels(build) for build in ("ftz", "ieee")})


def test_half_a_run_on_each_device_comes_to_the_same_bits(tmp_path):
    whole = beginning()
    whole.fit(dataset(), **SETTINGS)
    half = beginning()

    def stop(es):
        if es.generation == 90:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half.fit(dataset(), **SETTINGS, checkpoint=tmp_path / "run.npz", after_step=stop)
    rest = fpes.ES.load(tmp_path / "run.npz", device="cuda")
    assert isinstance(rest.ask().theta, fake_cupy.ndarray)
    rest.fit(dataset())
    oracle.assert_bitwise_equal(rest.theta, whole.theta)


@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.LowRank(2)], ids=repr)
def test_ask_and_tell(perturbation):
    net = fpes.LinearNetwork([5, 7, 3])
    x, y = np.random.default_rng(0).random((9, 5), np.float32), np.arange(9) % 3
    runs = [fpes.ES(net, net.init(0), size=8, sigma=0.1, perturbation=perturbation, device=d) for d in ("cpu", "cuda")]
    for _ in range(3):
        runs[0].tell(runs[0].ask().evaluate(x, y))
        runs[1].tell(runs[1].ask().evaluate(cuda_double.on_gpu(x), cuda_double.on_gpu(y)))
    oracle.assert_bitwise_equal(runs[1].theta, runs[0].theta)
