"""The report on held-out real news, on made-up predictions whose figures are known or are reckoned another way."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from data.codebook import load_codebook
from data.news import annotations
from training.features import ShippedFeatures
from training.held_out import SLICES, SMALLEST, NewsReport, held_out_texts, news_report

DEV, EXTERNAL = annotations("dev"), annotations("external")
SOURCES = {"all", "arc_nyt_roomfordebate", "manifestos_britain", "valueeval23"}
TOPICS, STANCES = load_codebook().topic_names, load_codebook().stance_names
HEADS = {"topic": TOPICS, "stance": STANCES}
SUPPORTIVE, RESTRICTIVE = STANCES.index("supportive"), STANCES.index("restrictive")


def truth(head: str) -> np.ndarray:
    return np.array([HEADS[head].index(row[head]) for row in DEV])


def agreed(head: str) -> np.ndarray:
    return np.array([row[f"{head}_agreed"] for row in DEV])


def acceptable(row: Any) -> set[int]:
    return {TOPICS.index(one[key]) for one in row["annotators"] for key in ("topic", "secondary_topic") if one[key]}


def one_hot(labels: Any, n: int) -> np.ndarray:
    return np.eye(n)[np.asarray(labels)]


def external_scores() -> np.ndarray:
    return one_hot([STANCES.index(row["stance"]) for row in EXTERNAL], 3)


def reported(topics: np.ndarray, stances: np.ndarray, external: np.ndarray | None = None) -> NewsReport:
    scores = [one_hot(topics, len(TOPICS)), one_hot(stances, len(STANCES))]
    return news_report((topics, stances), scores, external_scores() if external is None else external, 200, 7)


@pytest.fixture(scope="module")
def guesses() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Topics and stances of which about two in three are right, and external scores of any kind."""
    rng = np.random.default_rng(11)
    labels = []
    for head, names in HEADS.items():
        wrong = rng.random(len(DEV)) < 0.35
        labels.append(np.where(wrong, rng.integers(0, len(names), len(DEV)), truth(head)))
    return labels[0], labels[1], rng.dirichlet(np.ones(3), len(EXTERNAL))


@pytest.fixture(scope="module")
def guessed(guesses: tuple[np.ndarray, np.ndarray, np.ndarray]) -> NewsReport:
    return reported(*guesses)


def test_answers_that_are_all_right_have_one_everywhere() -> None:
    perfect = reported(truth("topic"), truth("stance"))
    for head in HEADS:
        assert perfect.reports[head].macro_f1 == perfect.reports[head].accuracy == (1, 1, 1)
        assert perfect.reports[head].calibration_error == 0
    assert perfect.acceptable_topic == (1, 1, 1)
    assert set(perfect.external) == SOURCES
    assert set(perfect.external.values()) == {(1, 1, 1)}
    assert (perfect.slices[["macro_f1", "accuracy"]] == 1).all(axis=None)


def test_only_passages_on_which_both_annotators_agree_count_for_the_heads() -> None:
    labels = []
    for head, names in HEADS.items():
        true = truth(head)
        labels.append(np.where(agreed(head), true, (true + 1) % len(names)))
        assert 0 < (~agreed(head)).sum() < len(DEV)
    half = reported(labels[0], labels[1])
    for head in HEADS:
        assert half.reports[head].macro_f1.value == half.reports[head].accuracy.value == 1
        support = sum(figures["support"] for figures in half.reports[head].per_class.values())
        assert support == agreed(head).sum()
    assert (half.slices.accuracy == 1).all()
    assert half.acceptable_topic.value < 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda row: row["annotators"][0]["topic"],
        lambda row: row["annotators"][1]["topic"],
        lambda row: row["annotators"][0]["secondary_topic"] or row["annotators"][0]["topic"],
        lambda row: row["annotators"][1]["secondary_topic"] or row["annotators"][1]["topic"],
    ],
    ids=["first annotator", "second annotator", "first's second topic", "second's second topic"],
)
def test_acceptable_topic_counts_either_annotators_first_and_second_topic(answer: Callable[[Any], str]) -> None:
    topics = np.array([TOPICS.index(answer(row)) for row in DEV])
    assert (topics != truth("topic")).any()
    assert reported(topics, truth("stance")).acceptable_topic == (1, 1, 1)


def test_acceptable_topic_counts_nothing_else_and_all_passages() -> None:
    outside = [next(at for at in range(len(TOPICS)) if at not in acceptable(row)) for row in DEV]
    assert reported(np.array(outside), truth("stance")).acceptable_topic.value == 0
    topics = truth("topic")
    topics[:50] = outside[:50]
    assert reported(topics, truth("stance")).acceptable_topic.value == pytest.approx(1 - 50 / len(DEV))


def test_external_accuracy_compares_supportive_with_restrictive_only() -> None:
    topics, stances = truth("topic"), truth("stance")
    faint = 0.99 * one_hot([STANCES.index("neutral")] * len(EXTERNAL), 3) + 0.01 * external_scores()
    assert reported(topics, stances, faint).external["all"] == (1, 1, 1)
    swapped = faint.copy()
    swapped[:, [SUPPORTIVE, RESTRICTIVE]] = faint[:, [RESTRICTIVE, SUPPORTIVE]]
    assert set(reported(topics, stances, swapped).external.values()) == {(0, 0, 0)}


def test_external_accuracy_is_the_share_right_by_source_and_over_the_two_of_people_who_argue(
    guesses: tuple[np.ndarray, np.ndarray, np.ndarray], guessed: NewsReport
) -> None:
    frame = pd.DataFrame(EXTERNAL)
    said = np.where(guesses[2][:, SUPPORTIVE] > guesses[2][:, RESTRICTIVE], "supportive", "restrictive")
    right = frame.stance == said
    both = frame.source != "manifestos_britain"
    expected = {**right.groupby(frame.source).mean(), "all": right[both].mean()}
    assert {source: share.value for source, share in guessed.external.items()} == pytest.approx(expected)
    assert len(set(expected.values())) == len(SOURCES)


