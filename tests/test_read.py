"""Articles, explanations, corrections and the page over real HTTP."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.page import ASSETS
from serving.schema import MAX_ARTICLE, MAX_CUT, MAX_EXPLAINED

ARTICLE = """LISSE HARBOUR - The boat was turned back before dawn, the coast guard said.

"We came for work, and they sent us to the sea," said one of the men on board.
\tThe asylum board will hear their claims in the spring.\r\n
Subscribe to our newsletter for more stories like this one.
"""
PAGE = """<!DOCTYPE html><html><head><title>x</title><script>var hidden = 1;</script></head><body>
<nav>Home</nav><article>
<p>The council voted to keep the hostel for asylum seekers open through the winter, by nineteen votes to four.</p>
<p>Neighbours had asked for it to be closed &amp; moved; the mayor thanked the volunteers who cook there.</p>
</article></body></html>"""


def read(client: httpx.Client, article: str, **query: str) -> dict[str, Any]:
    response = client.post("/read", json={"article": article, "title": None}, params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_an_article_is_cut_into_passages_and_each_is_read(served: httpx.Client) -> None:
    answer = read(served, ARTICLE)
    assert answer.keys() == {"article", "passages", "summary", "model"}
    assert answer["article"] == ARTICLE
    texts = [passage["text"] for passage in answer["passages"]]
    assert texts == [line.strip() for line in ARTICLE.splitlines() if line.strip()]
    assert answer["passages"][-1]["topic"]["label"] == "off_topic"  # what is left of the page around it
    classified = served.post("/classify", json={"passages": texts}).json()["readings"]
    for passage, reading in zip(answer["passages"], classified, strict=True):
        assert passage.keys() == {"text", "start", "end", "topic", "stance", "abstained"}
        assert answer["article"][passage["start"] : passage["end"]] == passage["text"]
        assert {key: passage[key] for key in reading} == reading


def test_the_summary_counts_what_was_read(served: httpx.Client) -> None:
    answer = read(served, ARTICLE)
    passages, summary = answer["passages"], answer["summary"]
    on_topic = [passage for passage in passages if passage["topic"]["label"] != "off_topic"]
    assert summary["passages"] == len(passages) and summary["on_topic"] == len(on_topic)
    assert summary["abstained"] == sum(passage["abstained"] for passage in passages)
    for label, share in summary["topics"].items():
        assert share["count"] == sum(passage["topic"]["label"] == label for passage in passages)
        assert share["low"] <= share["share"] <= share["high"]
    assert sum(share["count"] for share in summary["stances"].values()) == len(on_topic)


def test_html_is_read_as_the_text_that_it_shows(served: httpx.Client) -> None:
    answer = read(served, PAGE)
    assert len(answer["passages"]) == 2 and "hidden" not in answer["article"]
    assert "closed & moved" in answer["passages"][1]["text"]


def test_the_title_sways_no_passage(served: httpx.Client) -> None:
    titled = served.post("/read", json={"article": ARTICLE, "title": "Deport them all"}).json()
    assert titled["passages"] == read(served, ARTICLE)["passages"]


def test_an_article_without_words_has_no_passages(served: httpx.Client) -> None:
    answer = read(served, " \n\t\n")
    assert answer["passages"] == [] and answer["summary"]["stance_balance"]["value"] is None


def test_the_longest_article_is_read(served: httpx.Client) -> None:
    words = "The asylum board hears claims in the spring, said the clerk of the court. "
    answer = read(served, (words * 3_000)[:MAX_ARTICLE])
    assert "".join(passage["text"] for passage in answer["passages"]).count("asylum") == words.count("asylum") * 2_703


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"article": ""}, "article: String should have at least 1"),
        ({"article": "a" * (MAX_ARTICLE + 1)}, "200,000 characters"),
        ({"article": "a", "titel": "b"}, "unknown field 'titel'"),
        ({"article": None}, "article: Input should be a valid string"),
        ({}, "article: Field required"),
        ({"article": "a\n" * (MAX_CUT + 1)}, "10,001 passages, at most 10,000"),
    ],
)
def test_a_bad_article_is_refused_by_name(served: httpx.Client, body: dict[str, Any], says: str) -> None:
    response = served.post("/read", json=body)
    assert response.status_code == 400 and says in response.json()["error"]


def test_an_explanation_names_phrases_of_the_passage(served: httpx.Client) -> None:
    plain, explained = read(served, ARTICLE), read(served, ARTICLE, explain="true")
    for without, passage in zip(plain["passages"], explained["passages"], strict=True):
        explanation = passage.pop("explanation")
        assert passage == without
        assert (explanation["stance"] is None) == (passage["stance"] is None)
        assert explanation["topic"]
        for mark in [*explanation["topic"], *(explanation["stance"] or [])]:
            assert 0 <= mark["start"] < mark["end"] <= len(passage["text"]) and mark["weight"]
    reading = served.post("/classify?explain=true", json={"passages": ["Deport them all."]}).json()["readings"][0]
    assert reading["explanation"]["topic"]


@pytest.mark.parametrize(
    ("query", "passages", "says"),
    [
        ("explain=yes", 1, "'explain'='yes' is not known"),
        ("explian=true", 1, "'explian'='true' is not known"),
        ("explain=true", MAX_EXPLAINED + 1, "at most 64 are explained"),
    ],
)
def test_what_cannot_be_explained_is_refused(served: httpx.Client, query: str, passages: int, says: str) -> None:
    body = {"passages": [f"passage {number}" for number in range(passages)]}
    response = served.post(f"/classify?{query}", json=body)
    assert response.status_code == 400 and says in response.json()["error"]


def test_a_correction_is_kept_before_it_is_acknowledged(served: httpx.Client, served_folder: Path) -> None:
    reading = served.post("/classify", json={"passages": ["Send them home."]}).json()["readings"][0]
    body = {"passage": "Send them home.", "topic": "enforcement", "stance": "restrictive", "reading": reading}
    answers = [served.post("/feedback", json=body, headers={"Idempotency-Key": "one"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json() and answers[0].json()["stored"]
    with sqlite3.connect(served_folder / "feedback.db") as store:
        rows = store.execute("SELECT topic, stance, reading FROM corrections WHERE key = 'one'").fetchall()
    assert [row[:2] for row in rows] == [("enforcement", "restrictive")]
    assert json.loads(rows[0][2]) == reading
    other = served.post("/feedback", json={**body, "stance": "neutral"}, headers={"Idempotency-Key": "one"})
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"topic": "sport"}, "topic: 'sport' is not known; choose one of enforcement"),
        ({"stance": None}, "stance: missing or null"),
        ({"topic": "off_topic"}, "stance: 'restrictive' with the topic off_topic"),
        ({"passage": ""}, "passage: "),
        ({"reading": {"topic": 3}}, "reading: "),
    ],
)
def test_a_bad_correction_is_refused_by_name(served: httpx.Client, change: dict[str, Any], says: str) -> None:
    body = {"passage": "Send them home.", "topic": "enforcement", "stance": "restrictive"}
    response = served.post("/feedback", json={**body, **change})
    assert response.status_code == 400 and says in response.json()["error"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", ""])
def test_a_forged_host_is_refused(served: httpx.Client, host: str) -> None:
    response = served.post("/classify", json={"passages": ["a"]}, headers={"Host": host})
    assert response.status_code in (400, 421)
    assert served.get("/livez").status_code == 200


@pytest.mark.parametrize("path", ASSETS)
def test_the_page_may_load_nothing_from_elsewhere(served: httpx.Client, path: str) -> None:
    response = served.get(path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in response.text
