"""Scores of texts by the champion, in this process or in several that load it themselves."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from serving.schema import OFF_TOPIC


class Score(NamedTuple):
    """What the model says of one text; off topic there is no stance."""

    topic: str
    topic_confidence: float
    stance: str | None
    stance_confidence: float | None
    abstained: bool


class BadModel(Exception):
    """The model's files are as registered, but it cannot be loaded here; the message says why."""


@contextmanager
def workers(processes: int, model: Path) -> Iterator[Callable[[Sequence[str]], Callable[[], list[Score]]]]:
    """What scores texts by the model in a folder: a thread of this process, or so many processes with one thread each.

    Texts handed to it are read at once; what it gives back waits for their scores.
    Ctrl-C reaches this process alone; the others end with it, however it ends.
    """
    pool: Executor
    if processes == 1:
        pool = ThreadPoolExecutor(1)
    else:
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start_worker)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the processes inherit
        try:
            for _ in range(processes):
                pool.submit(os.getpid)
        finally:
            signal.signal(signal.SIGINT, handler)
    try:
        yield lambda texts: pool.submit(score, model, texts).result
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    os.environ["IMMNEWS_THREADS"] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def score(folder: Path, texts: Sequence[str]) -> list[Score]:
    """Read texts by the model in a folder, which has been checked; a text's score does not depend on its neighbours.

    Raises:
        BadModel: it cannot be loaded.
    """
    reader, topics, stances = _reader(folder)
    read = reader.read(texts)
    rows = zip(read.topic, read.topic_scores, read.stance, read.stance_scores, read.abstained.tolist(), strict=True)
    return [_score(topics[topic], of_topic[topic], stances[stance], of_stance[stance], abstained)
            for topic, of_topic, stance, of_stance, abstained in rows]  # fmt: skip


def _score(topic: str, topic_confidence: float, stance: str, stance_confidence: float, abstained: bool) -> Score:
    if topic == OFF_TOPIC:
        return Score(topic, float(topic_confidence), None, None, abstained)
    return Score(topic, float(topic_confidence), stance, float(stance_confidence), abstained)


@lru_cache(maxsize=1)
def _reader(folder: Path) -> tuple[Any, list[str], list[str]]:
    """The model, and its labels in the order of its scores. Loaded once a process."""
    import mlflow.pyfunc
    from threadpoolctl import threadpool_limits

    # The model's own code must not leave bytecode beside it: unlisted files are refused.
    sys.dont_write_bytecode = True
    try:
        reader = mlflow.pyfunc.load_model(str(folder)).unwrap_python_model()
    except Exception as error:  # whatever the model's own code raises
        raise BadModel(f"the champion cannot be loaded: {error}") from None
    threadpool_limits(1, "blas")  # so that sums are the same however many processes there are
    book = reader.card["codebook"]
    return reader, *([label["name"] for label in book[labels]] for labels in ("topics", "stances"))