def test_slices_are_those_of_enough_agreed_passages_with_the_figures_of_scikit_learn(
    guesses: tuple[np.ndarray, np.ndarray, np.ndarray], guessed: NewsReport
) -> None:
    expected, small = [], 0
    for column, head in enumerate(HEADS):
        true, kept = truth(head), agreed(head)
        for name, value_of in SLICES.items():
            values = [value_of(row) for row in DEV]
            for value in sorted({value for value in values if value is not None}):
                at = np.flatnonzero(np.array([own == value for own in values]) & kept)
                small += len(at) < 20
                if len(at) >= 20:
                    pair = true[at], guesses[column][at]
                    figures = f1_score(*pair, average="macro"), accuracy_score(*pair)
                    expected.append((head, name, value, len(at), *figures))
    columns = ["head", "slice", "value", "passages", "macro_f1", "accuracy"]
    pd.testing.assert_frame_equal(guessed.slices, pd.DataFrame(expected, columns=columns))
    assert SMALLEST == 20 and guessed.slices.passages.min() >= 20 and small > 20  # most outlets are too small
    assert set(guessed.slices.slice) == {"leaning", "outlet", "country", "decade", "length"}
    assert set(guessed.slices.query("slice == 'country'").value) == {"US", "GB"}
    assert set(guessed.slices.query("slice == 'decade'").value) == {"1980s", "2010s"}
    assert set(guessed.slices.query("slice == 'length'").value) == {"up to 40 words", "41 to 80", "over 80"}


def intervals(report: NewsReport) -> Iterator[tuple[str, Any]]:
    for head, figures in report.reports.items():
        yield f"{head} macro-F1", figures.macro_f1
        yield f"{head} accuracy", figures.accuracy
    yield "acceptable topic", report.acceptable_topic
    yield from report.external.items()
    for row in report.stance_by_leaning.itertuples():
        yield f"stance of {row.leaning}", (row.mean, row.low, row.high)


def test_intervals_hold_the_value_and_have_a_width(guessed: NewsReport) -> None:
    found = dict(intervals(guessed))
    assert len(found) == 4 + 1 + len(SOURCES) + 3
    for name, (value, low, high) in found.items():
        assert low < value < high, name
        assert 0.02 < high - low < 0.4, name


def test_the_draws_are_of_documents_and_the_same_for_the_same_seed(
    guesses: tuple[np.ndarray, np.ndarray, np.ndarray], guessed: NewsReport
) -> None:
    again = reported(*guesses)
    assert dict(intervals(again)) == dict(intervals(guessed))
    scores = [one_hot(guesses[0], len(TOPICS)), one_hot(guesses[1], 3)]
    other = news_report(guesses[:2], scores, guesses[2], 200, 8)
    assert other.acceptable_topic.value == guessed.acceptable_topic.value
    assert other.acceptable_topic != guessed.acceptable_topic


def test_stance_by_leaning_is_the_mean_of_supportive_less_restrictive() -> None:
    table = reported(truth("topic"), truth("stance")).stance_by_leaning.set_index("leaning")
    frame = pd.DataFrame(DEV)
    held = frame.stance.map({"supportive": 1, "neutral": 0, "restrictive": -1})
    assert list(table.index) == ["left", "center", "right"]
    assert dict(table["mean"]) == pytest.approx(dict(held.groupby(frame.leaning).mean()))
    assert table["mean"]["left"] > table["mean"]["right"]  # a check of the labels' face validity too


def test_metrics_have_flat_names_and_numbers(guessed: NewsReport) -> None:
    metrics = guessed.metrics()
    assert all(type(value) is float for value in metrics.values())
    heads = {f"{head}/{name}" for head in HEADS for name in ("macro_f1", "accuracy")}
    sources = {f"external/{name}/stance_accuracy" for name in SOURCES}
    for name in {f"news_dev/{head}" for head in heads} | {"news_dev/acceptable_topic"} | sources:
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"], name
    for head, names in HEADS.items():
        assert metrics[f"news_dev/{head}/calibration_error"] == guessed.reports[head].calibration_error
        assert {f"news_dev/{head}/f1/{label}" for label in names} <= set(metrics)
    assert {name.split("/")[0] for name in metrics} == {"news_dev", "external"}
    assert metrics["external/all/stance_accuracy"] == guessed.external["all"].value


def test_the_summary_for_the_card_holds_every_share_with_its_interval(guessed: NewsReport) -> None:
    expected = {f"external_stance_accuracy/{name}": list(guessed.external[name]) for name in SOURCES}
    assert guessed.summary() == {"acceptable_topic": list(guessed.acceptable_topic), **expected}


def test_the_figure_shows_each_leaning_at_its_mean(guessed: NewsReport) -> None:
    axes = guessed.figure().axes[0]
    points = axes.containers[0].lines[0]
    assert list(points.get_xdata()) == ["left", "center", "right"]
    np.testing.assert_array_equal(points.get_ydata(), guessed.stance_by_leaning["mean"])


def test_held_out_passages_come_without_text_and_all_have_features() -> None:
    shipped = ShippedFeatures()
    for texts, rows in ((held_out_texts("dev"), DEV), (held_out_texts("external"), EXTERNAL)):
        assert texts.sha1s == [row["sha1"] for row in rows]
        assert list(texts) == [None] * len(rows)
        assert all(shipped.holds(key) for key in texts.sha1s)
