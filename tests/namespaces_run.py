"""Two hosts with a worker each, in network namespaces of this machine; in the middle of a run the link of one is cut.

Started by test_network_namespaces.py in a namespace of its own (unshare --net --mount), so that nothing that is made
here is seen from outside, and all of it ends with this process. Arguments: the file that theta goes to.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed_run
import numpy as np

import fpes
from fpes.distributed import Workers

NETWORK, HOSTS = "10.77.0", (2, 3)
SCHEDULER = f"tcp://{NETWORK}.1:8786"
CUT_AT = 4  # generations
# How soon Dask gives up a worker that it doesn't hear of; its own default is minutes.
IMPATIENT = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "4s",
}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def connect() -> None:
    """A bridge, and behind it the hosts."""
    names = Path("/run/netns")  # where ip keeps names: here too, of this process and its children alone
    names.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "names", str(names)], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge", "type", "bridge")
    ip("address", "add", f"{NETWORK}.1/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    for host in HOSTS:
        name = f"host{host}"
        ip("netns", "add", name)
        ip("link", "add", f"to{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", f"to{host}", "master", "bridge", "up")
        ip("-n", name, "address", "add", f"{NETWORK}.{host}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")


@contextmanager
def dask() -> Iterator[None]:
    """A scheduler on this host, a worker on each of the others."""
    run, quiet = [sys.executable, "-m"], ["--no-dashboard"]
    commands = [[*run, "distributed.cli.dask_scheduler", "--host", f"{NETWORK}.1", "--port", "8786", *quiet]]
    worker = [*run, "distributed.cli.dask_worker", SCHEDULER, "--nthreads", "1", "--no-nanny", *quiet]
    commands += [["ip", "netns", "exec", f"host{host}", *worker] for host in HOSTS]
    environment = {**os.environ, **IMPATIENT}
    silent = subprocess.DEVNULL
    processes = [subprocess.Popen(command, env=environment, stdout=silent, stderr=silent) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def main(path: Path) -> None:
    connect()
    os.environ |= IMPATIENT
    from distributed import Client

    def cut(es: fpes.ES) -> None:
        if es.generation == CUT_AT:
            ip("link", "set", f"to{HOSTS[0]}", "down")
            print("cut", flush=True)

    with dask():
        client = Client(SCHEDULER, timeout=60)
        client.wait_for_workers(len(HOSTS), timeout=60)
        hosts = {worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
        print(sorted(hosts), flush=True)
        workers = Workers(client.get_executor(pure=False), parts=4, limit=2.0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", fpes.TrainingWarning)
            theta = distributed_run.train("full", 12, executor=workers, after_step=cut).theta
        noticed = [str(one.message) for one in told if issubclass(one.category, fpes.TrainingWarning)]
        print(*noticed, sep="\n", flush=True)
        np.save(path, theta)
    os._exit(0)  # the client, closed, would wait for what can't be reached


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
