"""One population, several processes or machines, the same bits.

Nothing here is needed for one process. `Workers` takes any executor of concurrent.futures; `processes()` starts some on
this machine, by the standard library alone; `Ranks` is for programs under mpiexec; `ray_executor()` for Ray. Each is
what `ES.fit(executor=)` takes. docs/machines.md says how they share the work, and how far it scales.
"""

from fpes.distributed.errors import DigestError, VersionError, WorkerError
from fpes.distributed.ranks import Ranks
from fpes.distributed.ray_actors import RayExecutor
from fpes.distributed.workers import Workers, processes

__all__ = ["DigestError", "Ranks", "RayExecutor", "VersionError", "WorkerError", "Workers", "processes"]
