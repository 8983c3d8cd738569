"""The gate: when a winner may become champion, decided on figures and, end to end, on real versions."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import QUICK, Champion, Store
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from training import registry
from training.evaluation import Interval, Report, report
from training.experiment import Gate
from training.gate import compare, judge
from training.registry import champion, ledger, register
from training.run import main as train

SIZES = (4, 3)


def labels(seed: int, rows: int = 60) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([random.integers(0, size, rows) for size in SIZES], axis=1)


def reports_with_f1(worst: float) -> dict[str, Report]:
    """Reports in which the first label of each head has about the given F1 and the others are perfect."""
    true = np.repeat(np.arange(3), 100)
    predicted = true.copy()
    wrong = round(100 * (1 - worst))
    predicted[:wrong] = 1
    scores = np.full((300, 3), 1 / 3)
    one = report(true, predicted, scores, [str(n) for n in range(300)], ["a", "b", "c"], 100, 0)
    return {"topic": one, "stance": one}


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_difference_is_that_of_the_mean_macro_f1_and_its_mirror(seed: int, other: int) -> None:
    true, first, second = labels(1), labels(seed), labels(other)
    documents = [str(row // 3) for row in range(len(true))]
    there = compare(true, first, second, documents, SIZES, 100, 0)
    back = compare(true, second, first, documents, SIZES, 100, 0)

    def mean_f1(predicted: np.ndarray) -> float:
        return float(np.mean([f1_score(true[:, c], predicted[:, c], average="macro") for c in (0, 1)]))

    assert there.value == pytest.approx(mean_f1(first) - mean_f1(second))
    assert there.low == pytest.approx(-back.high)
    assert there.low <= there.high


def test_pairing_makes_the_interval_of_like_models_narrow() -> None:
    true = labels(1, 300)
    first = np.where(np.random.default_rng(2).random((300, 1)) < 0.6, true, labels(3, 300))
    second = first.copy()
    second[:3] = true[:3]
    documents = [str(row) for row in range(300)]
    paired = compare(true, second, first, documents, SIZES, 500, 0)
    unlike = compare(true, second, labels(9, 300), documents, SIZES, 500, 0)
    assert paired.high - paired.low < 0.3 * (unlike.high - unlike.low)


@pytest.mark.parametrize(
    ("difference", "passes"),
    [
        (Interval(0.0, 0.0, 0.0), True),
        (Interval(0.05, 0.01, 0.09), True),
        (Interval(-0.009, -0.03, 0.01), True),
        (Interval(-0.011, -0.03, 0.01), False),
        (Interval(-0.005, -0.009, -0.001), False),
    ],
)
def test_not_worse_means_within_the_margin_and_not_surely_below(difference: Interval, passes: bool) -> None:
    verdict = judge(Gate(margin=0.01), reports_with_f1(0.9), difference, "7")
    assert verdict.passed is passes
    assert "version 7" in verdict.reasons[0]
    assert verdict.tags()["gate"] == ("passed" if passes else "refused")
    assert str(difference) == verdict.tags()["gate_difference"]


def test_a_label_below_its_floor_is_named_with_its_figure() -> None:
    verdict = judge(Gate(topic_floor=0.25, stance_floor=0.5), reports_with_f1(0.2))
    assert not verdict.passed
    assert len(verdict.reasons) == 1, "0.2 correct of a label gives F1 0.33: above the topic's floor"
    assert verdict.reasons[0].startswith("stance a has F1 0.333")


def test_a_worse_winner_is_registered_but_not_promoted(history: Champion) -> None:
    assert "not promoted (version 2 stays champion): " in history.printed
    client = mlflow.MlflowClient(history.uri)
    refused = client.get_model_version("immigration-news", "3")
    assert refused.tags["gate"] == "refused"
    assert refused.tags["gate_champion"] == "2"
    assert float(refused.tags["gate_difference"].split()[0]) < -0.1
    assert [entry.version for entry in ledger(client)][:2] == ["1", "2"]


def test_a_champion_that_came_meanwhile_is_compared_with_too(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(stores / "meanwhile")
    store.folder.mkdir()
    good, worse = store.folder / "good.toml", store.folder / "worse.toml"
    good.write_text(QUICK)
    worse.write_text(QUICK + "params.heads__topic__C = 1e-2\nparams.heads__stance__C = 1e-2\n")
    assert store.call(train, str(good))[0] == 0
    client = mlflow.MlflowClient(store.uri)
    client.delete_registered_model_alias("immigration-news", "champion")

    def while_another_promotes(*given: Any) -> Any:
        version = register(*given)
        client.set_registered_model_alias("immigration-news", "champion", "1")
        return version

    monkeypatch.setattr(registry, "register", while_another_promotes)
    code, said = store.call(train, str(worse))
    assert code == 0 and "not promoted (version 1 stays champion): " in said, said
    tags = client.get_model_version("immigration-news", "2").tags
    assert (tags["gate"], tags["gate_champion"]) == ("refused", "1")
    present = champion(client)
    assert present is not None and present.version == 1


def test_majority_alone_can_never_be_champion(stores: Path) -> None:
    folder = stores / "floors"
    folder.mkdir()
    experiment = folder / "floors.toml"
    experiment.write_text(QUICK + "params.heads__topic__C = 1e-9\nparams.heads__stance__C = 1e-9\n")
    code, said = Store(folder).call(train, str(experiment))
    assert code == 0, said
    assert "not promoted (there is no champion yet)" in said
    assert "its floor is" in said
    assert champion(mlflow.MlflowClient(Store(folder).uri)) is None
