"""What serving costs: our service beside a bare Starlette, MLflow's own server and a call in the process, in turns."""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlflow.pyfunc

from data.corpora import load_bundled
from experiments.bench import machine
from serving.bundle import checked_copy
from serving.registry import NoChampion, champion

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CONNECTIONS = 16
PORTS = {"service": 3801, "bare": 3802, "mlflow": 3803}

Post = Callable[[Sequence[str]], None]


@contextmanager
def started(command: Sequence[str], port: int, path: str, log: Path, **env: str) -> Iterator[None]:
    """A server as a process of its own, from its first 200 to the end of the block."""
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=out, stderr=out)
    try:
        for _ in range(240):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            if process.poll() is not None:
                raise SystemExit(f"{command[:4]} ended:\n{log.read_text()[-2000:]}")
            time.sleep(0.25)
        else:
            raise SystemExit(f"{command[:4]} is not ready:\n{log.read_text()[-2000:]}")
        yield
    finally:
        process.terminate()
        process.wait(60)


class Client:
    """A connection to one of the servers, kept from request to request."""

    def __init__(self, name: str) -> None:
        self.path = "/invocations" if name == "mlflow" else "/classify"
        self.connection = http.client.HTTPConnection("127.0.0.1", PORTS[name], timeout=120)

    def __call__(self, passages: Sequence[str]) -> None:
        """Ask, and read the whole answer; anything but 200 ends the benchmark."""
        body: dict[str, Any] = {"passages": passages}
        if self.path == "/invocations":
            body = {"dataframe_split": {"columns": ["text"], "data": [[passage] for passage in passages]}}
        self.connection.request("POST", self.path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.path} answered {answer.status}: {content[:300]!r}")


def rate(posts: Sequence[Post], texts: Sequence[str], size: int, seconds: float) -> float:
    """Passages a second with one asker a connection, each asking again at once, `size` passages a request."""
    end, counts = time.perf_counter() + seconds, [0] * len(posts)

    def ask(number: int) -> None:
        at = number * 37
        while time.perf_counter() < end:
            posts[number]([texts[(at + i) % len(texts)] for i in range(size)])
            counts[number] += size
            at += size

    start = time.perf_counter()
    with ThreadPoolExecutor(len(posts)) as pool:
        list(pool.map(ask, range(len(posts))))  # raises what one of them raised
    return sum(counts) / (time.perf_counter() - start)


def latencies(post: Post, texts: Sequence[str]) -> list[float]:
    """Seconds of one request of one passage after another, sorted."""
    taken = []
    for text in texts:
        start = time.perf_counter()
        post([text])
        taken.append(time.perf_counter() - start)
    return sorted(taken)


