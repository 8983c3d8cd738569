"""The figures: scikit-learn's on any data, intervals that draw documents, calibration, and when to abstain."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support

from training.evaluation import (
    TEMPERATURES,
    abstention,
    accuracy,
    best_temperature,
    by_document,
    calibration_error,
    coverage_threshold,
    macro_f1,
    reliability,
    report,
    resample,
)
from training.model.heads import tempered

NAMES = ["asylum", "border", "courts", "labour"]


@st.composite
def predictions(draw: st.DrawFn) -> dict[str, Any]:
    """True and predicted labels of 1 to 40 passages of up to 8 documents, often without some of the labels."""
    rows = draw(st.integers(1, 40))
    labels = st.sampled_from(draw(st.lists(st.sampled_from(range(len(NAMES))), min_size=1)))
    true, predicted = (np.array(draw(st.lists(labels, min_size=rows, max_size=rows))) for _ in range(2))
    documents = draw(st.lists(st.sampled_from("abcdefgh"), min_size=rows, max_size=rows))
    scores = np.random.default_rng(draw(st.integers(0, 99))).dirichlet(np.ones(len(NAMES)), rows)
    return {"true": true, "predicted": predicted, "documents": documents, "scores": scores}


@given(predictions())
@settings(deadline=None, max_examples=60)
def test_figures_are_those_of_scikit_learn(data: dict[str, Any]) -> None:
    found, (true, predicted) = report(**data, names=NAMES, resamples=20, seed=0), (data["true"], data["predicted"])
    assert found.macro_f1.value == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0.0))
    assert found.accuracy.value == pytest.approx(accuracy_score(true, predicted))
    for how, figures in (("weighted", found.weighted), ("macro", found.macro)):
        expected = precision_recall_fscore_support(true, predicted, average=how, zero_division=0.0)[:3]
        assert [figures["precision"], figures["recall"], figures["f1"]] == pytest.approx(expected), how
    for label, name in enumerate(NAMES):
        figures = found.per_class[name]
        assert figures["support"] == (true == label).sum()
        assert figures["f1"] == pytest.approx(f1_score(true == label, predicted == label, zero_division=0.0))
    assert found.log_loss == pytest.approx(log_loss(true, data["scores"], labels=range(len(NAMES))))


@given(predictions(), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_each_draw_is_the_figure_of_the_documents_drawn(data: dict[str, Any], seed: int) -> None:
    true, predicted, documents = data["true"], data["predicted"], np.array(data["documents"])
    confusions = by_document(true, predicted, data["documents"], len(NAMES))
    [draw] = resample(len(confusions), 1, seed)
    assert draw.sum() == len(confusions) == len(set(documents))
    times = dict(zip(sorted(set(documents)), draw, strict=True))
    drawn = np.concatenate([np.tile(np.flatnonzero(documents == name), count) for name, count in times.items()])
    confusion = np.tensordot(draw, confusions, axes=1)
    assert accuracy(confusion) == pytest.approx(accuracy_score(true[drawn], predicted[drawn]))
    assert macro_f1(confusion) == pytest.approx(
        f1_score(true[drawn], predicted[drawn], average="macro", zero_division=0.0)
    )


def test_intervals_are_wider_where_passages_of_a_document_stand_or_fall_together() -> None:
    """Ten documents of forty passages, half of the documents wholly wrong: ten observations, not four hundred."""
    true = np.tile([0, 1], 200)
    right = np.repeat([True, False] * 5, 40)
    predicted, scores = np.where(right, true, 1 - true), np.full((400, 2), 0.5)
    together = [f"d{n // 40}" for n in range(400)]
    apart = [f"d{n}" for n in range(400)]
    widths = []
    for documents in (together, apart):
        found = report(true, predicted, scores, documents, NAMES[:2], 2000, 1).accuracy
        assert found.low < found.value == 0.5 < found.high
        widths.append(found.high - found.low)
    # The normal approximation: twice 1.96 standard errors of 10 and of 400 observations of variance 1/4.
    assert widths == pytest.approx([3.92 * (0.25 / 10) ** 0.5, 3.92 * (0.25 / 400) ** 0.5], rel=0.15)


def test_ids_that_differ_in_a_trailing_nul_are_two_documents() -> None:
    labels = np.array([0, 1])
    assert len(by_document(labels, labels, ["d", "d\0"], 2)) == 2


def test_the_seed_alone_decides_the_intervals() -> None:
    random = np.random.default_rng(5)
    true, predicted = random.integers(0, 4, (2, 80))
    documents, scores = [str(n % 30) for n in range(80)], random.dirichlet(np.ones(4), 80)
    one, again, other = (report(true, predicted, scores, documents, NAMES, 300, seed) for seed in (1, 1, 2))
    assert one == again
    assert one.macro_f1.value == other.macro_f1.value
    assert one.macro_f1 != other.macro_f1


def test_the_order_of_the_passages_does_not_matter() -> None:
    random = np.random.default_rng(6)
    true, predicted = random.integers(0, 4, (2, 50))
    documents, scores = np.array([str(n % 20) for n in range(50)]), random.dirichlet(np.ones(4), 50)
    order = random.permutation(50)
    first = report(true, predicted, scores, documents.tolist(), NAMES, 200, 3)
    second = report(true[order], predicted[order], scores[order], documents[order].tolist(), NAMES, 200, 3)
    assert (first.macro_f1, first.accuracy) == (second.macro_f1, second.accuracy)


def test_an_empty_split_cannot_be_evaluated() -> None:
    none = np.array([], np.int64)
    with pytest.raises(ValueError, match="the split is empty"):
        report(none, none, np.zeros((0, 4)), [], NAMES, 100, 0)


def test_metrics_leave_out_figures_of_labels_that_the_split_does_not_hold() -> None:
    true, predicted = np.array([0, 0, 1]), np.array([0, 2, 1])
    metrics = report(true, predicted, np.full((3, 4), 0.25), ["a", "b", "c"], NAMES, 100, 0).metrics("validation/topic")
    assert metrics["validation/topic/recall/asylum"] == 0.5
    assert metrics["validation/topic/support/border"] == 1
    assert not [name for name in metrics if name.endswith(("/courts", "/labour"))]
    assert metrics["validation/topic/macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3), "courts was predicted: it counts"


def test_calibration_error_of_an_example_worked_by_hand() -> None:
    """Bins 0.9 to 1 (mean 0.95, one of two right), 0.6 to 0.7 (0.62, both right) and 0.5 to 0.6 (0.5, wrong)."""
    confidence = np.array([0.92, 0.98, 0.61, 0.63, 0.5])
    scores = np.stack([confidence, 1 - confidence], axis=1)
    true, predicted = np.array([0, 1, 0, 0, 1]), np.zeros(5, int)
    bins = sorted(reliability(true, predicted, scores))
    assert [count for _, _, count in bins] == [1, 2, 2]
    assert [right for _, right, _ in bins] == [0.0, 1.0, 0.5]
    assert [mean for mean, _, _ in bins] == pytest.approx([0.5, 0.62, 0.95])
    expected = 1 / 5 * 0.5 + 2 / 5 * 0.38 + 2 / 5 * 0.45
    assert calibration_error(true, predicted, scores) == pytest.approx(expected)


def test_calibration_looks_at_the_label_given_even_where_another_is_more_probable() -> None:
    scores = np.array([[0.8, 0.2]] * 10)
    assert calibration_error(np.ones(10, int), np.ones(10, int), scores) == pytest.approx(0.8)
    assert calibration_error(np.zeros(10, int), np.zeros(10, int), scores) == pytest.approx(0.2)


def test_full_confidence_that_is_right_is_calibrated() -> None:
    assert calibration_error(np.zeros(3, int), np.zeros(3, int), np.array([[1.0, 0.0]] * 3)) == 0


def drawn_from(scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels drawn by the probabilities of their rows: of these, the probabilities are the truth."""
    return (np.random.default_rng(seed).random((len(scores), 1)) > scores.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.1, 0.216, 0.5, 1.0, 3.0, 10.0])
