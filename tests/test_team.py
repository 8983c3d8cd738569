"""A store that a team shares: the commands over a server, two trainings at once, and trainings that are killed."""

import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import psutil
import pytest
from conftest import QUICK, ROOT, Store
from mlflow import MlflowClient
from serving_processes import serving_champion, stop_tree
from team_server import TeamStore, team_server

from serving import bundle, score
from training import leaderboard, registry
from training.champion import answers, verified

KILLS = 20
PASSAGES = ["The refugee board granted her asylum claim.", "Send them back."]
FOLDS = "cross_validation/topic/fold_macro_f1"


@dataclass(frozen=True)
class Lone:
    """What a training that has a store to itself logs and takes. Candidate → names of its metrics."""

    metrics: dict[str, set[str]]
    cpu_seconds: float


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamStore]:
    with team_server(tmp_path_factory.mktemp("team")) as store:
        yield store


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return own_store(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Lone:
    store = own_store(tmp_path_factory.mktemp("lone"))
    training = start(store)
    worked = cpu_seconds(training)
    finish(training)
    [metrics] = metrics_of_each_training(store)
    return Lone(metrics, worked)


def own_store(folder: Path) -> Store:
    """An empty SQLite store; what a killed training leaves beside it lies in the folder too."""
    (folder / "store").mkdir()
    return Store(folder / "store")


def quick(store: Store) -> Path:
    experiment = store.folder / "quick.toml"
    experiment.write_text(QUICK)
    return experiment


def start(store: Store, **changes: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training.run", str(quick(store))]
    env = {**store.env, **changes}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(training: subprocess.Popen[bytes]) -> None:
    _, said = training.communicate(timeout=900)
    assert training.returncode == 0, said.decode()


def cpu_seconds(training: subprocess.Popen[bytes], until: float = math.inf) -> float:
    """The processor time of a training, without its workers', once it has ended or has taken so much."""
    process, worked = psutil.Process(training.pid), 0.0
    with suppress(psutil.NoSuchProcess):
        while worked < until and process.status() != psutil.STATUS_ZOMBIE:
            times = process.cpu_times()
            worked = times.user + times.system
            time.sleep(0.01)
    return worked


def versions(store: Store) -> list[int]:
    found = MlflowClient(store.uri).search_model_versions(f"name = '{registry.MODEL}'")
    return sorted(int(version.version) for version in found)


def champion_of(store: Store) -> str:
    version = registry.champion(MlflowClient(store.uri))
    assert version is not None
    return str(version.version)


def metrics_of_each_training(store: Store) -> list[dict[str, set[str]]]:
    """For each training that finished: candidate → names of its metrics; every fold must be there."""
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(registry.MODEL)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    out: dict[str, dict[str, set[str]]] = {run.info.run_id: {} for run in runs if run.data.tags.get("outcome")}
    for run in runs:
        parent = run.data.tags.get("mlflow.parentRunId")
        if parent in out:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, FOLDS)]
            assert sorted(steps) == [0, 1, 2]
            out[parent][run.data.params["candidate"]] = set(run.data.metrics)
    return list(out.values())


def check_champion(store: Store, loads: bool = True) -> str | None:
    """The champion's version, if there is one: its files are those that its manifest lists, and it answers."""
    mlflow.set_tracking_uri(store.uri)
    version = registry.champion(MlflowClient(store.uri))
    if version is None:
        return None
    assert version.tags["gate"] == "passed"
    with verified(version) as folder:
        if loads:
            assert len(answers(version, folder, PASSAGES)) == len(PASSAGES)
    return str(version.version)


@pytest.mark.slow
def test_the_commands_work_over_a_server(team: TeamStore, tmp_path: Path) -> None:
    def served_version(folder: str) -> str:
        (tmp_path / folder).mkdir()
        with serving_champion(team.uri, tmp_path / folder) as client:
            answer = client.post("/classify", json={"passages": PASSAGES}).json()
        assert len(answer["readings"]) == len(PASSAGES)
        return str(answer["model"]["version"])

    done = team.make("train", f"EXPERIMENT={quick(team)}")
    assert done.returncode == 0, done.stderr
    first = champion_of(team)
    assert f"version {first}; test split" in done.stdout and "promoted to champion" in done.stdout
    assert check_champion(team) == first

    finish(start(team))
    second = champion_of(team)
    assert versions(team)[-2:] == [int(first), int(second)]
    code, ledger = team.call(registry.main)
    assert code == 0 and f" {first} -> {second} " in ledger.splitlines()[-1]
    code, board = team.call(leaderboard.main)
    assert code == 0 and board.splitlines()[-1] == f"champion: version {second}"
    assert f"version {second}; test split" in board
    assert served_version("second") == second
    ui = team.make("ui")
    assert ui.returncode == 0 and f"open {team.uri}" in ui.stdout
    code, said = team.call(bundle.main, "build")
    assert code == 0 and "bentoml serve immigration-news:" in said, said
    (tmp_path / "in.csv").write_text("text\nThe ministry published the rules on Monday.\n", encoding="utf-8")
    code, said = team.call(score.main, str(tmp_path / "in.csv"), str(tmp_path / "out.jsonl"))
    assert code == 0 and "scored      1\n" in said, said

    code, said = team.call(registry.main, "--rollback", "--why", "a test")
    assert code == 0 and said.splitlines()[-1].endswith(": a test"), said
    assert f" {second} -> {first} " in said.splitlines()[-1]
    assert served_version("first") == first


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "team"])
def test_two_trainings_at_once_lose_nothing(kind: str, lone: Lone, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kind)
    before = versions(store) if kind == "team" else []  # nothing made the local store yet: both will
    for training in [start(store), start(store)]:
        finish(training)
    after = versions(store)
    assert len(after) == len(set(after)) == len(before) + 2
    trainings = metrics_of_each_training(store)
    assert len(trainings) == len(after)
    assert all(metrics == lone.metrics for metrics in trainings)
    assert int(check_champion(store) or 0) in after[-2:]


@pytest.mark.slow
def test_kill_9_of_a_training_never_leaves_half_a_champion(lone: Lone, tmp_path: Path) -> None:
    """Killed all over its length, half of the times before there is a champion. The length is counted in processor
    time: on a machine that others use, seconds say little of how far a training has come."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, store, length, seen = random.Random(seed), own_store(tmp_path), lone.cpu_seconds, set[str]()

    def kill(number: int) -> None:
        nonlocal length
        while True:
            point = (number + chance.random()) / KILLS * length
            training = start(store, TMPDIR=str(tmp_path))
            worked = cpu_seconds(training, until=point)
            if worked >= point:
                stop_tree(training, signal.SIGKILL)
                break
            finish(training)
            length = worked  # the lone one took longer: again
        there = (store.folder / "mlflow.db").exists()  # to ask it otherwise would make it
        champion = check_champion(store, loads=False) if there else None
        if champion is not None and champion not in seen:
            seen.add(check_champion(store))
        print(f"killed after {point:.1f} s of work: store {there}, champion {champion}", flush=True)

    for number in range(0, KILLS, 2):
        kill(number)
    finish(start(store))
    for number in range(1, KILLS, 2):
        kill(number)
    finish(start(store))
    assert check_champion(store) == str(versions(store)[-1])
    assert all(metrics == lone.metrics for metrics in metrics_of_each_training(store))
