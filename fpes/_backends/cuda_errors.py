"""What CUDA says went wrong, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_BUILD_FOR_THIS_GPU = 'build it with CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=native"'
_NO_GPU = "No GPU can be used; NumPy arrays are computed on the CPU"
_TAKEN = "Another process has taken the GPU for itself"
# After these the device's context is lost, whichever kernel it was.
_LOST = (
    "This kernel, or an earlier one on the device, failed while it ran: results since the last synchronisation are "
    "lost, and CUDA can't be used any more in this process: start it again"
)
_ADVICE = {
    "cudaErrorNoKernelImageForDevice": (
        f"fpes was built for the architectures {{architectures}}, which don't suit this GPU: {_BUILD_FOR_THIS_GPU}"
    ),
    "cudaErrorUnsupportedPtxVersion": (
        "The driver is older than the compiler that built fpes, so it can't translate its PTX: update the driver, or "
        f"have machine code for this GPU: {_BUILD_FOR_THIS_GPU}"
    ),
    "cudaErrorInsufficientDriver": (
        "The driver is missing, or older than the CUDA that fpes was built with: install or update it"
    ),
    "cudaErrorNoDevice": _NO_GPU,
    "cudaErrorInitializationError": _NO_GPU,
    "cudaErrorSystemNotReady": _NO_GPU,
    "cudaErrorStubLibrary": _NO_GPU,
    "cudaErrorDevicesUnavailable": _TAKEN,
    "cudaErrorDeviceAlreadyInUse": _TAKEN,
    "cudaErrorAssert": _LOST,
    "cudaErrorECCUncorrectable": _LOST,
    "cudaErrorHardwareStackError": _LOST,
    "cudaErrorIllegalAddress": _LOST,
    "cudaErrorIllegalInstruction": _LOST,
    "cudaErrorInvalidAddressSpace": _LOST,
    "cudaErrorInvalidPc": _LOST,
    "cudaErrorLaunchFailure": _LOST,
    "cudaErrorLaunchTimeout": _LOST,
    "cudaErrorMisalignedAddress": _LOST,
    "cudaErrorUnknown": _LOST,
}


@contextmanager
def translated(module: ModuleType, device: int) -> Iterator[None]:
    """Turns a CudaError of a module into a RuntimeError, or a MemoryError, that says what to do.

    Results of the call that fails are never handed out: the exception takes their place.
    """
    try:
        yield
    except module.CudaError as error:
        _, name, message = error.args
        if name == "cudaErrorMemoryAllocation":
            raise MemoryError(f"cuda:{device} has no memory left: {message}; use a smaller chunk or batch") from error
        raise RuntimeError(f"cuda:{device}: {message}. {_advice(module, name)}") from error


def out_of_memory(device: str, size: int, free: int, total: int, purpose: str) -> MemoryError:
    """The exception for an allocation that failed."""
    return MemoryError(
        f"{device} has no room for {_readable(size)} of {purpose} ({_readable(free)} of {_readable(total)} are free; "
        "cupy.get_default_memory_pool().free_all_blocks() returns what CuPy keeps)"
    )


def _advice(module: ModuleType, name: str) -> str:
    advice = _ADVICE.get(name, "If the arguments were right this is a mistake in fpes: please report it")
    return advice.format(architectures=module.architectures())


def _readable(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} bytes"
