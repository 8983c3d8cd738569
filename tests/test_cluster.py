"""Batch scoring and the search on Ray: what one machine gives, whatever dies on the way."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import psutil
import pytest
from conftest import QUICK, ROOT, Champion, Store
from serving_processes import free_port
from test_score import PASSAGES, SENTENCES, figures, parts_of, refused, run, start, wait_for, write

import training.engine
from serving.batch import parts
from serving.batch.distributed import scores_of
from serving.batch.readings import Score
from serving.batch.scoring import Run, digest, part_blocks, to_submit
from serving.batch.sources import BadInput, Block
from serving.batch.tables import Table

# Nothing is sent home, and only who knows the secret is let in.
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
ON_RAY = ("--engine", "ray", "--processes", 2)


@contextmanager
def machine(*arguments: str) -> Iterator[psutil.Process]:
    """A machine of a cluster with one CPU, as `ray start` makes it."""
    command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, "--num-cpus=1", "--block"]
    env = {**os.environ, **RAY}
    out = subprocess.DEVNULL
    with subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True) as process:
        machine = psutil.Process(process.pid)
        try:
            yield machine
        finally:
            kill([machine, *machine.children(recursive=True)] if machine.is_running() else [])


def kill(processes: list[psutil.Process]) -> None:
    """End processes at once."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    gone(processes)


def gone(processes: list[psutil.Process], patience: float = 120) -> None:
    """All these processes have ended, or do; what then is left is ended, and the test fails."""
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        process.kill()
    assert not alive


@pytest.fixture(scope="module")
def head() -> Iterator[psutil.Process]:
    """A cluster of one machine, which this module's calls find in RAY_ADDRESS."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    # Not where pytest keeps its files: the names of Ray's sockets must stay short.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        machine("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}") as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**RAY, "RAY_ADDRESS": address}.items():
            patch.setenv(name, value)
        for _ in range(240):
            status = subprocess.run([Path(sys.executable).with_name("ray"), "status"], capture_output=True)
            if not status.returncode:
                break
            time.sleep(0.5)
        else:
            raise AssertionError(status.stderr)
        yield process


@pytest.fixture
def second(head: psutil.Process) -> Iterator[psutil.Process]:
    """Another machine of the cluster, for one test."""
    assert head.is_running()
    with machine(f"--address={os.environ['RAY_ADDRESS']}") as process:
        yield process


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster: a run makes a Ray of its own."""
    for name in ("RAY_ADDRESS", *RAY):
        monkeypatch.delenv(name, raising=False)


def workers(of: psutil.Process) -> list[psutil.Process]:
    """The processes below another that read."""
    return [process for process in of.children(recursive=True) if "Reader" in name(process)]


