"""Calls at the same time become one; each gets its own answers, and its own errors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching import Batcher


class Doubler:
    """Doubles numbers, refuses negative ones, and notes its batches; the first waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.set()
        assert self.go.wait(20)
        if any(item < 0 for item in items):
            raise ValueError(f"{items} hold a negative number")
        return [2 * item for item in items]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(-3, 30), max_size=5), max_size=20))
def test_each_call_gets_its_own_answers_or_error(calls: list[list[int]]) -> None:
    doubler = Doubler()
    doubler.go.set()
    batcher = Batcher(doubler, 12)
    with ThreadPoolExecutor(20) as threads:
        answers = [threads.submit(batcher, call) for call in calls]
    for call, answer in zip(calls, answers, strict=True):
        if any(item < 0 for item in call):
            with pytest.raises(ValueError, match="negative"):
                answer.result()
        else:
            assert answer.result() == [2 * item for item in call]


def test_what_waits_is_read_together_up_to_the_limit() -> None:
    doubler = Doubler()
    batcher = Batcher(doubler, 6)
    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(batcher, [0])
        assert doubler.begun.wait(20)
        others = [threads.submit(batcher, [number, number]) for number in range(1, 9)]
        for _ in range(1000):
            if batcher.calls.qsize() == len(others):
                break
            time.sleep(0.01)
        doubler.go.set()
        assert first.result() == [0] and [other.result() for other in others] == [[2 * n, 2 * n] for n in range(1, 9)]
    assert [len(batch) for batch in doubler.batches] == [1, 6, 6, 4]
