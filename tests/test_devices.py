"""Arrays on GPUs: where they are computed, on which stream, what is refused.

Without a GPU: CuPy is replaced by a double whose device memory is the host's. Most tests put functions of the CPU
backend in the place of the kernels, and look at how they are called; some run the kernels themselves, by the shim.
"""

from __future__ import annotations

import operator
import subprocess
import sys
from types import SimpleNamespace

import cuda_double
import fake_cupy
import numpy as np
import oracle
import pytest
from cuda_double import host, on_gpu

import fpes
from fpes._backends import cuda as cuda_backend_module

SIZES = [5, 7, 6, 3]
SIZE, BATCH = 12, 9
RNG = np.random.default_rng(0)
X = RNG.random((BATCH, 5), np.float32)
GROUPED = RNG.random((3, BATCH, 5), np.float32)
Y = RNG.integers(0, 3, BATCH)
INTEGERS = RNG.integers(-9, 9, SIZE).astype(np.int32)
FLOATS = RNG.standard_normal(SIZE, np.float32)
PERTURBATIONS = {
    "full": fpes.FullRank(),
    "low rank": fpes.LowRank(2, noise="gaussian"),
    "node": fpes.NodePerturbation(noise="rademacher"),
    "one layer": fpes.NodePerturbation(allocation=fpes.OneLayer(units=(2, None, None), pairs=(1, 1, 1))),
    "one layer, low rank": fpes.LowRank(allocation=fpes.OneLayer(units=(2, None, None), pairs=(1, 1, 1))),
}
each_flush = pytest.mark.parametrize("flush", oracle.FLUSH_MODES)


@pytest.fixture
def modules(monkeypatch):
    """The double, with both builds."""
    builds = {build: cuda_double.CpuKernels(build) for build in ("ftz", "ieee")}
    cuda_double.install(monkeypatch, builds)
    yield builds
    assert not fake_cupy.state.waits, "the host waited for the device"


@pytest.fixture
def shim(monkeypatch):
    """The double, with the kernels themselves."""
    cuda_double.install(monkeypatch, cuda_double.shim())
    yield
    assert not fake_cupy.state.waits, "the host waited for the device"


def network(flush="boundary"):
    return fpes.LinearNetwork(SIZES, flush=flush)


def population(theta, family="full", flush="boundary", **changes):
    options = {"size": SIZE, "sigma": 0.1, "perturbation": PERTURBATIONS[family], "seed": 3, **changes}
    return fpes.Population(network(flush), theta, **options)


def everything(place, flush):
    """(name, result) of every call that computes, on arrays put somewhere by `place`."""
    net = network(flush)
    theta = place(net.init(1))
    yield "gemm", fpes.gemm(place(X), place(X.T), flush=flush)
    yield "bias_add", fpes.bias_add(place(X), place(X[0]), flush=flush)
    yield "multiply", fpes.multiply(place(X), 1e-38, flush=flush)
    yield "network", net(theta, place(X))
    yield "weights of layer 1", net.unpack(theta)[1][0]
    for family in PERTURBATIONS:
        members = population(theta, family, flush)
        yield f"evaluate {family}", members.evaluate(place(X), place(Y))
        yield f"evaluate groups {family}", members.evaluate(place(GROUPED), place(np.stack([Y, Y, Y])), chunk=4)
        losses = members.evaluate(place(X), place(Y), per_sample=True)
        yield f"evaluate samples {family}", losses
        yield f"forward {family}", members.forward(place(X), chunk=6)
        yield f"gradient {family}", members.gradient(place(FLOATS), losses)
        if "rank" in family or family == "full":
            yield f"member {family}", members.member(3)
            yield f"integer gradient {family}", members.gradient(place(INTEGERS))
            yield f"64-bit integer gradient {family}", members.gradient(place(INTEGERS.astype(np.int64)))
        else:
            yield f"gradient of samples {family}", members.gradient(losses)


@each_flush
def test_the_same_bits_as_on_the_cpu(modules, flush):
    for (name, actual), (_, expected) in zip(everything(on_gpu, flush), everything(np.array, flush), strict=True):
        oracle.assert_bitwise_equal(host(actual), expected, name)


@each_flush
def test_the_way_to_the_kernels(shim, flush):
    """From the Python call through the binding to the CUDA sources, and back with the bits of the CPU."""
    for (name, actual), (_, expected) in zip(everything(on_gpu, flush), everything(np.array, flush), strict=True):
        oracle.assert_bitwise_equal(host(actual), expected, name)


