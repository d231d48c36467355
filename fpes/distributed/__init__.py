"""One population on several processes or machines, with the same bits.

One process needs nothing of this. `Workers` takes any executor of concurrent.futures. `processes()` starts workers on
this machine and needs only the standard library. `Ranks` is for programs under mpiexec, and `RayExecutor` for Ray.
`ES.fit(executor=)` takes each of them. docs/machines.md explains how they share the work, and how far it scales.
"""

from fpes.distributed.errors import DigestError, VersionError, WorkerError
from fpes.distributed.ranks import Ranks
from fpes.distributed.ray_actors import RayExecutor
from fpes.distributed.workers import Workers, processes

__all__ = ["DigestError", "Ranks", "RayExecutor", "VersionError", "WorkerError", "Workers", "processes"]
