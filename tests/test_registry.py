"""Versions, the alias and the ledger: rollback, its refusals, and a store that is empty."""

import shutil
from pathlib import Path

import mlflow
import pytest
from conftest import Champion, Store

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


def test_an_empty_store_is_told_to_train(tmp_path: Path) -> None:
    for main, arguments in ((registry.main, ["--rollback"]), (leaderboard.main, [])):
        code, said = Store(tmp_path).call(main, *arguments)
        assert code == 2
        assert "make train" in said
