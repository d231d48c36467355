"""Helpers of `fpes train`, which share its work: worker processes on this machine, or the ranks of an MPI job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fpes import _settings
from fpes.distributed import Ranks, Workers, processes


def ranks_of_job() -> Ranks | None:
    """The ranks, if mpiexec or srun has started several processes of this command.

    Raises:
        ImportError: it has, and mpi4py is missing. Each process would train the same run, in the same folder.
    """
    environment = os.environ
    sizes = [environment.get(name, "1") for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")]
    if "PMIX_RANK" in environment:
        sizes.append(environment.get("SLURM_NTASKS", "1"))
    return Ranks() if any(size.isdecimal() and int(size) > 1 for size in sizes) else None


def follow(ranks: Ranks) -> int:
    """The work of all ranks except 0: follow one run after another, until rank 0 is done."""
    while True:
        try:
            if not ranks.serve():
                return 0
        except RuntimeError:  # rank 0 reports the error, and may start another run
            continue


@contextmanager
def helping(workers: int | None, ranks: Ranks | None) -> Iterator[Workers | Ranks | None]:
    """The executor for fit().

    Raises:
        ValueError: both are given.
    """
    if ranks is not None:
        try:
            if workers is not None:
                raise ValueError(f"--workers is {workers}, and this is one of {ranks.size} ranks: expected one of them")
            yield ranks
        finally:
            ranks.dismiss()
    elif workers is not None:
        threads = _settings.get_threads() if _settings.threads_chosen() else None
        with processes(workers, threads=threads) as pool:
            yield pool
    else:
        yield None
