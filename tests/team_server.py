"""For the tests of a team's store: MLflow's server over a PostgreSQL of our own, which also keeps the artifacts."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import Store
from postgresql_server import postgresql_server
from serving_processes import free_port, stop_tree


@dataclass(frozen=True)
class TeamStore(Store):
    """A store at an address; its folder holds what is the user's own: experiments, BentoML's store, corrections."""

    address: str

    @property
    def uri(self) -> str:
        return self.address


@contextmanager
def team_server(folder: Path) -> Iterator[TeamStore]:
    """Start both servers on free ports, and stop them; MLflow's log and the artifacts lie in `folder`."""
    with postgresql_server() as database, _mlflow_server(database, folder) as address:
        ours = folder / "ours"
        ours.mkdir()
        yield TeamStore(ours, address)


@contextmanager
def _mlflow_server(database: str, folder: Path) -> Iterator[str]:
    port = free_port()
    address, log = f"http://127.0.0.1:{port}", folder / "mlflow.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database.replace("postgresql:", "postgresql+psycopg:")]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(480):
            assert process.poll() is None, log.read_text()
            if _answers(f"{address}/health"):
                break
            time.sleep(0.25)
        else:
            raise RuntimeError(f"MLflow's server is not ready:\n{log.read_text()}")
        yield address
    finally:
        stop_tree(process)


def _environment() -> dict[str, str]:
    """This process's, without what would steer the server, and without MLflow's own queues, which nothing here uses."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
