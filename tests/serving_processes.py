"""For the tests of the service: a registry that may be tampered with, and servers as processes of their own."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
# Nothing listens there: whoever tries to reach the network fails at once.
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
NO_NETWORK |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


class Registry(NamedTuple):
    """A registry of its own: MLflow address, and the folder of the champion's files."""

    uri: str
    model: Path


def copy_registry(uri: str, folder: Path) -> Registry:
    """Copy a SQLite registry and its champion's files, so that a test may change either."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias("immigration-news", "champion")
    original = client.get_model_version_download_uri("immigration-news", version.version)
    model, database = folder / "model", folder / "mlflow.db"
    shutil.copytree(original.removeprefix("file://"), model)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as source, closing(sqlite3.connect(database)) as copy:
        source.backup(copy)
        copy.execute("UPDATE model_versions SET storage_location = ? WHERE version = ?", (str(model), version.version))
        copy.execute(
            "UPDATE logged_models SET artifact_location = ? WHERE model_id = ?",
            (str(model), version.source.rpartition("/")[2]),
        )
        copy.commit()
    return Registry(f"sqlite:///{database}", model)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what steers a server, with changes."""
    steering = ("IMMNEWS_", "BENTOML_HOME", "MLFLOW_TRACKING_URI", "PORT", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return {**kept, "BENTOML_DO_NOT_TRACK": "1", **changes}


def run(arguments: Sequence[str], cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, from a folder, with the checkout importable."""
    variables = environment(PYTHONPATH=str(ROOT), **changes)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120, check=False)


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started, itself first; nothing where it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def stop_tree(process: subprocess.Popen[bytes], asked: int = signal.SIGTERM) -> None:
    """A signal to a process and to all that it started, and SIGKILL to what is left of them after 15 s."""
    tree = process_tree(process.pid)
    for one in tree:
        _send(one, asked)
    for one in psutil.wait_procs(tree, timeout=15)[1]:
        _send(one, signal.SIGKILL)
    process.wait(timeout=30)


def _send(process: psutil.Process, asked: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(asked)


@contextmanager
def serving_champion(uri: str, folder: Path, **changes: str) -> Iterator[httpx.Client]:
    """`make serve` over a registry; its log, BentoML's store and the corrections (`feedback.db`) lie in the folder.

    `changes` are settings (environment variables) beside these.
    """
    port = free_port()
    settings = {
        "MLFLOW_TRACKING_URI": uri,
        "BENTOML_HOME": str(folder / "bentoml"),
        "IMMNEWS_FEEDBACK_URL": f"sqlite:///{folder}/feedback.db",
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
    }
    variables = environment(**settings | changes)
    with server(["-m", "serving.serve"], port, folder, variables) as client:
        yield client


@contextmanager
def server(arguments: Sequence[str], port: int, cwd: Path, variables: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Start a server, wait until it is ready, and stop it. `server.log` and `server.pid` lie in `cwd`."""
    with (cwd / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=dict(variables), stdout=log, stderr=subprocess.STDOUT
        )
    (cwd / "server.pid").write_text(str(process.pid))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            for _ in range(240):
                if process.poll() is not None:
                    break
                try:
                    if client.get("/readyz").status_code == 200:
                        yield client
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.25)
            raise RuntimeError(f"the server is not ready:\n{(cwd / 'server.log').read_text()}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def json_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log; before them stands what the command says."""
    return [json.loads(line) for line in (folder / "server.log").read_text().splitlines() if line.startswith("{")]


def figures(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Each sample of our own by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("immigration")]
    return {(sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value for sample in samples}


def wait_for(found: Callable[[], Any], seconds: int = 20) -> Any:
    """What `found` gives, once it gives something: a line is written after its answer is out."""
    for _ in range(10 * seconds):
        if result := found():
            return result
        time.sleep(0.1)
    raise AssertionError("it did not come")
