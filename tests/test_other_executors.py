"""Executors of other packages: the same bits as one process. Where a package is absent, its test says so. (Ray has a
file of its own.)"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import oracle
import pytest
from distributed_run import train

from fpes.distributed import Workers

STEPS = 12
FAMILIES = ["full", "low-one-layer", "one-unit"]


def needs(package: str, extra: str):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"NOT TESTED: {package} isn't there (pip install {extra})"
    )


def check(executor, **options) -> None:
    for name in FAMILIES:
        theta = train(name, STEPS, executor=Workers(executor, **options)).theta
        oracle.assert_bitwise_equal(theta, train(name, STEPS).theta, name)


@needs("loky", "loky")
def test_loky(capfd):
    import loky

    executor = loky.get_reusable_executor(max_workers=2)
    try:
        check(executor)
    finally:
        executor.shutdown(wait=True, kill_workers=True)
    assert "Exception" not in capfd.readouterr().err  # in a worker's thread, beside its answers


@needs("distributed", '"fpes[dask]"')
@pytest.mark.filterwarnings("ignore")
def test_dask():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own, of event loops and ports
        from distributed import Client

        cluster = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with Client(**cluster) as client, client.get_executor(pure=False) as executor:
            check(executor)


@needs("mpi4py", '"fpes[mpi]" mpich')
def test_mpi4py_futures(tmp_path):
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is None:
        pytest.skip("NOT TESTED: there is no mpiexec")
    script = tmp_path / "train.py"
    script.write_text(
        "from mpi4py.futures import MPIPoolExecutor\nimport test_other_executors\n"
        "if __name__ == '__main__':\n"
        "    with MPIPoolExecutor() as executor:\n"
        "        test_other_executors.check(executor)\n"
        "    print('the same bits')\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(script)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "the same bits" in done.stdout, done.stderr
