"""What an operator sees of a request: a line of JSON, figures for Prometheus, and no text unless asked for."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from conftest import Champion
from prometheus_client.parser import text_string_to_metric_families
from serving_processes import serving_champion

PASSAGE = "Border officers turned back forty people at the bridge, a spokeswoman said."


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines that the worker wrote; BentoML's supervisor speaks plainly."""
    return [json.loads(line) for line in (folder / "server.log").read_text().splitlines() if line.startswith("{")]


def wait_for(found: Callable[[], Any]) -> Any:
    """What `found` gives, once it gives something: a line is written after its answer is out."""
    for _ in range(50):
        if result := found():
            return result
        time.sleep(0.1)
    raise AssertionError("it did not come")


def test_each_request_is_a_line_of_json(served: httpx.Client, served_folder: Path) -> None:
    body = {"passages": [PASSAGE, PASSAGE + " Twice."]}
    answer = served.post("/classify", json=body, headers={"X-Request-ID": "night-desk.7"})
    assert answer.headers["x-request-id"] == "night-desk.7"
    line = wait_for(lambda: [line for line in lines(served_folder) if line.get("request_id") == "night-desk.7"])[0]
    known = {"level": "INFO", "message": "request", "method": "POST", "route": "/classify", "status": 200}
    known |= {"passages": 2, "characters": 2 * len(PASSAGE) + 7, "model_version": "1"}
    assert known.items() <= line.items()
    assert line["milliseconds"] > 0 and line["time"].startswith("20") and line["abstained"] in (0, 1, 2)


def test_what_is_refused_is_a_line_too_but_holds_no_word_of_it(served: httpx.Client, served_folder: Path) -> None:
    refused = [
        served.get("/plugh/in the address"),
        served.post("/classify", json={"passages": ["plugh", ""]}),
        served.post("/classify", json={"passages": ["plugh"]}, headers={"X-Request-ID": "plugh with spaces"}),
    ]
    assert [answer.status_code for answer in refused] == [404, 400, 200]
    ids = {answer.headers["x-request-id"] for answer in refused}
    found = wait_for(lambda: (own := [x for x in lines(served_folder) if x.get("request_id") in ids])[2:] and own)
    assert [(line["route"], line["status"]) for line in found] == [
        ("other", 404), ("/classify", 400), ("/classify", 200),
    ]  # fmt: skip
    assert "plugh" not in (served_folder / "server.log").read_text()


def figures(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Each sample of our own by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("immigration")]
    return {(sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value for sample in samples}


def test_figures_count_what_was_read(served: httpx.Client) -> None:
    before = figures(served)
    answer = served.post("/classify", json={"passages": [PASSAGE] * 3}).json()
    served.post("/classify", json={"passages": []})
    served.get("/no/such/route")
    reading = answer["readings"][0]
    wanted = {
        ("immigration_news_requests_total", "/classify", "200"): 1,
        ("immigration_news_requests_total", "/classify", "400"): 1,
        ("immigration_news_requests_total", "other", "404"): 1,
        ("immigration_news_request_seconds_count", "/classify"): 2,
        ("immigration_news_labels_total", "topic", reading["topic"]["label"], "1"): 3,
        ("immigration_news_labels_total", "stance", reading["stance"]["label"], "1"): 3,
        ("immigration_news_abstentions_total", "1"): 3 * reading["abstained"],
        ("immigration_news_request_passages_sum", "1"): 3,
        ("immigration_news_request_passages_count", "1"): 1,
        ("immigration_news_batch_passages_sum", "1"): 1,  # three times the same is read once
        ("immigration_news_batch_passages_count", "1"): 1,
        ("immigration_news_passage_characters_sum", "1"): 3 * len(PASSAGE),
        ("immigration_news_passage_characters_count", "1"): 3,
    }

    def grown() -> bool:
        after = figures(served)
        return {key: after.get(key, 0) - before.get(key, 0) for key in wanted} == wanted

    assert wait_for(grown)


def test_the_text_is_logged_where_asked_for(champion: Champion, tmp_path: Path) -> None:
    with serving_champion(champion.uri, tmp_path, IMMNEWS_LOG_TEXT="true") as client:
        client.post("/classify", json={"passages": [PASSAGE]})
        assert wait_for(lambda: [line for line in lines(tmp_path) if line.get("texts") == [PASSAGE]])
