"""What an operator sees of a request: a line of JSON, figures for Prometheus, and no text unless asked for."""

import json
import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from serving_processes import figures, json_lines, wait_for

from serving.observation import JsonLines

PASSAGE = "Border officers turned back forty people at the bridge, a spokeswoman said."

UNSURE = "Not everybody on the square agreed with what the migrants' neighbours had said."


def test_each_request_is_a_line_of_json(served: httpx.Client, served_folder: Path) -> None:
    body = {"passages": [PASSAGE, PASSAGE + " Twice."]}
    answer = served.post("/classify", json=body, headers={"X-Request-ID": "night-desk.7"})
    assert answer.headers["x-request-id"] == "night-desk.7"
    line = wait_for(lambda: [line for line in json_lines(served_folder) if line.get("request_id") == "night-desk.7"])[0]
    known = {"level": "INFO", "message": "request", "method": "POST", "route": "/classify", "status": 200}
    known |= {"passages": 2, "characters": 2 * len(PASSAGE) + 7, "model_version": "1"}
    assert known.items() <= line.items()
    assert line["milliseconds"] > 0 and line["time"].startswith("20") and line["abstained"] in (0, 1, 2)


def test_so_is_all_else_that_is_logged(served: httpx.Client, served_folder: Path) -> None:
    said, *logged = (served_folder / "server.log").read_text().splitlines()
    assert said.startswith("serving immigration-news:")  # by the command, before there is a service
    assert len(logged) >= 2 and all(json.loads(line)["level"] for line in logged)


def test_what_is_refused_is_a_line_too_but_holds_no_word_of_it(served: httpx.Client, served_folder: Path) -> None:
    refused = [
        served.get("/plugh/in the address"),
        served.post("/classify", json={"passages": ["plugh", ""]}),
        served.post("/classify", json={"passages": ["plugh"]}, headers={"X-Request-ID": "plugh with spaces"}),
    ]
    assert [answer.status_code for answer in refused] == [404, 400, 200]
    ids = {answer.headers["x-request-id"] for answer in refused}
    found = wait_for(lambda: (own := [x for x in json_lines(served_folder) if x.get("request_id") in ids])[2:] and own)
    assert [(line["route"], line["status"]) for line in found] == [
        ("other", 404), ("/classify", 400), ("/classify", 200),
    ]  # fmt: skip
    assert "plugh" not in (served_folder / "server.log").read_text()


def test_figures_count_what_was_read(served: httpx.Client) -> None:
    before = figures(served)
    answer = served.post("/classify", json={"passages": [UNSURE] * 3}).json()
    served.post("/classify", json={"passages": []})
    served.get("/no/such/route")
    reading = answer["readings"][0]
    assert reading["abstained"]
    wanted = {
        ("immigration_news_requests_total", "1", "/classify", "200"): 1,
        ("immigration_news_requests_total", "1", "/classify", "400"): 1,
        ("immigration_news_requests_total", "1", "other", "404"): 1,
        ("immigration_news_request_seconds_count", "1", "/classify"): 2,
        ("immigration_news_labels_total", "topic", reading["topic"]["label"], "1"): 3,
        ("immigration_news_labels_total", "stance", reading["stance"]["label"], "1"): 3,
        ("immigration_news_abstentions_total", "1"): 3,
        ("immigration_news_request_passages_sum", "1"): 3,
        ("immigration_news_request_passages_count", "1"): 1,
        ("immigration_news_batch_passages_sum", "1"): 1,  # three times the same is read once
        ("immigration_news_batch_passages_count", "1"): 1,
        ("immigration_news_passage_characters_sum", "1"): 3 * len(UNSURE),
        ("immigration_news_passage_characters_count", "1"): 3,
    }

    def grown() -> bool:
        after = figures(served)
        return {key: after.get(key, 0) - before.get(key, 0) for key in wanted} == wanted

    assert wait_for(grown)


def test_of_an_exception_the_log_says_where_and_of_what_kind_but_not_its_message() -> None:
    try:
        raise ValueError(PASSAGE)
    except ValueError:
        record = logging.LogRecord("immigration_news", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    line = JsonLines().format(record)
    said = json.loads(line)
    assert (said["level"], said["message"]) == ("ERROR", "it failed")
    assert "ValueError" in said["exc_info"] and Path(__file__).name in said["exc_info"]
    assert PASSAGE not in line and "raise" not in line


HEAD = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: application/"


@pytest.mark.parametrize(
    ("said", "route"),
    [
        ([b"\x16\x03\x01\r\n\r\n"], "other"),  # TLS
        ([b"GET /codebook HTTP/1.1\r\n\r\n"], "other"),  # no Host
        ([b"GET /codebook HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 66_000], "other"),
        ([HEAD + b"json\r\n\r\nno chunk\r\n"], "/classify"),  # a request that has begun is counted as one
        ([HEAD + b"json\r\n\r\n" + b"1\r\n \r\n" * 2_500], "other"),  # more would be left unread
        ([HEAD + b"xml\r\n\r\n", b"no chunk\r\n"], "other"),  # it has been answered
        ([HEAD + b"xml\r\n\r\nno chunk\r\n"], "/classify"),  # it would be, but this comes first
    ],
)
def test_what_is_not_http_is_refused_like_all_else_and_counted(
    served: httpx.Client, said: list[bytes], route: str
) -> None:
    before = figures(served)
    with socket.create_connection((served.base_url.host, served.base_url.port)) as connection:
        connection.settimeout(20)
        answers = b""
        for piece in said:
            connection.sendall(piece)
            answers += connection.recv(2**16)
        with suppress(ConnectionResetError):  # where there was more to read
            while more := connection.recv(2**16):
                answers += more
    assert b"HTTP/1.1 400 " in answers and json.loads(answers.rpartition(b"\r\n\r\n")[2])["error"]
    key = ("immigration_news_requests_total", "1", route, "400")
    assert wait_for(lambda: figures(served).get(key, 0) == before.get(key, 0) + 1)