def test_best_temperature_recovers_the_one_that_spoilt_the_probabilities(temperature: float) -> None:
    honest = np.random.default_rng(1).dirichlet(np.ones(5), 20_000)
    # tempered(tempered(p, 1 / t), t) is p
    found = best_temperature(drawn_from(honest), tempered(honest, 1 / temperature))
    assert found == pytest.approx(temperature, rel=0.05)


def test_best_temperature_leaves_honest_probabilities_better_than_any_other() -> None:
    scores = tempered(np.random.default_rng(2).dirichlet(np.ones(4), 400), 2.5)
    true = drawn_from(tempered(scores, 0.7), 3)
    best = best_temperature(true, scores)
    losses = {t: log_loss(true, tempered(scores, t), labels=range(4)) for t in (best, *np.geomspace(*TEMPERATURES, 60))}
    assert min(losses, key=lambda t: losses[t]) == best


def test_a_label_that_no_fit_saw_does_not_sway_the_temperature() -> None:
    honest = np.random.default_rng(4).dirichlet(np.ones(3), 500)
    true, unseen = drawn_from(honest), np.zeros((500, 1))
    scores = np.hstack([tempered(honest, 0.5), unseen])
    alone = best_temperature(true, scores[:, :3])
    assert best_temperature(true, scores) == pytest.approx(alone)
    more = np.vstack([scores, scores[:50]]), np.append(true, np.full(50, 3))
    assert best_temperature(more[1], more[0]) == pytest.approx(alone), "fifty passages whose label has probability 0"
    assert best_temperature(np.full(5, 3), scores[:5]) == 1.0


