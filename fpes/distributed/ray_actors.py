"""Actors of Ray as an executor of concurrent.futures."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from fpes import _checks


class RayExecutor(Executor):
    """`count` actors of Ray. A new actor replaces an actor that dies, or whose task is cancelled.

        with fpes.distributed.RayExecutor(8, num_cpus=1) as executor:
            es.fit(data, steps=1000, executor=executor)

    Args:
        count: number of actors.
        options: options of each actor, as for Ray's .options(): num_cpus, num_gpus, resources, ...

    Raises:
        ImportError: Ray is missing.
        ValueError: count is out of its range.
    """

    def __init__(self, count: int, **options: Any) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError('RayExecutor needs Ray: pip install "fpes[ray]"') from error
        self._ray: Any = ray
        self._max_workers = _checks.integer("count", count, 1, 2**20)
        self._actor = self._ray.remote(_Actor).options(**{"num_cpus": 1, **options})
        self._tasks = {self._actor.remote(): 0 for _ in range(self._max_workers)}  # of each actor
        self._lock = threading.Lock()  # tasks end in a thread of Ray's
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run fn(*args, **kwargs) on the actor with the fewest tasks, as every Executor does."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is shut down")
            actor = min(self._tasks, key=self._tasks.__getitem__)
            self._tasks[actor] += 1
        future: Future[Any] = actor.call.remote(fn, args, kwargs).future()
        future.add_done_callback(functools.partial(self._done, actor))
        return future

    def _done(self, actor: Any, future: Future[Any]) -> None:
        """Replace the actor if it is lost. A task that was cancelled may run on, so its actor hangs."""
        lost = future.cancelled() or isinstance(future.exception(), self._ray.exceptions.RayActorError)
        with self._lock:
            if actor not in self._tasks:  # replaced, or the executor is shut down
                return
            self._tasks[actor] -= 1
            if not lost:
                return
            del self._tasks[actor]
            self._tasks[self._actor.remote()] = 0
        if future.cancelled():  # it lives
            self._ray.kill(actor)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the actors at once. Tasks that they haven't done fail."""
        with self._lock:
            self._closed = True
            actors, self._tasks = list(self._tasks), {}
        for actor in actors:
            self._ray.kill(actor)


class _Actor:
    """A process that calls what it is sent."""

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return fn(*args, **kwargs)
