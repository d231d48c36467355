"""A stand-in for CuPy whose device memory is host memory, so that the way from a Python call to a kernel runs in CI.

Together with CUDA modules that compute on host memory, it lets the CUDA backend's own code run as it is. It has only
what that code uses of CuPy, under the same names (a test compares them with the real CuPy where that is installed), and
is stricter than a GPU where that finds mistakes: fresh memory holds NaNs, scratch memory ends in guard bytes,
everything that would wait for a device is noted, and so is what each stream has waited for.
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter, defaultdict
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

float32, int32, uint32 = np.float32, np.int32, np.uint32
_GUARD = bytes(range(64))
_POISON = 0xFF  # four of them are a NaN


class State:
    """What a test looks at."""

    def __init__(self):
        self.devices = 2
        self.current_device = 0
        self.stream = Stream(0)
        self.waits = []  # what would have made the host wait for the device
        self.events = []  # ("record", stream) and ("wait", stream)
        self.room = math.inf  # bytes that an allocation may ask for
        self.allocations = []  # sizes of scratch memory
        self.no_device = None  # an error of getDeviceCount
        self.capturing = set()  # streams
        self.default_stream_blocked = False  # by a capture of another stream
        self.all_done = False  # whether the device has done everything so far
        self.known = defaultdict(Counter)  # of each stream: how much of every stream's work is done before its next

    def work(self):
        """Something is put on the current stream."""
        self.known[self.stream.ptr][self.stream.ptr] += 1

    def follows(self, later, earlier):
        """Whether the next work of a stream comes after all that another one has been given."""
        return self.known[later][earlier] == self.known[earlier][earlier]

    def check_not_captured(self, stream):
        if stream in self.capturing or (stream == 0 and self.default_stream_blocked):
            raise CUDARuntimeError("cudaErrorStreamCaptureIsolation: the event isn't of this capture")


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    def __init__(self, device=None):
        self.id = state.current_device if device is None else int(device)

    def __enter__(self):
        self._before, state.current_device = state.current_device, self.id
        return self

    def __exit__(self, *_):
        state.current_device = self._before


class Stream:
    def __init__(self, ptr):
        self.ptr = ptr

    def wait_event(self, event):
        state.check_not_captured(self.ptr)
        state.known[self.ptr] |= event.known
        state.events.append(("wait", self.ptr, event.recorded_on))

    def synchronize(self):
        state.waits.append("Stream.synchronize")


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.recorded_on = None

    def record(self, stream=None):
        self.recorded_on = (stream or state.stream).ptr
        state.check_not_captured(self.recorded_on)
        self.known = Counter(state.known[self.recorded_on])

    @property
    def done(self):
        return state.all_done


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.owner = ptr, size, owner


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


class _Scratch:
    """Memory whose overrun is noticed when it is given back."""

    def __init__(self, size):
        self._memory = np.frombuffer(bytearray([_POISON] * size) + bytearray(_GUARD), np.uint8).copy()
        self.ptr, self.size = self._memory.ctypes.data, size

    def __del__(self):
        if self._memory[self.size :].tobytes() != _GUARD:
            state.waits.append("SCRATCH MEMORY WAS OVERRUN")


class ndarray:  # noqa: N801 - CuPy's name
    """An array "on a device": a NumPy array that NumPy's functions don't see."""

    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None):
        dtype = np.dtype(dtype)
        if memptr is None:
            self._host = np.empty(shape, dtype)
            self._host.reshape(-1).view(np.uint8)[:] = _POISON
        else:
            extent = memptr.mem.size - (memptr.ptr - memptr.mem.ptr)
            raw = (ctypes.c_char * extent).from_address(memptr.ptr)
            self._host = np.ndarray(shape, dtype, raw, 0, strides)
            self._owner = memptr.mem.owner
        self.device = Device()

    @classmethod
    def _of(cls, host):
        array = cls.__new__(cls)
        array._host, array.device = host, Device()
        return array

    @property
    def data(self):
        return SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self._host.shape,
            "typestr": self._host.dtype.str,
            "data": (self._host.ctypes.data, False),
            "version": 3,
            "strides": self._host.strides,
            "stream": state.stream.ptr or 1,
        }

    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: self._host.flags)

    def __len__(self):
        return len(self._host)

    def __getitem__(self, index):
        return ndarray._of(self._host[index])

    def __setitem__(self, index, value):
        state.work()
        self._host[index] = _on_host(value)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        state.work()
        options |= {"out": tuple(map(_on_host, out))} if out else {}
        result = getattr(ufunc, method)(*map(_on_host, inputs), **options)
        return out[0] if out else ndarray._of(result)

    def __add__(self, other):
        return ndarray._of(self._host + other._host)

    def reshape(self, *shape):
        return ndarray._of(self._host.reshape(*shape))

    def view(self, dtype):
        return ndarray._of(self._host.view(dtype))

    def mean(self, axis=None, dtype=None):
        state.work()
        return ndarray._of(self._host.mean(axis=axis, dtype=dtype))

    def astype(self, dtype):
        return ndarray._of(self._host.astype(dtype))

    def copy(self):
        state.work()
        return ndarray._of(self._host.copy())

    def any(self):
        return ndarray._of(np.asarray(self._host.any()))

    def __gt__(self, other):
        return ndarray._of(np.asarray(self._host > other))

    def __lt__(self, other):
        return ndarray._of(np.asarray(self._host < other))

    def __or__(self, other):
        return ndarray._of(self._host | other._host)

    def __ixor__(self, other):
        self._host ^= other
        return self

    # What makes the host wait.

    def get(self):
        state.waits.append("ndarray.get")
        return self._host.copy()

    def item(self):
        state.waits.append("ndarray.item")
        return self._host.item()

    def __bool__(self):
        state.waits.append("ndarray.__bool__")
        return bool(self._host)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


def _on_host(value):
    return value._host if isinstance(value, ndarray) else value


def empty(shape, dtype=float):
    _check_room(math.prod(shape) * np.dtype(dtype).itemsize)
    return ndarray(shape, dtype)


def asarray(host):
    state.work()
    array = empty(host.shape, host.dtype)
    array._host[...] = host
    return array


def ascontiguousarray(array, dtype=None):
    return ndarray._of(np.ascontiguousarray(array._host, dtype=dtype))


def clip(array, a_min, a_max):
    return ndarray._of(np.clip(array._host, a_min, a_max))


def copyto(dst, src, casting="same_kind", where=None):
    np.copyto(dst._host, src, casting=casting, where=where._host)


def asnumpy(array):
    return array.get()


def from_dlpack(array):
    kind, index = array.__dlpack_device__()
    if kind not in (2, 13):
        raise ValueError("not on a GPU")
    shared = array.__dlpack__(stream=state.stream.ptr or 1)
    shared.device = Device(index)
    return shared


def alloc(size):
    _check_room(size)
    state.allocations.append(size)
    return MemoryPointer(_Scratch(size), 0)


def _check_room(size):
    if size > state.room:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")


def _device_count():
    if state.no_device:
        raise CUDARuntimeError(state.no_device)
    return state.devices


def _is_capturing(stream):
    if stream == 0 and state.default_stream_blocked:
        raise CUDARuntimeError(
            "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capture"
        )
    return stream in state.capturing


@contextmanager
def on_stream(ptr):
    """Makes a stream CuPy's current one."""
    before, state.stream = state.stream, Stream(ptr)
    yield
    state.stream = before


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    ExternalStream=Stream,
    MemoryPointer=MemoryPointer,
    UnownedMemory=UnownedMemory,
    alloc=alloc,
    get_current_stream=lambda: state.stream,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: state.current_device,
        getDeviceCount=_device_count,
        memGetInfo=lambda: (3 << 30, 80 << 30),
        streamIsCapturing=_is_capturing,
        pointerGetAttributes=lambda ptr: SimpleNamespace(device=state.current_device),
    ),
)
state = State()


def reset():
    """Forget what earlier tests did."""
    global state  # noqa: PLW0603 - the double's one piece of state
    state = State()
