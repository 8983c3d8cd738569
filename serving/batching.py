"""Requests that wait at the same time are read together: most of what a short call costs is then paid once for all."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Call(NamedTuple, Generic[Item, Answer]):
    items: Sequence[Item]
    answers: "Future[list[Answer]]"


class Batcher(Generic[Item, Answer]):
    """A function from items to as many answers, called by one thread with what many threads ask of it.

    No call waits for others to come: while one batch is worked on, the next gathers. The function must answer each item
    whatever its neighbours are.

    Parameters:
        function: what is called.
        most: a batch takes no more calls once it has so many items.
    """

    def __init__(self, function: Callable[[list[Item]], list[Answer]], most: int) -> None:
        self.function, self.most = function, most
        self.calls: queue.SimpleQueue[_Call[Item, Answer]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="batcher", daemon=True).start()

    def __call__(self, items: Sequence[Item]) -> list[Answer]:
        """The answers to the items, in their order. Raises what the function raises on these items alone."""
        call = _Call[Item, Answer](items, Future())
        self.calls.put(call)
        return call.answers.result()

    def _work(self) -> None:
        while True:
            batch = [self.calls.get()]
            while sum(len(call.items) for call in batch) < self.most and not self.calls.empty():
                batch.append(self.calls.get())
            try:
                self._answer(batch)
            except Exception:
                # One of them may be to blame: each on its own, so that the others get their answers.
                for call in batch:
                    try:
                        self._answer([call])
                    except Exception as error:
                        call.answers.set_exception(error)

    def _answer(self, batch: Sequence[_Call[Item, Answer]]) -> None:
        answers = self.function([item for call in batch for item in call.items])
        for call in batch:
            own, answers = answers[: len(call.items)], answers[len(call.items) :]
            call.answers.set_result(own)
