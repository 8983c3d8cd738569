"""Scores of texts by the processes of a Ray cluster: each holds the model, and what one loses another does again."""

import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from serving import manifest
from serving.batch import provenance
from serving.batch.readings import BadModel, Score, score

ADDRESS = "RAY_ADDRESS"
PACKAGE = Path(__file__).resolve().parents[1]
# Of one process, so that sums and order are those of a worker of the local engine.
ENVIRONMENT = {"IMMNEWS_THREADS": "1"}
# A Ray of our own listens on the loopback interface alone (what this variable of Ray's says where it has no clusters),
# to who knows a secret of this run. Objects are the model and what is under way.
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "AUTOSCALER_METRIC_PORT": "0", "RAY_AUTH_MODE": "token"}
OBJECTS = 256 * 2**20
REMEDY = "name the host:port that `ray start --head` printed, 'auto' on a machine of the cluster, none for one here"
CONNECT = 10  # seconds
# After how many seconds without a process that works, or is ready to, a run gives up.
PATIENCE = 300
# So many processes may die over the same texts.
DEATHS = 3


class NoCluster(Exception):
    """Ray is not installed, cannot be reached, or has no process that can read; the message says the remedy."""


@contextmanager
def workers(processes: int, model: Path, digest: str) -> Iterator[Callable[[Sequence[str]], Future[list[Score]]]]:
    """What scores texts in so many processes of the cluster that RAY_ADDRESS names, or of a Ray of this run's own.

    Fewer may work where the cluster has no room; they join when there is. Texts whose process or machine is lost are
    handed to another, so every future gets its scores.

    Args:
        model: the model's folder, checked; its files travel to the processes, which check them again.
        digest: of its manifest.

    Raises:
        NoCluster: there is none. The futures raise it too.
    """
    with connected(processes) as ray:
        files = {name: (model / name).read_bytes() for name in manifest.check(model, digest)}
        pool = Pool(ray, processes, ray.put(files), digest, provenance.code())
        threads = ThreadPoolExecutor(processes)
        try:
            yield lambda texts: threads.submit(pool.score, texts)
        finally:
            pool.close()
            threads.shutdown(cancel_futures=True)


@contextmanager
def connected(processes: int) -> Iterator[Any]:
    """The module `ray`, connected; a Ray of our own, so many processes large, ends with the context."""
    if find_spec("ray") is None:
        raise NoCluster("--engine ray: Ray is not installed; `pip install '.[cluster]'`, or leave --engine out")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get(ADDRESS, "")
    if address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # where something else answers there
        check(address)
    else:
        os.environ.update({"RAY_AUTH_TOKEN": secrets.token_hex(32), **OWN})
    import ray

    # Not in TMPDIR: the names of Ray's sockets must stay short.
    own = None if address else tempfile.mkdtemp(prefix="immnews-ray-", dir="/tmp")
    size: dict[str, Any] = {"num_cpus": processes, "object_store_memory": OBJECTS, "_temp_dir": own}
    try:
        start(ray, address, {} if address else {**size, "include_dashboard": False})
        yield ray
    finally:
        ray.shutdown()
        if own:
            shutil.rmtree(own, ignore_errors=True)


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


class Pool:
    """Processes of a cluster, each asked for one list of texts at a time, by as many threads of this process."""

    def __init__(self, ray: Any, processes: int, *given: Any) -> None:
        self.ray, self.processes, self.given = ray, processes, given
        self.remote = ray.remote(num_cpus=1)(Worker)
        self.free: SimpleQueue[tuple[Any, Future[Any]] | None] = SimpleQueue()
        self.actors: set[Any] = set()
        self.closed = False
        self.heard = time.monotonic()
        for _ in range(processes):
            self.start()

    def start(self) -> None:
        """Ask for a process more. It is free when it has loaded the model, or could not."""
        actor = self.remote.remote(*self.given)
        self.actors.add(actor)
        actor.__ray_ready__.remote().future().add_done_callback(lambda ready: self.free.put((actor, ready)))

    def score(self, texts: Sequence[str]) -> list[Score]:
        """Scores of texts, by whichever process is free; by another, where that one is lost."""
        errors = self.ray.exceptions
        for _ in range(DEATHS):
            actor, ready = self.take()
            try:
                ready.result()
                answers: list[Score] = self.ray.get(actor.score.remote(texts))
            except (errors.RayActorError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
                if self.closed:
                    raise NoCluster("the run has ended") from None
                self.actors.discard(actor)
                if getattr(error, "actor_init_failed", False):
                    raise NoCluster(f"a process of the cluster cannot read: {reason(error)}") from None
                self.ray.kill(actor)  # it may be cut off only
                self.start()
            except errors.RayError as error:
                raise NoCluster(f"the cluster cannot go on: {reason(error)}") from None
            else:
                self.heard = time.monotonic()
                self.free.put((actor, ready))
                return answers
        raise NoCluster(f"{DEATHS} processes of the cluster died over the same texts (was there memory enough?)")

    def take(self) -> tuple[Any, Future[Any]]:
        """A free process."""
        while True:
            try:
                taken = self.free.get(timeout=PATIENCE)
            except Empty:
                if time.monotonic() - self.heard < PATIENCE:
                    continue
                taken = None
            if taken is None:
                cpus = self.ray.cluster_resources().get("CPU", 0)
                raise NoCluster(f"no process of the cluster ({cpus:.0f} CPUs) came free in {PATIENCE} s; free some")
            return taken

    def close(self) -> None:
        """End all processes, and with them what threads wait for; a thread may just be replacing one."""
        self.closed = True
        for actor in list(self.actors):
            self.ray.kill(actor)
        for _ in range(self.processes):
            self.free.put(None)


class Worker:
    """A process of the cluster: it checks that it has the same model and the same code, and reads."""

    def __init__(self, files: dict[str, bytes], digest: str, code: str) -> None:
        if (own := provenance.code()) != code:
            raise BadModel(f"it has other packages ({own}) than where the run was started ({code}); install the same")
        with tempfile.TemporaryDirectory(prefix="immnews-") as folder:
            self.folder = Path(folder)
            for name, content in files.items():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(content)
            manifest.check_exactly(self.folder, digest)
            score(self.folder, [])  # loads it; from then on the files are not needed

    def score(self, texts: Sequence[str]) -> list[Score]:
        """As `readings.score`."""
        return score(self.folder, texts)


def reason(error: Exception) -> str:
    """What went wrong in a process, of the report that Ray makes of it: its last line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
