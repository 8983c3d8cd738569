"""A passage record: what is right passes, and everything that is wrong is named, all of it at once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.codebook import NEUTRAL, OFF_TOPIC, load_codebook
from data.passages import DEFAULTS, SHOWN, TEXT_LIMIT, InvalidPassages, complete, features, validate

TOPICS, STANCES, GENRES = load_codebook().topic_names, load_codebook().stance_names, load_codebook().genres
SUBJECTS = tuple(topic for topic in TOPICS if topic != OFF_TOPIC)
CHOICES = {"topic": TOPICS, "stance": STANCES, "secondary_topic": SUBJECTS, "genre": GENRES}

texts = st.text("az AZ09\n\t\"',;|\\_-—é日\u2028\ufeff\0\U0001f6a2", max_size=20)
no_strings = st.integers() | st.booleans() | st.lists(st.just("border"), max_size=2) | st.just({"name": "border"})
bad_strings = no_strings | st.none() | st.text(" \t\n", max_size=3) | st.just("half a pair: \ud83d")


def unknown(choices: tuple[str, ...]) -> st.SearchStrategy[Any]:
    near = st.sampled_from(choices).map(lambda name: f" {name.upper()}")
    return no_strings | near | texts.filter(lambda value: value not in choices)


MUTATIONS: dict[str, st.SearchStrategy[Any]] = {
    "id": bad_strings,
    "doc_id": bad_strings,
    "text": bad_strings | st.just("x" * (TEXT_LIMIT + 1)),
    "topic": unknown(TOPICS) | st.none(),
    "stance": unknown(STANCES) | st.none(),
    "secondary_topic": unknown(SUBJECTS),
    "genre": unknown(GENRES),
    "country": no_strings | st.sampled_from(["", "ca", "CAN", "C", "C1", "CA\n", "ÄÖ"]),
    "disputed": st.integers() | texts | st.lists(st.booleans()),
    "annotations": st.integers() | texts | st.just({"topic": "border"}),
}
mutations = st.sampled_from(sorted(MUTATIONS)).flatmap(lambda field: st.tuples(st.just(field), MUTATIONS[field]))


@st.composite
def valid_records(draw: st.DrawFn) -> dict[str, Any]:
    topic, second = draw(st.lists(st.sampled_from(SUBJECTS), min_size=2, max_size=2, unique=True))
    reading = {"topic": topic, "stance": draw(st.sampled_from(STANCES))}
    text = draw(texts.filter(str.strip))
    record = {"id": "-", "doc_id": "d", "text": text, **reading}
    optional = {
        "secondary_topic": second,
        "genre": draw(st.sampled_from(GENRES)),
        "country": "CA",
        "disputed": draw(st.booleans()),
        "annotations": draw(st.lists(st.just(reading), max_size=2)),
    }
    kept = draw(st.sets(st.sampled_from(sorted(optional))))
    nulls = draw(st.sets(st.sampled_from(sorted(optional))))
    return record | dict.fromkeys(nulls) | {field: optional[field] for field in kept}


def record(**changes: Any) -> dict[str, Any]:
    whole = {"id": "p1", "doc_id": "d1", "text": "The ferry left.", "topic": "border", "stance": "restrictive"}
    return {field: value for field, value in (whole | changes).items() if value != "missing"}


def problems_of(*records: dict[str, Any]) -> list[tuple[int, str, object]]:
    with pytest.raises(InvalidPassages) as caught:
        validate(records, "passages.jsonl")
    return [(problem.row, problem.field, problem.value) for problem in caught.value.problems]


@settings(deadline=None)
@given(st.lists(st.tuples(valid_records(), st.none() | mutations), min_size=1, max_size=8))
def test_exactly_the_mutated_records_are_reported_with_row_field_value_and_choices(
    drawn: list[tuple[dict[str, Any], tuple[str, Any] | None]],
) -> None:
    records, planted = [], []
    for row, (good, mutation) in enumerate(drawn, start=1):
        good["id"] = f"p{row}"
        if mutation:
            field, value = mutation
            good[field] = value
            planted.append((row, field, value))
            if field == "id" and value in [record["id"] for record in records if isinstance(value, str)]:
                planted.append((row, field, value))  # wrong, and a repetition too
        records.append(good)
    if not planted:
        validate(records, "passages.jsonl")
        return
    with pytest.raises(InvalidPassages) as caught:
        validate(records, "passages.jsonl")
    problems = caught.value.problems
    assert [(problem.row, problem.field, problem.value) for problem in problems] == planted
    for problem in problems:
        assert str(problem).startswith(f"passages.jsonl, row {problem.row}, {problem.field}: ")
        assert str(problem) in str(caught.value)
        if problem.value not in (OFF_TOPIC, records[problem.row - 1]["topic"]) or problem.field == "topic":
            assert all(choice in problem.remedy for choice in CHOICES.get(problem.field, ()))


@settings(deadline=None)
@given(valid_records())
def test_a_completed_record_has_every_field_in_order_is_valid_and_stays_as_it_is(good: dict[str, Any]) -> None:
    whole = complete(good)
    validate([whole], "completed")
    assert list(whole) == list(features())
    assert complete(whole) == whole
    given_values = {field: value for field, value in good.items() if value is not None and field != "annotations"}
    assert given_values.items() <= whole.items()


def test_what_is_missing_gets_its_default() -> None:
    whole = complete(record())
    assert {field: whole[field] for field in DEFAULTS} == {**DEFAULTS, "annotations": []}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"topic": OFF_TOPIC}, "stance"),
        ({"topic": OFF_TOPIC, "stance": NEUTRAL, "secondary_topic": "asylum"}, "secondary_topic"),
        ({"secondary_topic": OFF_TOPIC}, "secondary_topic"),
        ({"secondary_topic": "border"}, "secondary_topic"),
        ({"annotations": [{"topic": "border", "stance": NEUTRAL}, {"topic": OFF_TOPIC, "stance": "supportive"}]}, 1),
        ({"annotations": [{"topic": "border", "stance": NEUTRAL}, "border"]}, "annotations[1]"),
        ({"annotations": [{"topic": "border"}]}, "annotations[0].stance"),
        ({"text": "missing"}, "text"),
    ],
)
def test_what_the_codebook_forbids_is_refused(changes: dict[str, Any], field: str | int) -> None:
    expected = "annotations[1].stance" if field == 1 else field
    assert [problem[:2] for problem in problems_of(record(**changes))] == [(1, expected)]


def test_all_faults_of_one_record_are_reported_together() -> None:
    bad = record(id=7, text=" ", topic="bordr", stance=None, genre="blog", country="UKR", disputed="no")
    fields = [field for _, field, _ in problems_of(bad)]
    assert fields == ["id", "text", "topic", "stance", "genre", "country", "disputed"]


def test_a_misspelt_label_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(
        InvalidPassages, match=r"'Assylum': unknown; did you mean 'asylum'\? choose one of enforcement,"
    ):
        validate([record(topic="Assylum")], "x")


def test_a_repeated_id_is_reported_with_the_row_that_has_it_first() -> None:
    with pytest.raises(InvalidPassages, match=r"row 3, id: 'p1': already the id of row 1") as caught:
        validate([record(), record(id="p2"), record()], "x")
    assert len(caught.value.problems) == 1


def test_a_text_at_the_limit_passes() -> None:
    validate([record(text="x" * TEXT_LIMIT)], "x")


def test_a_long_report_prints_some_and_holds_all() -> None:
    count = SHOWN + 30
    with pytest.raises(InvalidPassages) as caught:
        validate([record(id=f"p{row}", stance="pro") for row in range(count)], "x")
    assert len(caught.value.problems) == count
    assert str(caught.value).startswith(f"{count} problem(s)") and str(caught.value).endswith("and 30 more")
    assert str(caught.value).count("x, row") == SHOWN
