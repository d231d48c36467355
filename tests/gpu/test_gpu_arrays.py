"""On a GPU: streams, other libraries' arrays, devices, and what goes wrong there."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import fpes

pytestmark = pytest.mark.gpu

NET = fpes.LinearNetwork([784, 512, 512, 10])
THETA = NET.init(0)
RNG = np.random.default_rng(0)
X, Y = RNG.random((64, 784), np.float32), RNG.integers(0, 10, 64)


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="NOT TESTED: PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: this PyTorch has no CUDA")
    return torch


def fitness(theta, x, y, size=8, **options):
    return fpes.Population(NET, theta, size=size, sigma=0.05).evaluate(x, y, **options).values


EXPECTED = fitness(THETA, X, Y)


def test_a_call_returns_before_the_work_is_done(cupy):
    theta, x, y = map(cupy.asarray, (THETA, X, Y))
    fitness(theta, x, y)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        results = [fitness(theta, x, y, size=8192) for _ in range(4)]
        assert not stream.done
    stream.synchronize()
    for result in results:
        oracle.assert_bitwise_equal(cupy.asnumpy(result[:8]), EXPECTED)


def test_work_follows_what_is_on_the_current_stream(cupy):
    """Inputs that are still being made on the same stream are waited for; no other stream is."""
    theta, y = cupy.asarray(THETA), cupy.asarray(Y)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.zeros_like(cupy.asarray(X))
        busy = cupy.ones((4096, 4096), cupy.float32)
        for _ in range(20):
            busy = busy @ busy * cupy.float32(1e-4)
        x += cupy.asarray(X)
        got = fitness(theta, x, y)
        stream.synchronize()
    oracle.assert_bitwise_equal(cupy.asnumpy(got), EXPECTED)


@pytest.mark.parametrize("perturbation", [fpes.FullRank(), fpes.NodePerturbation()], ids=repr)
def test_a_gradient_on_another_stream_than_its_evaluation(cupy, perturbation):
    """Nobody but fpes orders the streams: one evaluates, one makes the gradient, the first reuses what was dropped."""

    def population(theta):
        return fpes.Population(NET, theta, size=8, sigma=0.05, perturbation=perturbation)

    expected = population(THETA).gradient(population(THETA).evaluate(X, Y))
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with first:
        theta, x, y = map(cupy.asarray, (THETA, X, Y))
        busy = cupy.ones((4096, 4096), cupy.float32)
        for _ in range(20):
            busy = busy @ busy * cupy.float32(1e-4)
        members = population(theta)
        evaluation = members.evaluate(x, y)
    with second:
        gradient = members.gradient(evaluation)
    del members, evaluation
    with first:
        for size in (8, X.size, THETA.size):
            cupy.full(size, cupy.nan, cupy.float32)
    second.synchronize()
    oracle.assert_bitwise_equal(cupy.asnumpy(gradient), expected)


def test_a_tensor_that_is_dropped_early(cupy, torch):
    theta, y = torch.from_numpy(THETA).cuda(), torch.from_numpy(Y).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        x = torch.from_numpy(X).cuda()
        with cupy.cuda.Stream(non_blocking=True) as stream:
            busy = cupy.ones((4096, 4096), cupy.float32)
            for _ in range(20):
                busy = busy @ busy * cupy.float32(1e-4)
            got = fitness(theta, x, y)
        del x
        torch.full(X.shape, torch.nan, device="cuda")
        stream.synchronize()
    oracle.assert_bitwise_equal(cupy.asnumpy(got), EXPECTED)


def test_pytorch_tensors(cupy, torch):
    tensors = [torch.from_numpy(array).cuda() for array in (THETA, X, Y)]
    got = fitness(*tensors)
    assert isinstance(got, cupy.ndarray)
    oracle.assert_bitwise_equal(cupy.asnumpy(got), EXPECTED)
    assert torch.from_dlpack(got).data_ptr() == got.data.ptr


def test_pytorch_work_on_another_stream_is_waited_for(cupy, torch):
    theta, y = torch.from_numpy(THETA).cuda(), torch.from_numpy(Y).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        busy = torch.ones(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy * 1e-4
        x = torch.from_numpy(X).cuda() + 0 * busy[:1, :1]
        with cupy.cuda.Stream(non_blocking=True) as stream:
            got = fitness(theta, x, y)
            stream.synchronize()
    oracle.assert_bitwise_equal(cupy.asnumpy(got), EXPECTED)


def test_a_tensor_that_requires_grad(cupy, torch):
    tensor = torch.from_numpy(X).cuda().requires_grad_()
    with pytest.raises(TypeError, match=r"x is a torch\.Tensor that can't be shared with CuPy"):
        NET(cupy.asarray(THETA), tensor)


def test_cuda_array_interface_with_a_stream(cupy):
    class Described:
        def __init__(self, array):
            self.array, self.__cuda_array_interface__ = array, array.__cuda_array_interface__

    got = fitness(*(Described(cupy.asarray(array)) for array in (THETA, X, Y)))
    oracle.assert_bitwise_equal(cupy.asnumpy(got), EXPECTED)


def test_mixed_devices(cupy):
    with pytest.raises(ValueError, match="theta is on cuda:0 and x on the CPU"):
        fitness(cupy.asarray(THETA), X, Y)
    if cupy.cuda.runtime.getDeviceCount() > 1:
        with cupy.cuda.Device(1):
            x = cupy.asarray(X)
        with pytest.raises(ValueError, match="theta is on cuda:0 and x on cuda:1"):
            NET(cupy.asarray(THETA), x)


def test_every_device(cupy):
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(device):
            arrays = [cupy.asarray(array) for array in (THETA, X, Y)]
        got = fitness(*arrays)
        assert got.device.id == device
        oracle.assert_bitwise_equal(cupy.asnumpy(got), EXPECTED)


def test_no_such_device(cupy):
    with pytest.raises(ValueError, match="device is 'cuda:99', expected 'cuda:0' to"):
        NET.init(device="cuda:99")


def test_out_of_memory_says_how_much_and_what_to_lower(cupy):
    population = fpes.Population(NET, cupy.asarray(THETA), size=2**30, sigma=0.1)
    with pytest.raises(MemoryError, match=r"cuda:0 has no room for 2560\.0 GiB of the result: use a smaller batch"):
        population.forward(cupy.asarray(X))
    oracle.assert_bitwise_equal(cupy.asnumpy(fitness(*map(cupy.asarray, (THETA, X, Y)))), EXPECTED)


def test_bad_values_give_nan(cupy):
    theta, x, y = map(cupy.asarray, (THETA, X, Y))
    for bad in (-1, 10, 2**40):
        wrong = y.copy()
        wrong[5] = bad
        assert bool(cupy.isnan(fitness(theta, x, wrong)).all()), bad
        losses = fitness(theta, x, wrong, per_sample=True)
        assert bool(cupy.isnan(losses[:, 5]).all())
        assert not bool(cupy.isnan(cupy.delete(losses, 5, axis=1)).any())
    weights = cupy.full(8, 2**30 + 1, cupy.int32)  # beyond what full rank's kernels add up exactly
    assert bool(cupy.isnan(fpes.Population(NET, theta, size=8, sigma=0.1).gradient(weights)).all())


def test_build_config_names_the_gpu(cupy):
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    assert fpes.build_config()["cuda"]["devices"][0] == name
