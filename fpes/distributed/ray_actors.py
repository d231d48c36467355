"""Actors of Ray as an executor of concurrent.futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from fpes import _checks


class RayExecutor(Executor):
    """`count` actors of Ray. A new actor replaces an actor that dies.

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
        self._actors = [self._actor.remote() for _ in range(self._max_workers)]
        self._busy = [0] * self._max_workers
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run fn(*args, **kwargs) on the actor with the fewest tasks, as every Executor does."""
        if self._closed:
            raise RuntimeError("the executor is shut down")
        place = self._busy.index(min(self._busy))
        self._busy[place] += 1
        actor = self._actors[place]
        future: Future[Any] = actor.call.remote(fn, args, kwargs).future()
        future.add_done_callback(lambda done: self._done(place, actor, done))
        return future

    def _done(self, place: int, actor: Any, future: Future[Any]) -> None:
        self._busy[place] -= 1
        if self._closed or future.cancelled():
            return
        if isinstance(future.exception(), self._ray.exceptions.RayActorError) and self._actors[place] is actor:
            self._actors[place], self._busy[place] = self._actor.remote(), 0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the actors."""
        self._closed = True
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []


class _Actor:
    """A process that calls what it is sent."""

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return fn(*args, **kwargs)
