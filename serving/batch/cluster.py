"""A Ray cluster, connected to or made for a run, with its errors as one kind and in one line."""

import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ADDRESS = "RAY_ADDRESS"
PACKAGE = Path(__file__).resolve().parents[1]
# Of one process, so that sums and order are those of a worker of the local engine.
ENVIRONMENT = {"IMMNEWS_THREADS": "1"}
# A Ray of our own listens on the loopback interface alone (what this variable of Ray's says where it has no clusters),
# to who knows a secret of this run. Objects beyond this size go to the disk.
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "AUTOSCALER_METRIC_PORT": "0", "RAY_AUTH_MODE": "token"}
OBJECTS = 256 * 2**20
REMEDY = "name the host:port that `ray start --head` printed, 'auto' on a machine of the cluster, none for one here"
FOLDERS, PREFIX = Path("/tmp"), "immnews-ray-"  # not TMPDIR: the names of Ray's sockets must stay short
CONNECT = 10  # seconds
PATIENCE = 300  # seconds that a run waits for a CPU of the cluster to begin on


class NoCluster(Exception):
    """Ray is not installed, cannot be reached, or cannot go on; the message says the remedy."""


@contextmanager
def connected(processes: int) -> Iterator[Any]:
    """The module `ray`, connected; a Ray of our own, so many processes large, ends with the context."""
    if find_spec("ray") is None:
        raise NoCluster("--engine ray: Ray is not installed; `pip install '.[cluster]'`, or leave --engine out")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an exception
    address = os.environ.get(ADDRESS, "")
    if address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # where something else answers there
        check(address)
    else:
        os.environ.update({"RAY_AUTH_TOKEN": secrets.token_hex(32), **OWN})
    import ray

    own = None if address else own_folder()
    size: dict[str, Any] = {"num_cpus": processes, "object_store_memory": OBJECTS, "_temp_dir": own}
    try:
        start(ray, address, {} if address else {**size, "include_dashboard": False})
        yield ray
    finally:
        ray.shutdown()
        if own:
            shutil.rmtree(own, ignore_errors=True)


def own_folder() -> str:
    """Where a Ray of our own keeps what its memory does not hold: input too. What killed runs left there goes."""
    for left in FOLDERS.glob(f"{PREFIX}*"):
        if not running(left.name.removeprefix(PREFIX).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=FOLDERS)


def running(pid: str) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # another user's
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True


def check(address: str) -> None:
    """Whether something listens at the address of a cluster: Ray itself would try for minutes.

    Raises:
        NoCluster: nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        if address != "auto":
            socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise NoCluster(f"{ADDRESS}={address!r}: no Ray is there ({error}); {REMEDY}") from None


def start(ray: Any, address: str, size: Mapping[str, Any]) -> None:
    """Connect to Ray, so that its processes find this package; it says nothing on the terminal.

    Raises:
        NoCluster: it does not answer, or answers otherwise.
    """
    environment = {"py_modules": [str(PACKAGE)], "env_vars": ENVIRONMENT}
    try:
        ray.init(address or "local", runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False, **size)
    except Exception as error:  # Ray's own share no base class
        where = f"{ADDRESS}={address!r}" if address else "a Ray of this run's own"
        raise NoCluster(f"{where} cannot be used: {reason(error)}; {REMEDY}") from None


@contextmanager
def usable(ray: Any) -> Iterator[None]:
    """Raises what goes wrong in the cluster as NoCluster."""
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        raise NoCluster(f"the cluster cannot go on: {reason(error)}") from None


def wait_for_cpu(ray: Any) -> None:
    """Wait until the cluster has a CPU free: Ray itself would wait for ever, and say nothing.

    Raises:
        NoCluster: it has none for `PATIENCE`.
    """
    end = time.monotonic() + PATIENCE
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > end:
            cpus = ray.cluster_resources().get("CPU", 0)
            raise NoCluster(f"none of the cluster's {cpus:.0f} CPUs came free in {PATIENCE} s; free some")
        time.sleep(1)


def reason(error: Exception) -> str:
    """What went wrong in a process, of the report that Ray makes of it: the last line on what came first."""
    first = str(error).partition("\nThe above exception was the direct cause")[0]
    return (first.strip().splitlines() or [type(error).__name__])[-1].strip()
