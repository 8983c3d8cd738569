"""The process that starts the workers and watches over them: BentoML's, but it looks sooner, and shares no figures."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from bentoml._internal.utils import circus

from serving.observation import log_as_json

# BentoML looks every ten seconds, which would be most of the time that a killed worker is missed.
LOOK_SECONDS = 1.0


class Supervisor(circus.Arbiter):
    """BentoML's, which looks for dead workers every `LOOK_SECONDS`.

    The workers' figures lie in a folder that goes when this process ends. BentoML's own lies in its home: two servers
    that share one would count each other's requests, and the second to start empties it under the first.
    """

    def __init__(self, watchers: Sequence[Any], *arguments: Any, **options: Any) -> None:
        super().__init__(watchers, *arguments, **{**options, "check_delay": LOOK_SECONDS})
        figures = tempfile.mkdtemp(prefix="immigration-news-figures-")
        # Not in `stop`: workers that are still draining are still asked.
        atexit.register(shutil.rmtree, figures, ignore_errors=True)
        for watcher in watchers:
            watcher.env["PROMETHEUS_MULTIPROC_DIR"] = figures


def watch_closely() -> None:
    """Have BentoML make its supervisor of this class, to which it gives no way, and log as the workers do."""
    log_as_json()
    circus.Arbiter = Supervisor  # type: ignore[misc]
