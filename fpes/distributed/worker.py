"""A worker: answers tasks, one after another, and keeps what it was sent."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import OrderedDict
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from fpes import _settings
from fpes._checks import FloatArray
from fpes._version import __version__
from fpes.devices import to_device, to_host
from fpes.distributed.messages import Message, opened, opened_theta
from fpes.distributed.replay import OtherBitsError, Replica
from fpes.distributed.sharing import process_name, share_processors, shared_device
from fpes.engine import Measure, Samples
from fpes.population import Population

_MOST_OF_A_NAME = 2  # parcels kept: those of this generation and the one before, and of two runs at a time

_kept: dict[str, OrderedDict[str, Any]] = {}
_replicas: OrderedDict[str, Replica] = OrderedDict()  # of runs whose steps are taken here too
_lock = threading.Lock()
_place = 0  # of this worker among those that were started with it


def begin(places: Any = None) -> None:
    """What a process of our own pool does first: Ctrl-C is for the process that trains, which ends its workers."""
    global _place  # noqa: PLW0603 - one process has one place
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    if places is not None:
        with places.get_lock():
            _place = places.value
            places.value += 1


@functools.cache  # once
def _end_with_parent() -> None:
    """End when the process that trains does, however it ends: a pool's processes would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    sentinel = None if parent is None else parent.sentinel
    if sentinel is None:  # not a process of multiprocessing, or one of loky's, which see to it themselves
        return

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="fpes-parent", daemon=True).start()


def answer(message: Message) -> Message:
    """The answer to a task: values, what is missing for them, or what went wrong. It never raises."""
    _end_with_parent()
    head: Message = {"worker": process_name(), "version": __version__}
    head |= {name: message.get(name) for name in ("run", "step", "theta", "kind", "begin", "end")}
    if message["version"] != __version__:
        return {**head, "state": "version"}
    try:
        with _lock:  # some executors run several tasks at a time in one process
            parcels, missing, other_bits = _take(message)
        if missing:
            return {**head, "state": "missing", "missing": missing, "other_bits": other_bits}
        _share(message)
        return {**head, "state": "done", "values": _values(parcels, message)}
    except Exception as error:
        return {**head, "state": "failed", "traceback": traceback.format_exc(), "error": _sendable(error)}


def _take(message: Message) -> tuple[dict[str, Any], list[str], str | None]:
    """What the task needs, the names of what is missing, and how a replay went wrong. What came along is kept."""
    parcels: dict[str, Any] = {}
    for name, digest in message["digests"].items():
        kept = _kept.setdefault(name, OrderedDict())
        if digest not in kept and name in message["parcels"]:
            kept[digest] = opened(name, digest, message["parcels"][name])
        if digest in kept:
            parcels[name] = kept[digest]
            _keep(kept, digest, kept[digest])
    missing = [name for name in message["digests"] if name not in parcels]
    try:
        theta = _theta(message, None if missing else parcels)
    except OtherBitsError as error:
        del _replicas[message["run"]]
        return parcels, ["theta"], str(error)
    if theta is None:
        missing.append("theta")
    return {**parcels, "theta": theta}, missing, None


def _theta(message: Message, parcels: dict[str, Any] | None) -> FloatArray | None:
    """Theta of the task: kept, sent along, or reached by the last steps; None if it is missing.

    `parcels` is all that the task needs besides; None if some of it is missing, and so are the means for a replay.
    """
    run, digest, kept = message["run"], message["theta"], _kept.setdefault("theta", OrderedDict())
    theta: FloatArray | None = kept.get(digest)
    if theta is None and parcels is not None:
        if "theta" in message["parcels"]:
            theta, memory = opened_theta(digest, message["parcels"]["theta"])
            if memory is not None:
                device = shared_device(message["device"], _place)
                _keep(_replicas, run, Replica(parcels["settings"], message["step"], theta, memory, device))
        elif run in _replicas and "steps" in parcels:
            theta = _replicas[run].reach(digest, parcels["steps"], parcels["minibatches"])
    if theta is not None:
        _keep(kept, digest, theta)
    return theta


def _keep(kept: OrderedDict[str, Any], name: str, content: Any) -> None:
    """As the newest; the oldest are forgotten."""
    kept[name] = content
    kept.move_to_end(name)
    while len(kept) > _MOST_OF_A_NAME:
        kept.popitem(last=False)


def _share(message: Message) -> None:
    """Use as many threads as there are processors for each worker, unless somebody has said how many."""
    host, pid, sharing = message["home"]
    if os.getpid() == pid and process_name() == f"{host}:{pid}":
        return  # a thread of the process that trains, whose choice this is
    if message["threads"] is not None:
        _settings.set_threads(message["threads"])
    elif process_name().startswith(f"{host}:") and sharing:
        share_processors(sharing, _place % sharing)


def _values(parcels: dict[str, Any], message: Message) -> np.ndarray:
    device, pairs = shared_device(message["device"], _place), (message["begin"], message["end"])
    population = _population(parcels, message, device)
    if message["kind"] == "gradient":
        values = population.partial_gradient(to_device(parcels["weights"], device), pairs=pairs)
    else:
        x, y = _batch(parcels, message, device)
        measure: Measure = parcels["measure"]
        values = measure.of(population, x, y, device, pairs).values
    return np.ascontiguousarray(to_host(values))


def _population(parcels: dict[str, Any], message: Message, device: str) -> Population:
    net, perturbation = parcels["shape"]
    return Population(
        net,
        to_device(parcels["theta"], device),
        size=message["size"],
        sigma=message["sigma"],
        perturbation=perturbation,
        seed=message["seed"],
        generation=message["step"],
    )


def _batch(parcels: dict[str, Any], message: Message, device: str) -> tuple[Any, Any]:
    if "minibatches" in parcels:
        samples: Samples = parcels["samples"]
        return samples.arrays(parcels["minibatches"], device)
    x, y = parcels["batch"]
    return to_device(x, device), y if message["own_loss"] else to_device(y, device)


def _sendable(error: Exception) -> Exception | None:
    """The error itself, where it survives the journey."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None
    return error
