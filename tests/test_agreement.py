"""Agreement: the coefficients are those worked out by hand, from the definitions and by other programs."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from data.agreement import TaskAgreement, agreement, as_markdown
from data.codebook import load_codebook
from data.corpora import load_bundled

TOPICS, STANCES = load_codebook().topic_names, load_codebook().stance_names
Pairs = list[tuple[str, str]]
SKEWED: Pairs = (
    [("supportive", "supportive")] * 25
    + [("supportive", "neutral")] * 35
    + [("neutral", "supportive")] * 5
    + [("neutral", "neutral")] * 35
)


def corpus(stances: Pairs, topics: Pairs | None = None) -> Dataset:
    topics = topics or [("border", "border")] * len(stances)
    annotations = [
        [{"topic": topic, "secondary_topic": None, "stance": stance} for topic, stance in zip(*both, strict=True)]
        for both in zip(topics, stances, strict=True)
    ]
    return Dataset.from_dict({"annotations": annotations})


def kappa_by_definition(pairs: Pairs) -> float:
    """Cohen (1960): agreement beyond that expected from both annotators' own shares."""
    count = len(pairs)
    observed = Fraction(sum(first == second for first, second in pairs), count)
    firsts, seconds = Counter(first for first, _ in pairs), Counter(second for _, second in pairs)
    expected = Fraction(sum(firsts[label] * seconds[label] for label in firsts), count**2)
    return float((observed - expected) / (1 - expected))


def alpha_by_definition(pairs: Pairs) -> float:
    """Krippendorff, nominal, two annotators: disagreement against that of all values paired at random."""
    values = Counter(label for pair in pairs for label in pair)
    total = sum(values.values())
    observed = Fraction(sum(first != second for first, second in pairs), len(pairs))
    alike = sum(count * (count - 1) for count in values.values())
    return float(1 - observed / (1 - Fraction(alike, total * (total - 1))))


def test_a_skewed_table_gives_the_figures_worked_out_by_hand() -> None:
    result = agreement(corpus(SKEWED))
    assert (result.passages, result.stance.raw) == (100, 0.6)
    assert result.stance.kappa == pytest.approx((0.60 - 0.46) / (1 - 0.46))
    assert result.stance.alpha == pytest.approx(1 - 0.4 / (2 * 90 * 110 / (200 * 199)))
    supportive, neutral, restrictive = result.stance.labels
    assert (supportive.first, supportive.second, neutral.first, neutral.second) == (60, 30, 40, 70)
    assert supportive.kappa == pytest.approx(neutral.kappa) == pytest.approx(result.stance.kappa)
    assert (restrictive.first, restrictive.second, restrictive.raw) == (0, 0, 1.0)
    assert math.isnan(restrictive.kappa) and math.isnan(restrictive.alpha)


def test_one_value_only_leaves_chance_undefined_and_the_table_says_so() -> None:
    result = agreement(corpus(SKEWED))
    assert result.topic.raw == 1.0 and math.isnan(result.topic.kappa)
    assert "| `restrictive` | 0 | 0 | 1.000 | – | – |" in as_markdown(result)
    assert "| all labels | 100 | 100 | 0.600 | 0.259 | 0.196 |" in as_markdown(result)


def matches(task: TaskAgreement, pairs: Pairs, labels: tuple[str, ...]) -> None:
    assert task.raw == pytest.approx(sum(first == second for first, second in pairs) / len(pairs))
    if len({label for pair in pairs for label in pair}) > 1:
        assert task.kappa == pytest.approx(kappa_by_definition(pairs), abs=1e-12)
        assert task.alpha == pytest.approx(alpha_by_definition(pairs), abs=1e-12)
    assert tuple(row.label for row in task.labels) == labels
    for row in task.labels:
        against = [(str(first == row.label), str(second == row.label)) for first, second in pairs]
        assert (row.first, row.second) == tuple(
            sum(given == "True" for given in side) for side in zip(*against, strict=True)
        )
        if len({value for pair in against for value in pair}) > 1:
            assert row.kappa == pytest.approx(kappa_by_definition(against), abs=1e-12)
            assert row.alpha == pytest.approx(alpha_by_definition(against), abs=1e-12)
        else:
            assert row.raw == 1.0 and math.isnan(row.kappa) and math.isnan(row.alpha)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from(STANCES)] * 2, *[st.sampled_from(TOPICS)] * 2),
        min_size=1,
        max_size=30,
    )
)
def test_all_coefficients_follow_from_their_definitions(drawn: list[tuple[str, str, str, str]]) -> None:
    stances, topics = [row[:2] for row in drawn], [row[2:] for row in drawn]
    result = agreement(corpus(stances, topics))
    matches(result.stance, stances, STANCES)
    matches(result.topic, topics, TOPICS)


def test_the_definitions_give_the_figures_of_a_published_example() -> None:
    """Two coders, ten items, 0 or 1: raw 0.6, alpha 0.095 (Krippendorff 2011, Computing Krippendorff's Alpha, A)."""
    firsts, seconds = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    pairs = [(STANCES[first], STANCES[second]) for first, second in zip(firsts, seconds, strict=True)]
    found = agreement(corpus(pairs)).stance
    assert (found.raw, round(found.alpha, 3)) == (0.6, 0.095)
    assert alpha_by_definition(pairs) == pytest.approx(found.alpha)
    assert kappa_by_definition(pairs) == pytest.approx(cohen_kappa_score(firsts, seconds))


def test_passages_without_two_annotations_do_not_count() -> None:
    annotations = corpus(SKEWED)["annotations"][:]
    padded = [[], annotations[0][:1], *annotations, annotations[0] * 2]
    assert as_markdown(agreement(Dataset.from_dict({"annotations": padded}))) == as_markdown(agreement(corpus(SKEWED)))


def test_a_corpus_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 1 passages has two annotations"):
        agreement(Dataset.from_dict({"annotations": [corpus(SKEWED)["annotations"][0][:1]]}))


def test_the_bundled_annotators_agree_as_far_as_their_own_labels_say() -> None:
    dataset = load_bundled()
    result = agreement(dataset)
    pairs = [(first["topic"], second["topic"]) for first, second in dataset["annotations"]]
    assert result.passages == 1880
    matches(result.topic, pairs, TOPICS)
    pairs = [(first["stance"], second["stance"]) for first, second in dataset["annotations"]]
    matches(result.stance, pairs, STANCES)