CONFIDENT = st.lists(st.tuples(st.booleans(), st.sampled_from([0.2, 0.5, 0.50001, 0.7, 0.9, 1.0])), min_size=1)


@given(CONFIDENT, st.floats(0, 1))
def test_of_all_thresholds_that_keep_a_tenth_the_lowest_that_is_precise_enough(
    passages: list[tuple[bool, float]], precision: float
) -> None:
    right, confidence = (np.array(column) for column in zip(*passages, strict=True))
    found = coverage_threshold(right, confidence, precision)
    kept = {threshold: confidence >= threshold for threshold in set(confidence.tolist())}
    shares = {threshold: right[mask].mean() for threshold, mask in kept.items() if mask.mean() >= 0.1}
    enough = [threshold for threshold, share in shares.items() if share >= precision]
    if enough:
        assert found == min(enough)
        assert right[confidence >= found].mean() >= precision
    else:
        assert found == min(threshold for threshold in shares if shares[threshold] == max(shares.values()))


def test_passages_of_equal_confidence_are_kept_or_left_together() -> None:
    """In file order the first nine of ten are right, but no threshold can tell them from the eleven that follow."""
    right = np.array([True] * 9 + [False] * 11)
    assert coverage_threshold(right, np.full(20, 0.3), 0.9) == 0.3
    assert coverage_threshold(right, np.where(np.arange(20) < 5, 0.8, 0.3), 0.9) == 0.8


def test_abstention_counts_what_is_kept_and_how_much_of_it_is_right() -> None:
    true, predicted = np.array([0, 1, 2, 0, 1]), np.array([0, 1, 0, 1, 1])
    confidence = np.array([0.9, 0.8, 0.8, 0.7, 0.1])
    assert abstention(true, predicted, confidence, 0.8) == {"coverage": 0.6, "accuracy_kept": pytest.approx(2 / 3)}
    assert abstention(true, predicted, confidence, 0.0) == {"coverage": 1.0, "accuracy_kept": 0.6}
    assert abstention(true, predicted, confidence, 0.95) == {"coverage": 0.0, "accuracy_kept": 0.0}
