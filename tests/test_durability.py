"""A correction that was acknowledged is there, and there once, whatever kills the service."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import Champion
from serving_processes import serving_champion

POSTS, BEFORE_THE_KILL = 1_000, 250


def kill_all(pid: int) -> int:
    """SIGKILL to a process and all that it started, supervisor first; gives how many."""
    supervisor = psutil.Process(pid)
    all_of_it = [supervisor, *supervisor.children(recursive=True)]
    for process in all_of_it:
        process.kill()
    return len(all_of_it)


def stored(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as store:
        return [key for (key,) in store.execute("SELECT key FROM corrections")]


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_correction_and_doubles_none(champion: Champion, tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    counting = threading.Lock()  # or two threads would find the count reached, and the second no process to kill

    def post(client: httpx.Client, number: int) -> int:
        body = {"passage": f"Passage {number} of the night.", "topic": "border", "stance": "neutral"}
        try:
            status = client.post("/feedback", json=body, headers={"Idempotency-Key": f"key-{number}"}).status_code
        except httpx.TransportError:
            return 0
        if status == 200:
            with counting:
                new = f"key-{number}" not in acknowledged
                acknowledged.add(f"key-{number}")
                last = new and len(acknowledged) == BEFORE_THE_KILL
            if last:
                assert kill_all(int((tmp_path / "server.pid").read_text())) >= 2
        return status

    with ThreadPoolExecutor(64) as threads:
        with serving_champion(champion.uri, tmp_path) as client:
            statuses = list(threads.map(lambda number: post(client, number), range(POSTS)))
        assert BEFORE_THE_KILL <= len(acknowledged) < POSTS and 0 in statuses
        kept = stored(tmp_path / "feedback.db")
        assert len(kept) == len(set(kept)) and acknowledged <= set(kept)
        with serving_champion(champion.uri, tmp_path) as client:
            assert set(threads.map(lambda number: post(client, number), range(POSTS))) == {200}
    assert sorted(stored(tmp_path / "feedback.db")) == sorted(f"key-{number}" for number in range(POSTS))
