"""The codebook: its labels and rules hang together, and the copy for programs says what the one for people says."""

import json
import re
from pathlib import Path

import pytest

from data.codebook import NEUTRAL, OFF_TOPIC, load_codebook
from data.passages import features, validate

MARKDOWN = Path(__file__).parents[2] / "shared" / "corpus" / "CODEBOOK.md"


@pytest.fixture(scope="module")
def markdown() -> str:
    if not MARKDOWN.is_file():
        pytest.skip("the codebook for people, shared/corpus/CODEBOOK.md, is not beside this checkout")
    return plain(MARKDOWN.read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """Markdown without marks of emphasis and code, one space between words, rows of tables kept on their lines."""
    text = re.sub(r"\n(?![|\n#0-9])", " ", re.sub("[*`]", "", text).replace("→", "->"))
    return re.sub(" +", " ", text)


def section(markdown: str, heading: str) -> str:
    return markdown.split(f"\n## {heading}")[1].split("\n## ")[0]


def table(markdown: str, heading: str) -> list[tuple[str, ...]]:
    lines = re.findall(r"^\|.*\|", section(markdown, heading), re.M)
    return [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in lines[2:]]


def words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"\w+", text.casefold())}


def test_it_has_eleven_topics_and_three_stances_numbered_in_order() -> None:
    codebook = load_codebook()
    assert len(set(codebook.topic_names)) == 11
    assert codebook.stance_names == ("supportive", "neutral", "restrictive")
    assert features()["topic"].names == list(codebook.topic_names)
    assert features()["stance"].names == list(codebook.stance_names)
    assert OFF_TOPIC in codebook.topic_names and NEUTRAL in codebook.stance_names


def test_every_cross_reference_names_another_topic() -> None:
    codebook = load_codebook()
    for topic in codebook.topics:
        for target in re.findall(r"-> (\w+)", topic.not_this):
            assert target == "the" or target in set(codebook.topic_names) - {topic.name}


def test_every_label_has_an_example_that_is_a_valid_passage() -> None:
    codebook = load_codebook()
    topics = [(topic.example, topic.name, NEUTRAL) for topic in codebook.topics]
    stances = [(stance.example, "politics", stance.name) for stance in codebook.stances]
    records = [
        {"id": str(number), "doc_id": str(number), "text": text, "topic": topic, "stance": stance}
        for number, (text, topic, stance) in enumerate(topics + stances)
    ]
    validate(records, "examples")
    assert len({record["text"] for record in records}) == 14


def test_the_crosswalk_covers_every_label_but_off_topic_once() -> None:
    codebook = load_codebook()
    labels = [label for entry in codebook.crosswalk for label in entry.labels]
    assert sorted(labels) == sorted({*codebook.topic_names, *codebook.stance_names} - {OFF_TOPIC})


def test_as_dict_is_what_json_gives_back() -> None:
    codebook = load_codebook()
    assert json.loads(json.dumps(codebook.as_dict())) == codebook.as_dict()
    assert [topic["name"] for topic in codebook.as_dict()["topics"]] == list(codebook.topic_names)


def test_version_and_unit_are_those_of_the_markdown(markdown: str) -> None:
    codebook = load_codebook()
    assert f"Version {codebook.version}. " in markdown
    assert codebook.unit.removeprefix("A passage: ") in markdown


def test_topics_are_defined_as_in_the_markdown(markdown: str) -> None:
    topics = [(topic.name, topic.definition, topic.not_this) for topic in load_codebook().topics]
    assert topics == table(markdown, "Topic")


def test_stances_are_defined_as_in_the_markdown(markdown: str) -> None:
    stances = {(stance.name, stance.definition) for stance in load_codebook().stances}
    assert stances == set(table(markdown, "Stance"))


def test_the_rules_for_hard_cases_are_those_of_the_markdown(markdown: str) -> None:
    texts = [rule.text for rule in load_codebook().rules]
    numbered = re.findall(r"^\d\. (.*?)\s*$", markdown, re.M)
    assert len(numbered) == 8
    for rule in numbered:
        assert any(rule == text or rule.endswith(f". {text}") for text in texts), rule


@pytest.mark.parametrize("name", ["passage alone", "how to choose", "secondary topic", "whose attitude"])
def test_the_other_rules_use_the_words_of_the_markdown(markdown: str, name: str) -> None:
    (rule,) = (rule for rule in load_codebook().rules if rule.name == name)
    assert not words(rule.text) - words(markdown)


def test_fields_and_genres_are_those_of_the_markdown(markdown: str) -> None:
    fields = section(markdown, "Fields of a record")
    genres = re.search(r"genre \(([^)]*)\)", fields)
    assert genres and tuple(genres[1].split(", ")) == load_codebook().genres
    named = [field for field in features() if re.search(rf"\b{field}\b", fields)]
    assert named == [field for field in features() if field not in ("annotations", "disputed")]


def test_the_crosswalk_is_that_of_the_markdown(markdown: str) -> None:
    rows = {
        (", ".join(entry.labels), "; ".join(entry.media_frames_corpus), ", ".join(entry.comparative_agendas_project))
        for entry in load_codebook().crosswalk
        if not set(entry.labels) & set(load_codebook().stance_names)
    }
    assert rows == set(table(markdown, "Crosswalk"))
    tones = {entry.labels[0]: entry.media_frames_corpus[0] for entry in load_codebook().crosswalk[-3:]}
    assert all(f"{stance} = {tone}" in markdown for stance, tone in tones.items())
