"""For the tests of the corrections: a PostgreSQL server of our own, as Debian installs it."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving_processes import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Start it in a temporary folder on a free port, yield its address, and stop it by its process id.

    The test skips where it is not installed, or its driver is not.
    """
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    user = "postgres" if os.geteuid() == 0 else None  # initdb refuses root
    folder, port = Path(tempfile.mkdtemp(prefix="immnews-postgresql-")), free_port()
    if user:
        shutil.chown(folder, user)
    options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    bin_folder, data = BINARIES[-1].parent, str(folder / "data")
    initdb = [str(bin_folder / "initdb"), "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    server = [str(bin_folder / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    ready = [str(bin_folder / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        subprocess.run(initdb, check=True, **options)
        process = subprocess.Popen(server, **options)
        try:
            for _ in range(300):
                if process.poll() is not None or subprocess.run(ready, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder)