def test_what_makes_arrays(modules):
    draws = {"layer": 1, "role": "node", "pair": 2, "count": 100}
    oracle.assert_bitwise_equal(
        host(fpes.noise("gaussian", 3, device="cuda", **draws)), fpes.noise("gaussian", 3, **draws)
    )
    theta = network().init(7, device="cuda:1")
    oracle.assert_bitwise_equal(host(theta), network().init(7))
    assert theta.device.id == 1


@each_flush
def test_the_build_of_a_flush_mode(modules, flush):
    fpes.gemm(on_gpu(X), on_gpu(X.T), flush=flush)
    assert [len(modules[build].calls) for build in ("ftz", "ieee")] == ([0, 1] if flush == "never" else [1, 0])


@pytest.mark.parametrize("device", [0, 1])
def test_device_and_stream_of_a_call(modules, device):
    with fake_cupy.on_stream(0x77):
        members = population(on_gpu(network().init(0), device))
        results = [
            members.evaluate(on_gpu(X, device), on_gpu(Y, device)),
            members.forward(on_gpu(X, device)),
            members.gradient(on_gpu(FLOATS, device)),
        ]
    assert [result.device.id for result in results] == [device] * 3
    assert {(e.device, e.stream) for _, e in modules["ftz"].calls} == {(device, 0x77)}
    assert fake_cupy.state.current_device == 0


def test_a_capture_that_needs_scratch_memory_is_refused(modules):
    """A graph keeps addresses, and scratch memory goes back to the pool."""
    members, x, y = population(on_gpu(network().init(0))), on_gpu(X), on_gpu(Y)
    fake_cupy.state.capturing.add(0x77)
    with fake_cupy.on_stream(0x77), pytest.raises(RuntimeError, match="cuda:0: CuPy's current stream is capturing"):
        members.evaluate(x, y)
    assert not modules["ftz"].calls
    assert not fake_cupy.state.allocations
    fake_cupy.state.default_stream_blocked = True
    with pytest.raises(RuntimeError, match="call it outside the capture"):
        members.evaluate(x, y)
    fake_cupy.state.default_stream_blocked = False
    with fake_cupy.on_stream(0x78):
        members.evaluate(x, y)


def test_members_are_split_where_scratch_memory_grows(modules, monkeypatch):
    theta, x, y = on_gpu(network().init(0)), on_gpu(X), on_gpu(Y)
    whole = host(population(theta).evaluate(x, y))
    assert len(modules["ftz"].calls) == 1
    modules["ftz"].workspace_of_a_pair = 1000
    monkeypatch.setattr(cuda_backend_module, "_WORKSPACE_BYTES", cuda_double.WORKSPACE + 3000)
    split = host(population(theta).evaluate(x, y))
    assert len(modules["ftz"].calls) == 1 + 2
    assert max(fake_cupy.state.allocations) == cuda_double.WORKSPACE + 3000
    oracle.assert_bitwise_equal(split, whole)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fpes.gemm(on_gpu(X), X.T), r"a is on cuda:0 and b on the CPU.*cupy\.asarray"),
        (lambda: fpes.bias_add(X, on_gpu(X[0])), "v is on the CPU and b on cuda:0"),
        (lambda: fpes.gemm(on_gpu(X), on_gpu(X.T, 1)), "a is on cuda:0 and b on cuda:1"),
        (lambda: network()(network().init(0), on_gpu(X)), "theta is on the CPU and x on cuda:0"),
        (lambda: population(on_gpu(network().init(0))).evaluate(on_gpu(X), Y), "theta is on cuda:0 and y on the CPU"),
        (lambda: population(on_gpu(network().init(0))).evaluate(on_gpu(X), Y.tolist()), "y on the CPU"),
        (lambda: population(on_gpu(network().init(0))).forward(X), "theta is on cuda:0 and x on the CPU"),
        (lambda: population(on_gpu(network().init(0))).gradient(FLOATS), "theta is on cuda:0 and weights on the CPU"),
        (lambda: population(network().init(0)).gradient(on_gpu(FLOATS)), "theta is on the CPU and weights on cuda:0"),
    ],
)
def test_mixed_devices_are_refused(modules, call, words):
    with pytest.raises(ValueError, match=words):
        call()
    assert not modules["ftz"].calls


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fpes.gemm(on_gpu(X.astype(float)), on_gpu(X.T)), TypeError, "a has dtype float64, expected float32"),
        (lambda: fpes.gemm(on_gpu(X), on_gpu(X)), ValueError, r"b has shape \(9, 5\), expected \[5, n\]"),
        (lambda: population(on_gpu(X[0])), ValueError, r"theta has shape \(5,\)"),
        (
            lambda: population(on_gpu(network().init(0))).evaluate(on_gpu(X), on_gpu(Y.astype(np.float32))),
            TypeError,
            "y has dtype float32, expected integer labels",
        ),
        (
            lambda: population(on_gpu(network().init(0))).evaluate(on_gpu(X), on_gpu(Y[1:])),
            ValueError,
            r"y has shape \(8,\), expected \[9\]",
        ),
        (
            lambda: population(on_gpu(network().init(0))).gradient(on_gpu(INTEGERS[1:])),
            ValueError,
            r"weights has shape \(11,\)",
        ),
        (lambda: network().init(device="tpu"), ValueError, "device is 'tpu', expected 'cpu', 'cuda'"),
        (lambda: network().init(device="cuda:x"), ValueError, "device is 'cuda:x'"),
        (lambda: network().init(device="cuda:2"), ValueError, "device is 'cuda:2', expected 'cuda:0' to 'cuda:1'"),
        (lambda: network().init(device=0), TypeError, "device is 0, expected a string"),
    ],
)
def test_bad_arrays_and_devices_are_refused(modules, call, error, words):
    with pytest.raises(error, match=words):
        call()
    assert not modules["ftz"].calls


