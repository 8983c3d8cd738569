"""A correction that was acknowledged is there, and there once, whatever kills the service."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import Champion
from postgresql_server import postgresql_server
from serving_processes import process_tree, serving_champion
from sqlalchemy import text

from serving.database import open_engine

POSTS, BEFORE_THE_KILL = 1_000, 250


def kill_all(pid: int) -> int:
    """SIGKILL to a process and all that it started, supervisor first; gives how many."""
    all_of_it = process_tree(pid)
    for process in all_of_it:
        process.kill()
    return len(all_of_it)


def stored(url: str) -> list[str]:
    """The keys of all corrections that a database holds."""
    engine = open_engine(url)
    with engine.connect() as connection:
        keys = [key for (key,) in connection.execute(text("SELECT key FROM corrections"))]
    engine.dispose()
    return keys


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database for corrections, which the service does not take along when it dies."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/corrections.db"
        return
    with postgresql_server() as address:
        yield address


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_correction_and_doubles_none(champion: Champion, tmp_path: Path, url: str) -> None:
    acknowledged: set[str] = set()
    counting = threading.Lock()  # or two threads would find the count reached, and the second no process to kill

    def post(base_url: httpx.URL, number: int) -> int:
        """Of one of a thousand clients: the last status, after it came back as often as it was told to."""
        body = {"passage": f"Passage {number} of the night.", "topic": "border", "stance": "neutral"}
        status = 429
        while status == 429:
            try:
                answer = httpx.post(
                    base_url.join("/feedback"), json=body, headers={"Idempotency-Key": f"key-{number}"},
                    timeout=60, trust_env=False, verify=False,
                )  # fmt: skip
            except httpx.TransportError:
                return 0
            status = answer.status_code
            if status == 429:
                time.sleep(int(answer.headers["retry-after"]))
        if status == 200:
            with counting:
                new = f"key-{number}" not in acknowledged
                acknowledged.add(f"key-{number}")
                last = new and len(acknowledged) == BEFORE_THE_KILL
            if last:
                assert kill_all(int((tmp_path / "server.pid").read_text())) >= 2
        return status

    def post_all(threads: ThreadPoolExecutor) -> list[int]:
        with serving_champion(champion.uri, tmp_path, IMMNEWS_FEEDBACK_URL=url) as client:
            return list(threads.map(lambda number: post(client.base_url, number), range(POSTS)))

    with ThreadPoolExecutor(POSTS) as threads:
        statuses = post_all(threads)
        assert BEFORE_THE_KILL <= len(acknowledged) < POSTS and 0 in statuses
        kept = stored(url)
        assert len(kept) == len(set(kept)) and acknowledged <= set(kept)
        assert set(post_all(threads)) == {200}
    assert sorted(stored(url)) == sorted(f"key-{number}" for number in range(POSTS))
