"""A correction that was acknowledged is there, and there once, whatever kills the service."""

import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from conftest import Champion
from serving_processes import serving_champion

POSTS, BEFORE_THE_KILL = 1_000, 250


def kill_all_with(setting: str) -> int:
    """SIGKILL to every process that has the setting in its environment: supervisor and workers; gives how many."""
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if setting.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
        except (OSError, ProcessLookupError):
            continue
    return killed


def stored(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as store:
        return [key for (key,) in store.execute("SELECT key FROM corrections")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the service's processes in /proc")
def test_kill_9_loses_no_acknowledged_correction_and_doubles_none(champion: Champion, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/feedback.db"

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
                acknowledged.add(f"key-{number}")
                last = len(acknowledged) == BEFORE_THE_KILL
            if last:
                assert kill_all_with(f"IMMNEWS_FEEDBACK_URL={url}") >= 2
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
