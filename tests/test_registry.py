"""Versions, the alias and the ledger: rollback, its refusals, and a store that is empty."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import mlflow
import pytest
from conftest import ROOT, Champion, Store
from serving_processes import free_port, stop_tree, wait_for

from training import leaderboard, registry


def rollback(store: Store, *version: str) -> tuple[int, str]:
    return store.call(registry.main, "--rollback", *version)


def champion_of(store: Store) -> str:
    present = registry.champion(mlflow.MlflowClient(store.uri))
    assert present is not None
    return str(present.version)


def test_rollback_goes_to_the_champion_before_or_to_the_one_named_and_says_so(history: Champion) -> None:
    before = len(registry.ledger(mlflow.MlflowClient(history.uri)))
    code, said = rollback(history)
    assert code == 0, said
    assert " 2 -> 1 " in said.splitlines()[-1]
    assert champion_of(history) == "1"
    code, said = history.call(registry.main, "--rollback", "2", "--why", "1 misread letters")
    assert code == 0, said
    assert champion_of(history) == "2"
    _, shown = history.call(registry.main)
    assert len(shown.splitlines()) == before + 2
    assert shown.splitlines()[-1].endswith("1 misread letters")


@pytest.mark.parametrize("version", ["9", "0", "x", "=-1.5", "2", "3"])
def test_a_version_that_cannot_be_champion_is_refused_with_the_good_ones(history: Champion, version: str) -> None:
    code, said = history.call(registry.main, f"--rollback{version}" if version[0] == "=" else f"--rollback={version}")
    assert code == 2
    assert f"version '{version.removeprefix('=')}' cannot become champion; the champion is 2; choose one of 1\n" in said
    assert champion_of(history) == "2"


def test_rollback_refuses_a_version_whose_files_have_changed(history: Champion) -> None:
    version = mlflow.MlflowClient(history.uri).get_model_version("immigration-news", "1")
    card = (
        history.folder
        / "mlruns"
        / "models"
        / version.source.rsplit("/", 1)[1]
        / "artifacts"
        / "artifacts"
        / "card.json"
    )
    kept = shutil.copyfile(card, history.folder / "card.json")
    try:
        card.write_bytes(card.read_bytes().replace(b'"threshold"', b'"Threshold"'))
        code, said = rollback(history, "1")
    finally:
        shutil.copyfile(kept, card)
    assert code == 2
    assert "card.json is not as it was registered" in said
    assert champion_of(history) == "2"


@pytest.mark.slow
def test_the_ui_shows_this_store(history: Champion, tmp_path: Path) -> None:
    port = str(free_port())
    command = ["make", "--no-print-directory", "ui", f"PORT={port}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=history.env, stdout=log, stderr=log)

    def champion_shown() -> str:
        with suppress(httpx.TransportError):
            asked = {"name": "immigration-news", "alias": "champion"}
            path = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/registered-models/alias"
            answer = httpx.get(path, params=asked, trust_env=False)
            return str(answer.json()["model_version"]["version"]) if answer.status_code == 200 else ""
        return ""

    before = champion_of(history)
    try:
        assert wait_for(champion_shown, 60) == before
    finally:
        stop_tree(process)


def test_an_empty_store_is_told_to_train(tmp_path: Path) -> None:
    for main, arguments in ((registry.main, ["--rollback"]), (leaderboard.main, [])):
        code, said = Store(tmp_path).call(main, *arguments)
        assert code == 2
        assert "make train" in said