def test_gaps_are_copied_on_the_device(modules):
    wide = on_gpu(np.repeat(X, 2, axis=1))
    oracle.assert_bitwise_equal(host(fpes.gemm(wide[:, ::2], on_gpu(X.T))), fpes.gemm(X, np.ascontiguousarray(X.T)))


@pytest.mark.parametrize("family", ["full", "one layer", "one layer, low rank"])
def test_the_trainer_goes_the_same_way_on_a_gpu(monkeypatch, family):
    cuda_double.install(monkeypatch, cuda_double.shim())
    options = {"size": SIZE, "sigma": 0.1, "perturbation": PERTURBATIONS[family], "seed": 5}
    trainers = [fpes.ES(network(), network().init(1), device=device, **options) for device in ("cpu", "cuda")]
    per_sample = family == "one layer"
    for _ in range(3):
        for es, place in zip(trainers, (np.asarray, on_gpu), strict=True):
            es.tell(es.ask().evaluate(place(X), place(Y), per_sample=per_sample))
    oracle.assert_bitwise_equal(trainers[1].theta, trainers[0].theta)


# --- what only the values would tell: NaN, never a wrong number -------------------------------------------------------


def labels_seen_by_the_kernel(modules, y):
    seen = []
    kernels = modules["ftz"]
    population_evaluate = type(kernels).__getattr__(kernels, "population_evaluate")

    def look(execution, *arguments):
        loss, address = arguments[7]
        seen.append(np.ctypeslib.as_array((np.ctypeslib.ctypes.c_int32 * BATCH).from_address(address)).copy())
        population_evaluate(execution, *arguments[:7], (loss, good.data.ptr), *arguments[8:])

    good = on_gpu(Y.astype(np.int32))
    kernels.population_evaluate = look
    population(on_gpu(network().init(0))).evaluate(on_gpu(X), on_gpu(y))
    return seen[0]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint32, np.uint64])
def test_labels_are_narrowed_without_wrapping_round(modules, dtype):
    y = Y.astype(dtype)
    np.testing.assert_array_equal(labels_seen_by_the_kernel(modules, y), Y)
    y[2] = np.iinfo(dtype).max
    y[3] = np.iinfo(dtype).min
    got = labels_seen_by_the_kernel(modules, y)
    assert got[2] >= 3
    assert got[3] == 0 if np.iinfo(dtype).min == 0 else got[3] < 0
    np.testing.assert_array_equal(np.delete(got, [2, 3]), np.delete(Y, [2, 3]))


@pytest.mark.parametrize("family", PERTURBATIONS)
@pytest.mark.parametrize("bad", [-1, 3, 2**40])
def test_labels_out_of_range_give_nan(shim, family, bad):
    y = Y.copy()
    y[5] = bad
    members = population(on_gpu(network().init(0)), family)
    losses = host(members.evaluate(on_gpu(X), on_gpu(y), per_sample=True))
    expected = population(network().init(0), family).evaluate(X, Y, per_sample=True)
    assert np.isnan(losses[:, 5]).all()
    oracle.assert_bitwise_equal(np.delete(losses, 5, axis=1), np.delete(expected, 5, axis=1))
    assert np.isnan(host(members.evaluate(on_gpu(X), on_gpu(y)))).all()