def name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def finished(process: subprocess.Popen[str]) -> list[str]:
    """What a run counted, when it has come to its end."""
    out, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return figures(out)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "nonsense", "127.0.0.1:x", "127.0.0.1:99999999999", "ray://127.0.0.1:1"]
)
def test_a_cluster_that_is_not_there_is_refused_with_its_address_and_the_remedy(
    history: Champion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    source = write(tmp_path / "in.jsonl", {"text": PASSAGES[:3]})
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = refused(history, source, tmp_path / "out.jsonl", "--engine", "ray")
    assert f"RAY_ADDRESS={address!r}" in said and "ray start --head" in said
    assert not (tmp_path / "out.jsonl").exists()
    monkeypatch.setenv("IMMNEWS_ENGINE", "ray")
    with pytest.raises(training.engine.NoEngine) as refusal, training.engine.engine(2):
        pass
    assert f"RAY_ADDRESS={address!r}" in str(refusal.value) and "ray start --head" in str(refusal.value)


def test_without_the_extra_the_engine_is_refused_with_the_remedy(
    history: Champion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in.jsonl", {"text": PASSAGES[:3]})
    monkeypatch.setitem(sys.modules, "ray", None)  # Python then says that it is not there
    assert "pip install '.[cluster]'" in refused(history, source, tmp_path / "out.jsonl", "--engine", "ray")
    for engine, remedy in {"ray": "pip install '.[cluster]'", "spark": "choose one of local, ray"}.items():
        monkeypatch.setenv("IMMNEWS_ENGINE", engine)
        with pytest.raises(training.engine.NoEngine) as refusal, training.engine.engine(2):
            pass
        assert f"IMMNEWS_ENGINE={engine}" in str(refusal.value).replace("'", "") and remedy in str(refusal.value)


class DiedError(Exception):
    """Stands for a kill between two lists of texts."""


def test_a_run_asks_for_what_the_cluster_was_given_also_after_a_kill(tmp_path: Path) -> None:
    texts: list[object] = [None if n % 50 == 7 else f"text {n * n % 701 if n % 3 else n // 5}" for n in range(2_000)]
    score = Score("border", 0.9, "neutral", 0.8, False)

    def blocks() -> Iterator[Block]:
        for at in range(0, len(texts), 7):
            some = texts[at : at + 7]
            yield Block(some, [None] * len(some), [json.dumps({"text": text}) for text in some], 100)

    asked: list[list[str]] = []

    def submit(some: Sequence[str]) -> Callable[[], list[Score]]:
        asked.append(list(some))
        if len(asked) == survives:
            raise DiedError
        return lambda: [score] * len(some)

    for survives in (2, 3, -1):  # lists of texts
        asked.clear()
        with parts.opened(tmp_path, ".jsonl", {"input": "one"}) as kept:
            given = list(to_submit(kept, False, part_blocks(blocks(), 450)))
            with suppress(DiedError):
                Run(kept, Table(".jsonl", None, False, 0), submit, 0, lambda _: None).over(part_blocks(blocks(), 450))
            assert asked == given[: len(asked)] and (survives > 0 or len(asked) == len(given))
            assert kept.done == {2: 0, 3: 1, -1: 5}[survives]
    assert sum(map(len, asked)) < len(set(texts) - {None})


def test_scores_of_other_texts_than_were_asked_for_are_refused() -> None:
    score = Score("border", 0.9, "neutral", 0.8, False)
    rows = [{**score._asdict(), "digest": digest(text)} for text in ("one", "two")]
    assert scores_of(["one", "two"], rows) == [score, score]
    for others in (["two", "one"], ["one"], ["one", "two", "three"]):
        with pytest.raises(BadInput, match=r"changed while it was read.*--restart"):
            scores_of(others, rows)


@pytest.mark.slow
@pytest.mark.usefixtures("second")
@pytest.mark.parametrize("output", ["parquet", "jsonl"])
def test_a_cluster_gives_the_bytes_of_one_machine(champion: Champion, tmp_path: Path, output: str) -> None:
    texts = [*PASSAGES[:700], None, "", *PASSAGES[:50], "half a pair \ud800", "x" * 10_001]
    source, target = (
        write(tmp_path / "in.jsonl", {"id": list(range(len(texts))), "text": texts}),
        tmp_path / f"o.{output}",
    )
    counted = figures(run(champion, source, target))
    whole = target.read_bytes()
    target.unlink()
    assert finished(start(champion, source, target, *ON_RAY)) == counted
    assert target.read_bytes() == whole


@dataclass(frozen=True)
class Long:
    """A table of texts that take their time, and what one machine makes of it."""

    source: Path
    whole: bytes
    counted: list[str]


@pytest.fixture(scope="module")
def long(history: Champion, tmp_path_factory: pytest.TempPathFactory) -> Long:
    folder, chosen = tmp_path_factory.mktemp("long"), random.Random(5)
    texts = [" ".join(chosen.sample(SENTENCES, 100))[:9_000] for _ in range(11_500)]
    source = write(folder / "in.jsonl", {"text": [*texts, None, *texts[:499]]})
    said = run(history, source, folder / "out.jsonl", "--part-rows", 100)
    return Long(source, (folder / "out.jsonl").read_bytes(), figures(said))


@pytest.mark.slow
def test_what_a_killed_process_or_a_lost_machine_had_is_done_again_and_nothing_twice(
    history: Champion, long: Long, head: psutil.Process, second: psutil.Process, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    process = start(history, long.source, target, "--part-rows", 100, *ON_RAY)
    while not (workers(head) and workers(second)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    wait_for(process, parts_of(target) / "part-00000003.jsonl")
    kill(workers(head))
    while len([*workers(head), *workers(second)]) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    done = len(list(parts_of(target).glob("part-*")))
    wait_for(process, parts_of(target) / f"part-{done + 3:08}.jsonl")
    assert (reading := workers(second))
    lost = [second, *second.children(recursive=True)]
    kill(lost)
    assert reading[0] in lost and process.poll() is None
    # The other machine takes its place, beside what it has to do, and not when it has read all else.
    while len(workers(head)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    done = len(list(parts_of(target).glob("part-*")))
    wait_for(process, parts_of(target) / f"part-{done + 3:08}.jsonl")
    assert finished(process) == long.counted
    assert target.read_bytes() == long.whole and not parts_of(target).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_the_command_goes_on_after_a_kill_and_after_ctrl_c_and_leaves_no_process(
    history: Champion, long: Long, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    call = (long.source, target, "--part-rows", 100, *ON_RAY)
    process = start(history, *call)
    wait_for(process, parts_of(target) / "part-00000001.jsonl")
    left = psutil.Process(process.pid).children(recursive=True)
    assert workers(psutil.Process(process.pid))
    process.kill()
    process.communicate()
    gone(left)
    killed = f"immnews-ray-{process.pid}-*"
    assert list(Path("/tmp").glob(killed))  # with some of the input; the next run clears it away

    done = len(list(parts_of(target).glob("part-*")))
    process = start(history, *call)
    wait_for(process, parts_of(target) / f"part-{done + 1:08}.jsonl")
    left = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted; the same command goes on from part")
    gone(left)
    assert not [*Path("/tmp").glob(killed), *Path("/tmp").glob(f"immnews-ray-{process.pid}-*")]

    words = {"INPUT": long.source, "OUTPUT": target, "PROCESSES": 2, "ENGINE": "ray", "OPTIONS": "--part-rows 100"}
    again = history.make("score", *(f"{name}={value}" for name, value in words.items()))
    assert again.returncode == 0, again.stderr
    assert figures(again.stdout) == long.counted
    assert target.read_bytes() == long.whole and not parts_of(target).exists()


OTHER = """
from serving.batch import cluster, distributed
with cluster.connected(1) as ray:
    texts = ray.put(distributed.pa.table({"text": [b"a text"]}))
    try:
        list(distributed.read(ray, 1, [texts], ray.put({}), "0" * 64, "other 1.0"))
    except cluster.NoCluster as refused:
        print(refused)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_a_machine_with_other_packages_refuses_with_both_and_the_remedy() -> None:
    done = subprocess.run([sys.executable, "-c", OTHER], cwd=ROOT, capture_output=True, text=True, timeout=200)
    (said,) = done.stdout.splitlines()
    assert "BadModel: it has other packages (" in said and "numpy" in said
    assert said.endswith(" than where it was started (other 1.0); install the same")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["alone", "head"])
def test_the_search_on_ray_finds_what_it_finds_here(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue(where)
    if where == "head":  # which has one CPU
        monkeypatch.setenv("IMMNEWS_THREADS", "1")
    found = {}
    for engine in ("local", "ray"):
        folder = tmp_path / engine
        folder.mkdir()
        (tmp_path / "grid.toml").write_text(QUICK + "grid.heads__topic__C = [0.3, 3.0]\n")
        done = Store(folder).make("train", f"EXPERIMENT={tmp_path / 'grid.toml'}", f"ENGINE={engine}")
        assert done.returncode == 0, done.stderr
        mlflow.set_tracking_uri(Store(folder).uri)
        runs = mlflow.search_runs(search_all_experiments=True).set_index("tags.mlflow.runName")
        figures = runs.filter(regex=r"^(params|metrics\.(cross_validation|validation|news_dev))")
        found[engine] = json.loads(figures.sort_index().to_json(orient="index"))
    assert found["ray"] == found["local"]
    assert "heads__topic__C" in str(found["ray"]["unigrams"])
