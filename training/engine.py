"""Where the folds of the search are fitted: by processes of this machine, or by those of a Ray cluster."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib

from training.experiment import InvalidExperiment

ENGINE = "IMMNEWS_ENGINE"
ENGINES = ("local", "ray")
# What the fits on another machine need of this project: code, and neither data nor the encoder.
SHIPPED = [str(Path(__file__).parents[1] / name) for name in ("training", "data")]
NOT_SHIPPED = ["encoder/", "corpus/", "news/"]
REMEDY = "name the host:port that `ray start --head` printed, or unset it"
CONNECT = 10  # seconds


class NoEngine(InvalidExperiment):
    """The engine that IMMNEWS_ENGINE names is not known, not installed or not reached; the message says the remedy."""


@contextmanager
def engine(jobs: int) -> Iterator[None]:
    """Where joblib's `jobs` processes are: here, or (`ray`) in the cluster of RAY_ADDRESS, or a Ray of our own.

    Raises:
        NoEngine: there is none, or it is too small.
    """
    name = os.environ.get(ENGINE) or "local"
    if name not in ENGINES:
        raise NoEngine(f"{ENGINE}={name!r} is not known; choose one of {', '.join(ENGINES)}")
    if name == "local":
        yield
        return
    if find_spec("ray") is None:
        raise NoEngine(f"{ENGINE}=ray: Ray is not installed; `pip install '.[cluster]'`, or unset {ENGINE}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an exception
    address = os.environ.get("RAY_ADDRESS", "")
    own_size: dict[str, Any] = {}
    if address:
        _knock(address)
    else:  # on the loopback interface alone, and to who knows this secret
        own_size = {"num_cpus": jobs}
        own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "AUTOSCALER_METRIC_PORT": "0", "RAY_AUTH_MODE": "token"}
        os.environ.update({"RAY_AUTH_TOKEN": secrets.token_hex(32), **own})
    import ray
    from ray.util.joblib import register_ray

    register_ray()  # type: ignore[no-untyped-call]
    try:
        ray.init(
            address or "local",
            runtime_env={"py_modules": SHIPPED, "excludes": NOT_SHIPPED},
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **own_size,
        )
    except Exception as error:  # Ray's own share no base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise NoEngine(f"RAY_ADDRESS={address!r} cannot be used: {reason}; {REMEDY}") from None
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if cpus < jobs:
            raise NoEngine(f"IMMNEWS_THREADS={jobs}: the cluster has {cpus} CPUs; lower it, or add machines")
        with joblib.parallel_config("ray"):
            yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises NoEngine where nothing listens at the address of a cluster: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if address != "auto":
            socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise NoEngine(f"RAY_ADDRESS={address!r}: no Ray is there ({error}); {REMEDY}") from None