@pytest.mark.parametrize("family", ["full", "low rank"])
@pytest.mark.parametrize("bad", [2**30 + 1, -(2**30) - 1, 2**40 + 1])
def test_integers_too_large_for_an_exact_gradient_give_nan(modules, family, bad):
    weights = INTEGERS.astype(np.int64)
    weights[4] = bad
    gradient = host(population(on_gpu(network().init(0)), family).gradient(on_gpu(weights)))
    assert np.isnan(gradient).all()


# --- arrays of other libraries ----------------------------------------------------------------------------------------


class Tensor:
    """As PyTorch's on a GPU: DLPack with a stream, and the older interface, which knows none."""

    def __init__(self, array, device=2, refuses=None):
        self.array, self.kind, self.refuses, self.streams = array, device, refuses, []

    def __dlpack_device__(self):
        return self.kind, self.array.device.id

    def __dlpack__(self, *, stream):
        if self.refuses:
            raise self.refuses
        self.streams.append(stream)
        return self.array


class Described:
    """As Numba's and others': __cuda_array_interface__ alone."""

    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}


def test_dlpack_is_taken_without_a_copy_and_told_our_stream(modules):
    tensor = Tensor(on_gpu(X))
    with fake_cupy.on_stream(0x55):
        result = fpes.gemm(tensor, on_gpu(X.T))
    oracle.assert_bitwise_equal(host(result), fpes.gemm(X, np.ascontiguousarray(X.T)))
    assert tensor.streams == [0x55]
    theta = Tensor(on_gpu(network().init(0)))
    assert population(theta).theta.data.ptr == theta.array.data.ptr


def test_the_allocator_of_pytorch_is_told_which_stream_uses_a_tensor(modules, monkeypatch):
    class TorchTensor(Tensor):
        device, told = "cuda:0", None

        def record_stream(self, stream):
            self.told = stream

    cuda = SimpleNamespace(
        ExternalStream=lambda handle, device: (handle, device), default_stream=lambda device: ("default", device)
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=TorchTensor, cuda=cuda))
    tensor = TorchTensor(on_gpu(X))
    fpes.multiply(tensor, 2.0)
    assert tensor.told == ("default", "cuda:0")
    with fake_cupy.on_stream(0x55):
        fpes.multiply(tensor, 2.0)
    assert tensor.told == (0x55, "cuda:0")
    fpes.multiply(Tensor(on_gpu(X)), 2.0)


def test_dlpack_on_the_cpu_is_not_taken_for_a_gpu_array():
    with pytest.raises(TypeError, match=r"a is a test_devices\.Tensor that NumPy can't read"):
        fpes.gemm(Tensor(on_gpu(X), device=1), X.T)


def test_a_tensor_that_refuses_is_told_so(modules):
    tensor = Tensor(on_gpu(X), refuses=BufferError("it requires grad: use tensor.detach()"))
    with pytest.raises(TypeError, match=r"a is a test_devices\.Tensor that can't be shared.*requires grad"):
        fpes.gemm(tensor, on_gpu(X.T))


def test_the_stream_of_an_interface_is_waited_for_on_the_device(modules):
    array = on_gpu(np.ascontiguousarray(X))
    with fake_cupy.on_stream(0x55):
        result = fpes.gemm(Described(array, stream=0x99), on_gpu(X.T))
    oracle.assert_bitwise_equal(host(result), fpes.gemm(X, np.ascontiguousarray(X.T)))
    assert fake_cupy.state.events == [("wait", 0x55, 0x99)]


def test_an_interface_without_a_stream_needs_no_waiting(modules):
    fpes.gemm(Described(on_gpu(X), stream=None), on_gpu(X.T))
    assert not fake_cupy.state.events


def test_strides_of_an_interface(modules):
    wide = on_gpu(np.repeat(X, 2, axis=1))[:, ::2]
    oracle.assert_bitwise_equal(
        host(fpes.multiply(Described(wide, stream=None), 2.0)), fpes.multiply(np.ascontiguousarray(X), 2.0)
    )


def test_a_masked_interface_is_refused(modules):
    with pytest.raises(TypeError, match=r"v is a .*Described that can't be shared with CuPy: it has a mask"):
        fpes.multiply(Described(on_gpu(X), mask=on_gpu(X)), 1.0)


# --- what can be missing or go wrong ----------------------------------------------------------------------------------


def test_a_build_that_is_missing(monkeypatch):
    cuda_double.install(monkeypatch, {"ftz": cuda_double.CpuKernels("ftz")})
    a, b = on_gpu(X), on_gpu(X.T)
    fpes.gemm(a, b)
    with pytest.raises(ImportError, match="flush='never' on a GPU runs in the build 'ieee', which this installation"):
        fpes.gemm(a, b, flush="never")