def under_load(posts: Sequence[Post], texts: Sequence[str], per_second: float, seconds: float) -> list[float]:
    """Seconds from when each request was due to its answer, at a steady rate, sorted; a late start is waiting too."""
    free, start = list(posts), time.perf_counter()

    def ask(number: int) -> float:
        due = start + number / per_second
        time.sleep(max(0, due - time.perf_counter()))
        post = free.pop()
        post([texts[number % len(texts)]])
        free.append(post)
        return time.perf_counter() - due

    with ThreadPoolExecutor(len(posts)) as pool:
        return sorted(pool.map(ask, range(int(per_second * seconds))))


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Each figure once a round, all of a round before the next."""
    texts = [row["text"] for row in load_bundled()]
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="immnews-bench-")))
        model = checked_copy(champion(), folder)
        bin_ = Path(sys.executable).parent
        port = {name: ["--port", str(number)] for name, number in PORTS.items()}
        serve = [sys.executable, "-m", "serving.serve", *port["service"]]
        bare = [str(bin_ / "uvicorn"), "experiments.bench.bare:app", "--no-access-log", *port["bare"]]
        scoring = [str(bin_ / "mlflow"), "models", "serve", "--model-uri", str(model), "--env-manager", "local"]
        scoring += ["--workers", "1", *port["mlflow"]]
        own = {"BENTOML_HOME": str(folder / "bentoml"), "IMMNEWS_FEEDBACK_URL": f"sqlite:///{folder}/feedback.db"}
        stack.enter_context(started(serve, PORTS["service"], "/readyz", folder / "service.log", **own))
        stack.enter_context(started(bare, PORTS["bare"], "/readyz", folder / "bare.log", BENCH_MODEL=str(model)))
        path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
        stack.enter_context(started(scoring, PORTS["mlflow"], "/ping", folder / "mlflow.log", PATH=path))
        reader = mlflow.pyfunc.load_model(str(model)).unwrap_python_model()

        def clients(name: str, number: int) -> list[Post]:
            return [Client(name) for _ in range(number)]  # new ones: a server closes what was idle for seconds

        def in_process(passages: Sequence[str]) -> None:
            reader.read(passages)

        def note(name: str, value: float) -> None:
            found.setdefault(name, []).append(value)
            print(f"  {name}: {value:.4g}", flush=True)

        for number in range(rounds + 1):
            print(f"round {number} of {rounds}" if number else "warming up", flush=True)
            if number == 1:
                found.clear()
            for name in PORTS:
                one_each = rate(clients(name, CONNECTIONS), texts, 1, seconds)
                note(f"{name}: passages/s, {CONNECTIONS} connections, 1 a request", one_each)
            for name in PORTS:
                many = rate(clients(name, 2), texts, 64, seconds)
                note(f"{name}: passages/s, 2 connections, 64 a request", many)
            note("in process: passages/s, 64 a call", rate([in_process], texts, 64, seconds))
            for name in (*PORTS, "in process"):
                one = latencies(clients(name, 1)[0] if name in PORTS else in_process, texts[:100])
                note(f"{name}: p50 ms, 1 connection", 1000 * statistics.median(one))
            load = 0.7 * found[f"service: passages/s, {CONNECTIONS} connections, 1 a request"][-1]
            loaded = under_load(clients("service", CONNECTIONS), texts, load, seconds)
            note("service: p50 ms at 70% load", 1000 * statistics.median(loaded))
            note("service: p99 ms at 70% load", 1000 * loaded[int(0.99 * len(loaded))])
    return found


def report(found: dict[str, list[float]]) -> tuple[dict[str, Any], str]:
    """All figures with the ratios that matter, and the same as a table."""
    middle = {name: statistics.median(values) for name, values in found.items()}
    at_16 = {name: middle[f"{name}: passages/s, {CONNECTIONS} connections, 1 a request"] for name in PORTS}
    p50 = {name: middle[f"{name}: p50 ms, 1 connection"] for name in (*PORTS, "in process")}
    many = middle["service: passages/s, 2 connections, 64 a request"]
    ratios = {
        "service / bare Starlette, 16 connections (target 0.9 or more)": at_16["service"] / at_16["bare"],
        "service / mlflow models serve, 16 connections (target 3 or more)": at_16["service"] / at_16["mlflow"],
        "service - in process, p50 ms, 1 connection (target 2 or less)": p50["service"] - p50["in process"],
        "service, 64 a request / in process, 64 a call (target 0.8 or more)": many
        / middle["in process: passages/s, 64 a call"],
        "p99 / p50 at 70% load (target 3 or less)": middle["service: p99 ms at 70% load"]
        / middle["service: p50 ms at 70% load"],
    }
    rounds = len(next(iter(found.values())))
    lines = [
        f"Medians of {rounds} rounds in turns, {machine()}, IMMNEWS_THREADS={os.environ.get('IMMNEWS_THREADS', '2')}.",
        "",
    ]
    lines += ["| ratio | |", "| --- | ---: |", *(f"| {name} | {value:.2f} |" for name, value in ratios.items()), ""]
    lines += ["| figure | median | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {middle[name]:.4g} | {min(v):.4g} | {max(v):.4g} |" for name, v in found.items()]
    return {"machine": machine(), "rounds": rounds, "ratios": ratios, "figures": found}, "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """`make bench`: writes service.json and service.md beside this module."""
    parser = argparse.ArgumentParser(prog="experiments.bench.service", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    options = parser.parse_args(arguments)
    try:
        figures, table = report(measure(options.rounds, options.seconds))
    except NoChampion as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (HERE / "service.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (HERE / "service.md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
