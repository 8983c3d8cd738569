"""Hydration against a real server that also fails, and from a folder: what is had is verified, and all is counted."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from data.articles import ADDRESS, ATTEMPTS, GIVE_UP, NoSource, passages_of
from data.hydrate import ANNOTATIONS, HydrationError, Outcome, hydrate, hydrated_texts, main

REAL = ROOT.parent / "shared" / "news" / "articles"
PARAGRAPHS = 3
Row = dict[str, Any]


def body(name: str) -> bytes:
    """A made-up article of PARAGRAPHS passages, with the loose white space of a scraped one."""
    pieces = [f"The  ministry of {name}\t said thing no. {number} \u00a0 “today”. " for number in range(PARAGRAPHS)]
    return json.dumps({"ID": name, "content_original": "\n\n\n".join(pieces) + "\n"}).encode()


def text(name: str, paragraph: int) -> str:
    return f"The ministry of {name} said thing no. {paragraph} “today”."


def row(name: str, paragraph: int, source: str = "article_bias_prediction") -> Row:
    digest = hashlib.sha1(text(name, paragraph).encode()).hexdigest()
    return {"source": source, "article": name, "paragraph": paragraph, "sha1": digest}


def rows_of(*names: str) -> list[Row]:
    return [row(name, paragraph) for name in names for paragraph in range(PARAGRAPHS)]


def texts_of(*names: str) -> dict[str, str]:
    return {row(name, number)["sha1"]: text(name, number) for name in names for number in range(PARAGRAPHS)}


class Server(ThreadingHTTPServer):
    """Serves `body(name)` for every name, unless `plan` says what its next answers are instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.agents: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror/"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, or is killed, is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        start, _, name = self.path.removesuffix(".json").rpartition("/")
        if start != "/mirror/data/jsons":
            self.send_error(404)
            return
        with self.server.lock:
            self.server.asked[name] += 1
            self.server.agents.add(self.headers["User-Agent"])
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            plan = self.server.plan.get(name, [])
            what = plan.pop(0) if len(plan) > 1 else plan[0] if plan else "fine"
        try:
            time.sleep(self.server.delay)
            self.answer(what, body(name))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def answer(self, what: str, content: bytes) -> None:
        """`what` is fine, truncated, cut (without a length), changed, stalled, slow, endless, a status, or a body."""
        if what.isdigit():
            self.send_error(int(what))
            return
        content = content.replace(b"no. 1", b"no. one") if what == "changed" else content
        content = what.encode() if what.startswith(("{", "[", "<")) else content
        self.send_response(200)
        if what not in ("cut", "endless"):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if what == "stalled":
            self.wfile.write(content[:20])
            self.wfile.flush()
            time.sleep(1.5)
        elif what in ("truncated", "cut"):
            self.wfile.write(content[:-20])
        elif what in ("slow", "endless"):
            for at in range(8):
                self.wfile.write(content[at * len(content) // 8 : (at + 1) * len(content) // 8])
                time.sleep(0.1)
            end = time.monotonic() + 6
            while what == "endless" and time.monotonic() < end:
                self.wfile.write(b" " * 2000)
                time.sleep(0.05)
        else:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMNEWS_CACHE", str(tmp_path / "a cache?#%"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("IMMNEWS_NEWS_DIR", raising=False)
    monkeypatch.setenv("IMMNEWS_NEWS_URL", "http://127.0.0.1:9/nothing/listens/here")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("IMMNEWS_NEWS_URL", running.address)
        yield running
        running.shutdown()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = tmp_path / "news folder" / "data" / "jsons"
    files.mkdir(parents=True)
    monkeypatch.setenv("IMMNEWS_NEWS_DIR", str(tmp_path / "news folder"))
    return files


def annotations(tmp_path: Path, rows: list[Row], name: str = "made up.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(one) for one in rows) + "\n", encoding="utf-8")
    return path


def quick(path: Path, timeout: float = 5) -> Outcome:
    return hydrate(progress=False, annotations=[path], timeout=timeout, backoff=0.01)


def all_there() -> set[str]:
    with closing(sqlite3.connect(Path(os.environ["IMMNEWS_CACHE"], "news.sqlite"))) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {sha1 for (sha1,) in store.execute("SELECT sha1 FROM texts")}


def test_passages_are_had_verified_and_given_by_sha1(server: Server, tmp_path: Path) -> None:
    elsewhere = [row("W1", 0, "immigration_news_uk_2014"), {"source": "immigration_news_snippets"}]
    path = annotations(tmp_path, rows_of("A-1", "b_2") + elsewhere)
    assert quick(path) == Outcome(hydrated=6, not_public=2)
    assert hydrated_texts(list(texts_of("A-1", "b_2", "W1"))) == texts_of("A-1", "b_2")
    assert hydrated_texts([]) == {}
    assert all("immigration-news" in str(agent) for agent in server.agents)


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    quick(annotations(tmp_path, rows_of("A", "B")))
    assert quick(annotations(tmp_path, rows_of("A", "B", "C"))) == Outcome(hydrated=3, already_there=6)
    assert server.asked == {"A": 1, "B": 1, "C": 1}


def test_an_article_whose_annotations_grew_is_fetched_for_the_rest(server: Server, tmp_path: Path) -> None:
    quick(annotations(tmp_path, rows_of("A")[:1]))
    assert quick(annotations(tmp_path, rows_of("A"))) == Outcome(hydrated=2, already_there=1)


@pytest.mark.parametrize(
    "answers, asked",
    [
        (["500", "fine"], 2),
        (["503", "429", "502", "fine"], 4),
        (["truncated", "fine"], 2),
        (["cut", "fine"], 2),  # without a length only the JSON tells
        (["<html>a portal</html>", "fine"], 2),
        (["stalled", "fine"], 2),
        (["slow"], 1),
    ],
    ids=lambda value: ",".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_passes_is_tried_again(server: Server, tmp_path: Path, answers: list[str], asked: int) -> None:
    server.plan["A"] = answers
    assert quick(annotations(tmp_path, rows_of("A", "B")), timeout=0.4) == Outcome(hydrated=6)
    assert server.asked == {"A": asked, "B": 1}


@pytest.mark.parametrize(
    "answer, asked, expected, reason",
    [
        ("404", 1, Outcome(hydrated=3, missing=3), None),
        ("410", 1, Outcome(hydrated=3, missing=3), None),
        ("403", 1, Outcome(hydrated=3, failed=3), "answered 403"),
        ("500", ATTEMPTS, Outcome(hydrated=3, failed=3), "answered 500"),
        ("truncated", ATTEMPTS, Outcome(hydrated=3, failed=3), "IncompleteRead"),
        ("stalled", ATTEMPTS, Outcome(hydrated=3, failed=3), "timed out"),
        ("endless", ATTEMPTS, Outcome(hydrated=3, failed=3), "did not come to an end"),
        ("[1, 2]", ATTEMPTS, Outcome(hydrated=3, failed=3), "no text under content_original"),
        ('{"content_original": null}', ATTEMPTS, Outcome(hydrated=3, failed=3), "no text under content_original"),
        ("[" * 100_000, ATTEMPTS, Outcome(hydrated=3, failed=3), "not JSON"),
        ("changed", 1, Outcome(hydrated=5, changed=1), None),
        ('{"content_original": ""}', 1, Outcome(hydrated=3, changed=3), None),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_cannot_be_had_is_counted_and_left_out(
    server: Server, tmp_path: Path, answer: str, asked: int, expected: Outcome, reason: str | None
) -> None:
    server.plan["A"] = [answer]
    path = annotations(tmp_path, rows_of("A", "B"))
    outcome = quick(path, timeout=0.2)
    assert outcome == expected
    assert server.asked == {"A": asked, "B": 1}
    assert (reason or "article A") in "".join(outcome.problems) or not reason
    assert len(all_there()) == outcome.hydrated
    server.plan.clear()
    assert quick(path) == Outcome(hydrated=6 - outcome.hydrated, already_there=outcome.hydrated)


def test_a_server_that_never_answers_is_given_up_soon(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(300)]
    start = time.monotonic()
    outcome = quick(annotations(tmp_path, rows_of(*names)))
    assert time.monotonic() - start < 3
    assert outcome == Outcome(failed=900)
    assert f"not asked for, as {GIVE_UP} others in a row failed" in outcome.problems[-1]
    assert "refused" in outcome.problems[0]
    assert "and 295 articles more" in str(outcome)


def test_articles_that_are_missing_are_no_reason_to_give_up(server: Server, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(3 * GIVE_UP)]
    server.plan = {name: ["404"] for name in names}
    assert quick(annotations(tmp_path, rows_of(*names, "A"))) == Outcome(hydrated=3, missing=9 * GIVE_UP)


def test_four_requests_at_a_time(server: Server, tmp_path: Path) -> None:
    server.delay = 0.05
    quick(annotations(tmp_path, rows_of(*"ABCDEFGHIJKL")))
    assert server.most_at_once == 4


def command(*paths: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "data.hydrate", *map(str, paths)]
    pipe = subprocess.PIPE

    def listen() -> None:  # a shell's background job, and so its children, would be deaf to SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(arguments, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=listen)


def wait_for(server: Server, requests: int) -> None:
    end = time.monotonic() + 20
    while server.asked.total() < requests:
        assert time.monotonic() < end, "the command asks for nothing"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_where_it_was(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    names = [f"n{number}" for number in range(60)]
    path = annotations(tmp_path, rows_of(*names))
    server.delay = 0.1
    with command(path) as process:
        wait_for(server, 25)
        process.send_signal(how)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in said
    assert ("run it again" in said) == (how == signal.SIGINT)
    had, asked = len(all_there()), server.asked.total()
    assert had % PARAGRAPHS == 0  # whole articles
    assert 0 < had < 180
    assert asked - had // PARAGRAPHS <= 12  # what was on its way, or waited to be written
    server.delay = 0
    assert quick(path) == Outcome(hydrated=180 - had, already_there=had)
    assert server.asked.total() == asked + (180 - had) // PARAGRAPHS
    assert hydrated_texts(texts_of(*names)) == texts_of(*names)


def test_two_processes_may_hydrate_at_once(server: Server, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(80)]
    both = [annotations(tmp_path, rows_of(*order), f"{order[0]}.jsonl") for order in (names, names[::-1])]
    server.delay = 0.05
    for process in [command(path) for path in both]:
        said, complained = process.communicate(timeout=60)
        assert process.returncode == 0, complained
        assert "0 passages left out: the article could not be read" in said
    assert hydrated_texts(texts_of(*names)) == texts_of(*names)
    assert len(all_there()) == 240
    assert server.asked.total() > 80  # they did overlap


def test_the_folder_stands_in_for_the_network(folder: Path, tmp_path: Path) -> None:
    (folder / "A.json").write_bytes(body("A"))
    (folder / "B.json").write_bytes(body("B").replace(b"no. 2", b"no. two"))
    (folder / "C.json").write_bytes(b"\xff{")
    (folder / "D.json").mkdir()
    outcome = quick(annotations(tmp_path, rows_of(*"ABCDE")))
    assert outcome == Outcome(hydrated=5, changed=1, failed=6, missing=3)
    assert sorted(line.split(":")[0] for line in outcome.problems) == ["article C", "article D"]
    assert hydrated_texts(texts_of("A")) == texts_of("A")


def test_nothing_hydrated_is_empty_and_leaves_no_file() -> None:
    assert hydrated_texts(["0" * 40]) == {}
    assert not Path(os.environ["IMMNEWS_CACHE"]).exists()


def test_counts_are_printed_and_success_is_0(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan["B"] = ["404"]
    path = annotations(tmp_path, [*rows_of("A", "B"), row("W", 0, "elsewhere")])
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    for line in ("3 passages hydrated", "3 passages left out: the source has no", "1 passages left out: their text"):
        assert line in printed
    monkeypatch.setenv("IMMNEWS_NEWS_URL", "http://127.0.0.1:9")
    assert main([str(annotations(tmp_path, rows_of("A")))]) == 0  # all there: nothing is asked for
    assert "3 passages already there" in capsys.readouterr().out


def test_nothing_that_could_be_had_is_2_and_says_what_to_do(tmp_path: Path) -> None:
    with command(annotations(tmp_path, rows_of("A"))) as process:
        said, complained = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "Traceback" not in complained
    assert "article A" in said and "refused" in said
    assert "IMMNEWS_NEWS_DIR" in complained and "IMMNEWS_NEWS_URL" in complained


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("IMMNEWS_NEWS_DIR", "/no/such/folder", "there is no folder /no/such/folder/data/jsons"),
        ("IMMNEWS_NEWS_URL", "ftp://example.org", "give an http"),
        ("IMMNEWS_NEWS_URL", "http://", "give an http"),
    ],
)
def test_a_setting_that_names_no_source_is_refused(
    setting: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, value)
    path = annotations(tmp_path, rows_of("A"))
    with pytest.raises(NoSource, match=message):
        quick(path)
    assert main([str(path)]) == 2


@pytest.mark.parametrize("address", ["http://a..b", "http://[::1", "http://host:port", "http://*", "http://\u2025"])
def test_an_address_that_no_request_can_have_is_a_failure(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMMNEWS_NEWS_URL", address)
    assert quick(annotations(tmp_path, rows_of("A"))) == Outcome(failed=3)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no JSON", b"\xff", b"[]", b"3", b'{"source": 1', b"[" * 100_000, b'{"article": "A"}',
        b'{"source": "article_bias_prediction", "article": 3, "paragraph": 0, "sha1": ""}',
        b'{"source": "article_bias_prediction", "article": "../A", "paragraph": 0, "sha1": ""}',
        b'{"source": "article_bias_prediction", "article": "A", "paragraph": -1, "sha1": ""}',
        b'{"source": "article_bias_prediction", "article": "A", "paragraph": "0:3", "sha1": ""}',
    ],
    ids=lambda value: ascii(value[-60:]),
)  # fmt: skip
def test_annotations_that_are_none_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_bytes(content)
    with pytest.raises(HydrationError, match=r"wrong\.jsonl, line \d"):
        quick(path)
    with pytest.raises(HydrationError, match="No such file"):
        quick(tmp_path / "none.jsonl")


def test_a_store_that_is_none_is_named_and_left_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "A.json").write_bytes(body("A"))
    path, store = annotations(tmp_path, rows_of("A")), Path(os.environ["IMMNEWS_CACHE"], "news.sqlite")
    store.parent.mkdir()
    store.write_bytes(b"a letter, and no database at all " * 40)
    for call in (lambda: quick(path), lambda: hydrated_texts(["0"])):
        with pytest.raises(HydrationError, match=r"not a database.*delete it"):
            call()
    store.unlink()
    with closing(sqlite3.connect(store)) as other:
        other.execute("CREATE TABLE accounts (name)")
    before = store.read_bytes()
    with pytest.raises(HydrationError, match="something else"):
        quick(path)
    assert store.read_bytes() == before
    store.unlink()
    store.touch()  # what a process leaves that is killed as it begins
    assert hydrated_texts(["0"]) == {}
    assert quick(path) == Outcome(hydrated=3)


def test_the_folder_of_the_store_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMMNEWS_CACHE", str(tmp_path / "file"))
    with pytest.raises(HydrationError, match="see that its folder can be written"):
        quick(annotations(tmp_path, rows_of("A")))


def test_passages_are_counted_as_the_annotations_count_them() -> None:
    content = {"content_original": "\n\nFirst \u2028 one. \n\n  \nA\u3000b\tc\r\nlast"}
    assert passages_of(json.dumps(content).encode()) == ["", "First one.", "", "A b c", "last"]


def test_the_default_address_is_the_pinned_commit() -> None:
    assert ADDRESS.startswith("https://raw.githubusercontent.com/ramybaly/Article-Bias-Prediction/ced8111a72")


def test_every_shipped_annotation_with_a_public_source_hydrates(monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL.is_dir():
        pytest.skip("the articles' files are not on this machine")
    monkeypatch.setenv("IMMNEWS_NEWS_DIR", str(REAL))
    assert hydrate(progress=False) == Outcome(hydrated=6_830, not_public=626)
    assert hydrate(progress=False) == Outcome(already_there=6_830, not_public=626)
    rows = [json.loads(line) for path in ANNOTATIONS for line in path.read_text(encoding="utf-8").splitlines()]
    texts = hydrated_texts(one["sha1"] for one in rows)
    assert len(texts) == 6_830
    assert all(hashlib.sha1(found.encode()).hexdigest() == sha1 for sha1, found in texts.items())
    words = {one["sha1"]: one["words"] for one in rows}
    assert all(len(found.split()) == words[sha1] for sha1, found in texts.items())