def test_no_build_at_all(monkeypatch):
    cuda_double.install(monkeypatch, {})
    with pytest.raises(ImportError, match="this installation of fpes has no CUDA build: "):
        fpes.gemm(on_gpu(X), on_gpu(X.T))


def test_no_cupy(modules, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"need CuPy.*pip install cupy-cuda13x"):
        network().init(device="cuda")


def test_no_gpu(modules):
    fake_cupy.state.no_device = "cudaErrorInsufficientDriver: CUDA driver version is insufficient"
    with pytest.raises(RuntimeError, match=r"no GPU can be used \(cudaErrorInsufficientDriver.*on the CPU"):
        network().init(device="cuda")
    fake_cupy.state.no_device = None
    fake_cupy.state.devices = 0
    with pytest.raises(RuntimeError, match="no GPU was found"):
        network().init(device="cuda")


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        ((2, "cudaErrorMemoryAllocation", "out of memory"), MemoryError, "cuda:0 has no memory left.*chunk"),
        ((209, "cudaErrorNoKernelImageForDevice", "no kernel image"), RuntimeError, "90-real;75-virtual.*=native"),
        ((222, "cudaErrorUnsupportedPtxVersion", "unsupported toolchain"), RuntimeError, "update the driver"),
        ((35, "cudaErrorInsufficientDriver", "driver is insufficient"), RuntimeError, "driver is missing, or older"),
        ((100, "cudaErrorNoDevice", "no device"), RuntimeError, "No GPU can be used"),
        ((46, "cudaErrorDevicesUnavailable", "busy"), RuntimeError, "Another process"),
        ((700, "cudaErrorIllegalAddress", "an illegal memory access"), RuntimeError, "illegal.*start it again"),
        ((701, "cudaErrorLaunchOutOfResources", "too many resources"), RuntimeError, "please report it"),
    ],
)
def test_what_cuda_says_becomes_advice(modules, failure, error, words):
    modules["ftz"].failure = failure
    with pytest.raises(error, match=words) as raised:
        fpes.gemm(on_gpu(X), on_gpu(X.T))
    assert isinstance(raised.value.__cause__, cuda_double.CudaError)


def test_an_error_of_the_kernels_own_module(shim, monkeypatch):
    """The exception that csrc/bindings/cuda.cpp makes is the one that is translated."""
    monkeypatch.setattr(fake_cupy.state, "devices", 3)
    with pytest.raises(RuntimeError, match=r"cuda:2: .*invalid device") as raised:
        fpes.gemm(on_gpu(X, 2), on_gpu(X.T, 2))
    assert raised.value.__cause__.args[:2] == (101, "cudaErrorInvalidDevice")


def test_no_memory_for_a_result_or_for_scratch(modules):
    theta, x, y = on_gpu(network().init(0)), on_gpu(X), on_gpu(Y)
    fake_cupy.state.room = 1199
    with pytest.raises(
        MemoryError, match=r"cuda:0 has no room for 1.3 KiB of the result.*3.0 GiB of 80.0 GiB are free"
    ):
        population(theta).forward(x)
    fake_cupy.state.room = cuda_double.WORKSPACE - 1
    with pytest.raises(MemoryError, match="no room for 1000 bytes of scratch memory: use a smaller chunk"):
        population(theta).evaluate(x, y)


def test_cupy_is_imported_only_for_gpu_arrays(tmp_path):
    code = (
        "import sys, numpy, fpes; x = numpy.ones((2, 2), numpy.float32); fpes.gemm(x, x);"
        "fpes.LinearNetwork([2, 2]).init(device='cpu'); fpes.build_config(); sys.exit('cupy' in sys.modules)"
    )
    # Elsewhere, for python -c looks for modules in its folder first, and the checkout has one called fpes.
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def names(namespace, path=""):
    """Dotted names of what a namespace holds."""
    for name, value in vars(namespace).items():
        yield path + name
        if isinstance(value, SimpleNamespace):
            yield from names(value, f"{path}{name}.")


def test_the_double_has_only_names_that_cupy_has():
    cupy = pytest.importorskip("cupy", reason="NOT COMPARED: CuPy is not installed")
    functions = ("asarray", "ascontiguousarray", "asnumpy", "clip", "copyto", "empty", "from_dlpack", "ndarray")
    of_arrays = (f"ndarray.{name}" for name in vars(fake_cupy.ndarray) if not name.startswith("_"))
    for path in (*functions, *of_arrays, *names(fake_cupy.cuda, "cuda.")):
        assert operator.attrgetter(path)(fake_cupy)
        assert operator.attrgetter(path)(cupy), path
