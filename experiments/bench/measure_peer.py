"""One measurement of one peer, in a process of its own in `.venv-bench`, on passages that the driver wrote as JSON."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.cost import CALLS, drawn, peak_megabytes, rates
from experiments.bench.peers import PEERS, Rows, SentenceTransformers


class Data:
    """The passages that the benchmark wrote as JSON (see `candidates.write_data`)."""

    def __init__(self, path: Path) -> None:
        read = json.loads(path.read_text(encoding="utf-8"))
        self.path, self.texts, self.seed, self.timed = path, read["texts"], read["seed"], read["timed"]
        self.y, self.weight, self.fold = np.array(read["y"]), np.array(read["weight"]), np.array(read["fold"])

    def rows(self, peer: Any, part: str) -> Rows:
        """What the peer extracts of `train` or `validation`; embeddings are kept beside the data, as ours are."""
        path = self.path.with_name(f"{part}.npy")
        if not isinstance(peer, SentenceTransformers):
            return peer.extract(self.texts[part])  # type: ignore[no-any-return]
        if not path.exists():
            np.save(path, peer.extract(self.texts[part]))
        return np.load(path)  # type: ignore[no-any-return]


def fit(name: str, factor: int, data: Data, sizes: Sequence[int]) -> dict[str, Any]:
    """As `candidates.fit`; instead of its quality, for factor 1, the `answers` on the validation split."""
    peer = PEERS[name](PEERS[name].BEST, data.seed)
    peer.extract(data.timed[:2])
    rows = data.rows(peer, "train")
    chosen = drawn(len(rows), factor, data.seed)
    drawn_rows, y, weight = rows[chosen], data.y[chosen], data.weight[chosen]
    started = time.perf_counter()
    peer.fit(drawn_rows, y, weight)
    out: dict[str, Any] = {"passages": len(chosen), "fit seconds": time.perf_counter() - started}
    out["peak MB"] = peak_megabytes()
    if factor == 1:
        out["answers"] = peer.predict(data.rows(peer, "validation")).tolist()
        out |= rates(lambda texts: peer.predict(peer.extract(texts)), data.timed, sizes)
    return out


def search(name: str, data: Data) -> None:
    """Print each setting of a peer's grid with its macro-F1 of topic, stance and both, mean of the folds."""
    from sklearn.metrics import f1_score

    grid, rows = PEERS[name].GRID, None
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        peer = PEERS[name](settings, data.seed)
        rows = data.rows(peer, "train") if rows is None else rows
        scores = []
        for fold in np.unique(data.fold):
            train, test = np.flatnonzero(data.fold != fold), np.flatnonzero(data.fold == fold)
            peer.fit(rows[train], data.y[train], data.weight[train])
            pairs = zip(data.y[test].T, peer.predict(rows[test]).T, strict=True)
            scores.append([f1_score(true, read, average="macro") for true, read in pairs])
        topic, stance = np.mean(scores, axis=0)
        print(f"{(topic + stance) / 2:.3f} {topic:.3f} {stance:.3f} {settings}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m experiments.bench.measure_peer PEER DATA`: one measurement, as JSON; 3 where it is not installed."""
    parser = argparse.ArgumentParser(prog="experiments.bench.measure_peer", description=main.__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("data", type=Path, help="as `python -m experiments.bench.candidates --data FILE` writes it")
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(CALLS), choices=CALLS)
    parser.add_argument("--search", action="store_true", help="try the peer's grid instead")
    options = parser.parse_args(arguments)
    data = Data(options.data)
    try:
        if options.search:
            search(options.peer, data)
        else:
            print(json.dumps(fit(options.peer, options.factor, data, options.sizes)))
    except ModuleNotFoundError as error:
        print(f"not installed ({error}); `make bench TORCH=1` installs all", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
