"""An article's summary: counts, intervals that can be checked by hand, and a balance that is always the same."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.summary import summarise

TOPICS = ["asylum", "border", "off_topic"]
STANCES = ["supportive", "neutral", "restrictive"]
READING = st.tuples(st.sampled_from(TOPICS[:2]), st.sampled_from(STANCES)) | st.just(("off_topic", None))


def test_shares_are_of_all_passages_for_topics_and_of_those_on_topic_for_stances() -> None:
    topics = ["asylum", "asylum", "off_topic", "border"]
    summary = summarise(
        topics, ["supportive", "neutral", None, "supportive"], [True, False, True, False], TOPICS, STANCES
    )
    assert (summary.passages, summary.on_topic, summary.abstained) == (4, 3, 2)
    assert {name: share.count for name, share in summary.topics.items()} == {"asylum": 2, "border": 1, "off_topic": 1}
    assert summary.topics["asylum"].share == 0.5
    # Wilson's interval for 2 of 4.
    assert (summary.topics["asylum"].low, summary.topics["asylum"].high) == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert summary.stances["supportive"].share == pytest.approx(2 / 3)
    assert summary.stances["restrictive"].model_dump() == pytest.approx(
        {"count": 0, "share": 0, "low": 0, "high": 0.56150}, abs=1e-5
    )
    assert summary.stance_balance.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("count", [0, 3])
def test_without_passages_on_topic_nothing_is_known_of_stance(count: int) -> None:
    summary = summarise(["off_topic"] * count, [None] * count, [False] * count, TOPICS, STANCES)
    assert summary.on_topic == 0
    assert list(summary.stances) == STANCES
    assert summary.stances["neutral"].model_dump() == {"count": 0, "share": 0, "low": 0, "high": 1}
    assert set(summary.stance_balance.model_dump().values()) == {None}


def test_the_bootstrap_agrees_with_the_normal_interval_and_repeats() -> None:
    stances = ["supportive"] * 600 + ["neutral"] * 600 + ["restrictive"] * 300
    first, again = (summarise(["asylum"] * 1500, stances, [False] * 1500, TOPICS, STANCES) for _ in range(2))
    assert first == again
    balance = first.stance_balance
    half = 1.96 * ((900 / 1500 - 0.2**2) / 1500) ** 0.5
    assert (balance.value, balance.low, balance.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=0.006)


@settings(deadline=None)
@given(st.lists(READING, max_size=40))
def test_numbers_add_up_and_intervals_hold_their_value(readings: list[tuple[str, str | None]]) -> None:
    topics, stances = [topic for topic, _ in readings], [stance for _, stance in readings]
    summary = summarise(topics, stances, [False] * len(readings), TOPICS, STANCES)
    assert sum(share.count for share in summary.topics.values()) == summary.passages == len(readings)
    assert sum(share.count for share in summary.stances.values()) == summary.on_topic
    for share in [*summary.topics.values(), *summary.stances.values()]:
        assert 0 <= share.low <= share.share <= share.high <= 1
    value, low, high = summary.stance_balance.model_dump().values()
    assert value is None or -1 <= low <= value <= high <= 1
    mirror = [{"supportive": "restrictive", "restrictive": "supportive"}.get(str(stance), stance) for stance in stances]
    turned = summarise(topics, mirror, [False] * len(readings), TOPICS, STANCES).stance_balance.value
    assert value is None or turned == pytest.approx(-value)


def test_two_thousand_passages_cost_milliseconds() -> None:
    stances = STANCES * 667
    started = time.perf_counter()
    summarise(["asylum"] * 2001, stances, [False] * 2001, TOPICS, STANCES)
    assert time.perf_counter() - started < 0.1


def test_errors_say_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"2, 1 and 1 entries; give one of each"):
        summarise(["asylum", "asylum"], ["neutral"], [False], TOPICS, STANCES)
    with pytest.raises(ValueError, match=r"unknown topic 'weather'; the codebook has asylum, border, off_topic"):
        summarise(["weather"], ["neutral"], [False], TOPICS, STANCES)
