"""Scores of texts by Ray Data on a cluster: its processes hold the model, and what one loses another does again."""

import logging
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from serving import manifest
from serving.batch import provenance
from serving.batch.readings import BadModel, Score, score

ADDRESS = "RAY_ADDRESS"
PACKAGE = Path(__file__).resolve().parents[1]
# Of one process, so that sums and order are those of a worker of the local engine.
ENVIRONMENT = {"IMMNEWS_THREADS": "1"}
# A Ray of our own listens on the loopback interface alone (what this variable of Ray's says where it has no clusters),
# to who knows a secret of this run. Objects beyond this size go to the disk.
OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "AUTOSCALER_METRIC_PORT": "0", "RAY_AUTH_MODE": "token"}
OBJECTS = 256 * 2**20
REMEDY = "name the host:port that `ray start --head` printed, 'auto' on a machine of the cluster, none for one here"
CONNECT = 10  # seconds
# After how many seconds without a process that is ready to read a run gives up.
PATIENCE = 300
# So often texts go to another process when theirs died over them.
RETRIES = 3
SCORES = pa.schema([
    ("topic", pa.string()), ("topic_confidence", pa.float64()), ("stance", pa.string()),
    ("stance_confidence", pa.float64()), ("abstained", pa.bool_()),
])  # fmt: skip


class NoCluster(Exception):
    """Ray is not installed, cannot be reached, or has no process that can read; the message says the remedy."""


@contextmanager
def workers(
    processes: int, model: Path, digest: str, texts: Iterable[Sequence[str]]
) -> Iterator[Callable[[Sequence[str]], Callable[[], list[Score]]]]:
    """What scores texts in so many processes of the cluster that RAY_ADDRESS names, or of a Ray of this run's own.

    Fewer may work where the cluster has no room; they join when there is. Texts whose process or machine is lost are
    handed to another, so all get their scores.

    Args:
        model: the model's folder, checked; its files travel to the processes, which check them again.
        digest: of its manifest.
        texts: all lists of texts that will be asked for, in that order: a data set begins with all that it is of.

    Raises:
        NoCluster: there is none. What is given out raises it too.
    """
    with connected(processes) as ray:
        encoded = ([text.encode("utf-8", "surrogatepass") for text in some] for some in texts)
        blocks = [ray.put(pa.table({"text": pa.array(some, pa.binary())})) for some in encoded]
        files = {name: (model / name).read_bytes() for name in manifest.check(model, digest)}
        answers = read(ray, processes, blocks, (ray.put(files), digest, provenance.code())) if blocks else iter(())
        yield lambda texts: lambda: list(islice(answers, len(texts)))


def read(ray: Any, processes: int, blocks: list[Any], given: tuple[Any, ...]) -> Iterator[Score]:
    """The scores of all texts in the blocks, in their order, as they come.

    Raises:
        NoCluster: they do not come.
    """
    from ray.data import ActorPoolStrategy, DataContext, from_arrow_refs
    from ray.util.annotations import RayDeprecationWarning

    warnings.simplefilter("ignore", RayDeprecationWarning)  # of a way to say how often that has no other yet
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong comes as an exception
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.wait_for_min_actors_s = PATIENCE
    room = max(1, min(processes, int(ray.available_resources().get("CPU", 0))))
    pool = ActorPoolStrategy(min_size=1, initial_size=room, max_size=processes)
    try:
        scores = from_arrow_refs(blocks).map_batches(
            Worker,
            fn_constructor_args=given,
            batch_size=None,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=1,
            max_task_retries=RETRIES,
        )
        batches: Iterable[Any] = scores.iter_batches(batch_size=None, batch_format="pyarrow")
        for batch in batches:
            yield from (Score(**row) for row in batch.to_pylist())
    except ray.exceptions.RayError as error:
        raise NoCluster(f"the cluster cannot go on: {reason(error)}") from None


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


class Worker:
    """A process of the cluster: it checks that it has the same model and the same code, and reads."""

    def __init__(self, files: Any, digest: str, code: str) -> None:
        import ray

        if (own := provenance.code()) != code:
            raise BadModel(f"it has other packages ({own}) than where the run was started ({code}); install the same")
        with tempfile.TemporaryDirectory(prefix="immnews-") as folder:
            self.folder = Path(folder)
            for name, content in ray.get(files).items():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(content)
            manifest.check_exactly(self.folder, digest)
            score(self.folder, [])  # loads it; from then on the files are not needed

    def __call__(self, texts: pa.Table) -> pa.Table:
        """A block of scores, of one of texts."""
        scores = score(self.folder, [text.decode("utf-8", "surrogatepass") for text in texts["text"].to_pylist()])
        return pa.Table.from_pylist([one._asdict() for one in scores], SCORES)


def reason(error: Exception) -> str:
    """What went wrong in a process, of the report that Ray makes of it: its last line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
