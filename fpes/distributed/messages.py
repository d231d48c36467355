"""What travels between the process that trains and its workers.

A task says everything that its answer depends on: the version of the package, the run, the generation, the pairs, and,
by their digests, the arrays. So it may be answered by anybody, again, or twice. A message is a dictionary of plain
values and bytes: a worker of another version can read it, and say which version it is.

Large things travel by digest. A worker keeps what it has seen; where it lacks something, its answer says so, and the
task is sent again with it. Theta isn't sent to a worker that has come to the same digest by itself (replay.py).
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fpes._checks import FloatArray
from fpes.distributed.errors import DigestError
from fpes.optimisers import Memory

Message = dict[str, Any]


def digest_of(array: np.ndarray) -> str:
    """Of an array's bits."""
    text = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    text.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return text.hexdigest()


class Parcel:
    """Something in bytes, with its digest: what a worker keeps, and is sent only where it lacks it.

    Raises:
        TypeError: it can't be sent, as a function can't that isn't at the top level of a module.
    """

    def __init__(self, name: str, content: Any) -> None:
        try:
            self.content = pickle.dumps(content, protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"{name} is {content!r}, which can't be sent to a worker: {error}. Define functions at the top level "
                "of a module that workers can import"
            ) from error
        self.digest = hashlib.sha256(self.content).hexdigest()


class ThetaParcel:
    """Theta, by the digest of its bits: a worker may have come to them by itself. It is pickled only to be sent.

    Args:
        theta: on the host.
        memory: the optimiser's, for workers that take the next steps themselves. It is an argument of the next step, so
            it needs no digest of its own: other bits here lead to another digest of theta there.
    """

    def __init__(self, theta: FloatArray, memory: Memory | None = None) -> None:
        self._theta = theta
        self._memory = memory
        self.digest = digest_of(theta)

    @cached_property
    def content(self) -> bytes:
        """In bytes."""
        return pickle.dumps((self._theta, self._memory), protocol=5)


def opened_theta(digest: str, content: bytes) -> tuple[FloatArray, Memory | None]:
    """What a ThetaParcel holds.

    Raises:
        DigestError: theta isn't what was sent.
    """
    theta, memory = pickle.loads(content)
    _check_digest("theta", digest_of(theta), digest)
    return theta, memory


def opened(name: str, digest: str, content: bytes) -> Any:
    """What a parcel holds.

    Raises:
        DigestError: it isn't what was sent.
    """
    _check_digest(name, hashlib.sha256(content).hexdigest(), digest)
    return pickle.loads(content)


def _check_digest(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise DigestError(f"{name} has arrived with digest {found[:12]}, expected {expected[:12]}")


def key_of(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a task from all others: an answer with another key belongs to another task."""
    return tuple(message[name] for name in ("run", "step", "theta", "kind", "begin", "end"))
