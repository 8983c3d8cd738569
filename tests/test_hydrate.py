"""Hydration against a real server that also fails, and from a folder: what is had is verified, and all is counted."""

import hashlib
import json
import os
import re
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
from urllib.parse import unquote

import pytest
from conftest import ROOT

from data.articles import ATTEMPTS, GIVE_UP, HOST, NEWS, REPOSITORIES, File, NoSource, passages_of
from data.hydrate import ANNOTATIONS, HydrationError, Outcome, hydrate, hydrated_texts, main

REAL = ROOT.parent / "shared" / "news" / "articles"
PARAGRAPHS = 3
Row = dict[str, Any]

ODD: File = ("youtube_ireland", "nlp code/100% of #1?.csv")
TEXT: File = ("senate_press_releases", "raw/A/1.txt")
JSON: File = ("candidates_texas_2020", "data/of both.json")
FILES: dict[File, tuple[str, dict[str, str]]] = {  # contents, and pieces as they stand and as texts
    JSON: (
        r'{"a \"b": "\nShe said:\t\"No. \\n\" ", "c": ["Caf\u00e9 \ud83d\ude00 \/", "“é”\r\n\u00a0f"]}',
        {
            r"\nShe said:\t\"No. \\n\" ": r'She said: "No. \n"',
            r"Caf\u00e9 \ud83d\ude00 \/": "Café \N{GRINNING FACE} /",
            r"“é”\r\n\u00a0f": "“é” f",
        },
    ),
    ("candidates_texas_2022", "data/of both.json"): ('["another  commit"]', {"another  commit": "another commit"}),
    ODD: (
        'id,text\r\n1,"She said ""no"",\nand\r\n\r\n left."\r\n2,no. 1 is C:\\new\r\n3,"""All"" of them."\r\n',
        {
            'She said ""no"",\nand\r\n\r\n left.': 'She said "no", and left.',
            "no. 1 is C:\\new": r"no. 1 is C:\new",
            '""All"" of them.': '"All" of them.',
        },
    ),
    TEXT: (
        'Señor  “A”\n\n\tsaid:\r\n""\\u00e9\\n"" stays.\n',
        {"Señor  “A”\n\n\tsaid": "Señor “A” said", '""\\u00e9\\n"" stays.\n': r'""\u00e9\n"" stays.'},
    ),
}


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def body(name: str) -> bytes:
    """A made-up article of PARAGRAPHS passages, with the loose white space of a scraped one."""
    pieces = [f"The  ministry of {name}\t said thing no. {number} \u00a0 “today”. " for number in range(PARAGRAPHS)]
    return json.dumps({"ID": name, "content_original": "\n\n\n".join(pieces) + "\n"}).encode()


def text(name: str, paragraph: int) -> str:
    return f"The ministry of {name} said thing no. {paragraph} “today”."


def row(name: str, paragraph: int, source: str = "article_bias_prediction") -> Row:
    return {"source": source, "article": name, "paragraph": paragraph, "sha1": sha1(text(name, paragraph))}


def rows_of(*names: str) -> list[Row]:
    return [row(name, paragraph) for name in names for paragraph in range(PARAGRAPHS)]


def texts_of(*names: str) -> dict[str, str]:
    return {row(name, number)["sha1"]: text(name, number) for name in names for number in range(PARAGRAPHS)}


def piece(file: File, raw: str, place: str = "") -> Row:
    """The annotation of a piece of one of FILES, at its own place unless another is given."""
    content, pieces = FILES[file]
    place = place or f"{content.encode().index(raw.encode())}+{len(raw.encode())}"
    return {"source": file[0], "article": file[1], "paragraph": place, "sha1": sha1(pieces[raw])}


def pieces_of(*files: File) -> list[Row]:
    return [piece(file, raw) for file in files for raw in FILES[file][1]]


def stored_at(file: File) -> str:
    return f"{REPOSITORIES[file[0]]}/{file[1]}"


class Server(ThreadingHTTPServer):
    """Serves `body(name)` for every name and `files` by path, unless `plan` says what its next answers are instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {stored_at(file): content.encode() for file, (content, _) in FILES.items()}
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
        path = unquote(self.path).removeprefix("/mirror/")
        article = re.fullmatch(r"data/jsons/([^/]+)\.json", path)
        name = article[1] if article else path
        content = body(name) if article else self.server.files.get(path)
        if content is None:
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
            self.answer(what, content)
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


def test_pieces_of_files_are_had_verified_and_unescaped(server: Server, tmp_path: Path) -> None:
    rows = [*pieces_of(*FILES), *rows_of("A")]
    nowhere = {"source": "letters", "article": "../x", "paragraph": "3", "sha1": ""}
    assert quick(annotations(tmp_path, [*rows, nowhere])) == Outcome(hydrated=12, not_public=1)
    texts = [text for _, pieces in FILES.values() for text in pieces.values()]
    assert hydrated_texts(one["sha1"] for one in rows) == {sha1(one): one for one in texts} | texts_of("A")
    assert server.asked == dict.fromkeys([*map(stored_at, FILES), "A"], 1)


@pytest.mark.parametrize(
    "answer, asked, expected, reason",
    [
        ("404", 1, Outcome(missing=3), None),
        ("403", 1, Outcome(failed=3), "answered 403"),
        ("truncated", ATTEMPTS, Outcome(failed=3), "IncompleteRead"),
        ("changed", 1, Outcome(hydrated=1, changed=2), None),  # the first piece stands before the change
        ("cut", 1, Outcome(hydrated=2, changed=1), None),  # without a length only the sha1 tells
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_whose_pieces_cannot_be_had_is_left_out(
    server: Server, tmp_path: Path, answer: str, asked: int, expected: Outcome, reason: str | None
) -> None:
    server.plan[stored_at(ODD)] = [answer]
    path = annotations(tmp_path, pieces_of(ODD))
    outcome = quick(path)
    assert outcome == expected
    assert server.asked == {stored_at(ODD): asked}
    said = [(line.startswith(f"{' '.join(ODD)}: "), str(reason) in line) for line in outcome.problems]
    assert said == ([(True, True)] if reason else [])
    server.plan.clear()
    assert quick(path) == Outcome(hydrated=3 - outcome.hydrated, already_there=outcome.hydrated)


@pytest.mark.parametrize(
    "file, place",
    [
        (TEXT, "99999+21"),
        (TEXT, f"{'9' * 30}+{'9' * 30}"),
        (TEXT, f"{'9' * 5000}+21"),
        (TEXT, "0+3"),  # half of the third character
        (TEXT, "3+21"),  # from its other half
        (TEXT, "0+0"),
        (ODD, "12+40"),
        (JSON, "11+1"),  # a backslash that escapes nothing
        (JSON, "0+20"),  # not inside one string
        (JSON, "56+6"),  # half of a surrogate pair
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else value[0],
)
def test_a_place_without_the_annotated_text_counts_as_changed(
    server: Server, tmp_path: Path, file: File, place: str
) -> None:
    astray = piece(file, next(iter(FILES[file][1])), place)
    others = pieces_of(file)[1:]
    assert quick(annotations(tmp_path, [astray, *others])) == Outcome(hydrated=len(others), changed=1)
    assert all_there() == {one["sha1"] for one in others}


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
    said = [(line.startswith("article_bias_prediction A: "), str(reason) in line) for line in outcome.problems]
    assert said == ([(True, True)] if reason else [])
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
    assert "and 295 files more" in str(outcome)


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
        assert "0 passages left out: the file could not be read" in said
    assert hydrated_texts(texts_of(*names)) == texts_of(*names)
    assert len(all_there()) == 240
    assert server.asked.total() > 80  # they did overlap


def test_the_folder_stands_in_for_the_network(folder: Path, tmp_path: Path) -> None:
    (folder / "A.json").write_bytes(body("A"))
    (folder / "B.json").write_bytes(body("B").replace(b"no. 2", b"no. two"))
    (folder / "C.json").write_bytes(b"\xff{")
    (folder / "D.json").mkdir()
    for file in list(FILES)[:3]:
        (folder.parents[1] / stored_at(file)).parent.mkdir(parents=True)
        (folder.parents[1] / stored_at(file)).write_bytes(FILES[file][0].encode())
    outcome = quick(annotations(tmp_path, [*rows_of(*"ABCDE"), *pieces_of(*FILES)]))
    assert outcome == Outcome(hydrated=5 + 7, changed=1, failed=6, missing=3 + 2)
    assert sorted(line.split(":")[0] for line in outcome.problems) == [f"article_bias_prediction {one}" for one in "CD"]
    assert hydrated_texts(texts_of("A")) == texts_of("A")
    assert all_there() > {one["sha1"] for one in pieces_of(*list(FILES)[:3])}


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
    assert "article_bias_prediction A: " in said and "refused" in said
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


def test_half_a_surrogate_pair_is_no_text(server: Server, tmp_path: Path) -> None:
    assert FILES[JSON][0].encode()[56:62] == rb"\ud83d"
    digest = hashlib.sha1("\ud83d".encode("utf-8", "surrogatepass")).hexdigest()
    half = {"source": JSON[0], "article": JSON[1], "paragraph": "56+6", "sha1": digest}
    assert quick(annotations(tmp_path, [half])) == Outcome(changed=1)


@pytest.mark.parametrize("article", ["../x", "/etc/passwd", "a/../../b", "..", "a\0b", "a\ud800", 3, None])
def test_a_path_out_of_the_repository_is_refused(folder: Path, tmp_path: Path, article: object) -> None:
    refused(tmp_path, {**piece(ODD, '""All"" of them.'), "article": article})


@pytest.mark.parametrize("place", ["", "3", "3+", "+3", "-1+5", "1+-5", "a+b", "1+2+3", "1 + 2", "1+2\n", 3, 1.5, None])
def test_a_place_that_is_none_is_refused(folder: Path, tmp_path: Path, place: object) -> None:
    refused(tmp_path, {**piece(ODD, '""All"" of them.'), "paragraph": place})


def refused(tmp_path: Path, wrong: Row) -> None:
    """Line 4 is named, and nothing was had for the good lines before it."""
    path = annotations(tmp_path, [*rows_of("A"), wrong])
    with pytest.raises(HydrationError, match=r"made up\.jsonl, line 4: "):
        quick(path)
    assert main([str(path)]) == 2
    assert not Path(os.environ["IMMNEWS_CACHE"]).exists()


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


def test_by_default_all_comes_from_the_pinned_commits(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HOST == "https://raw.githubusercontent.com"
    assert REPOSITORIES[NEWS].startswith("ramybaly/Article-Bias-Prediction/ced8111a72")
    assert all(re.fullmatch(r"[\w-]+/[\w-]+/[0-9a-f]{40}", one) for one in REPOSITORIES.values())
    monkeypatch.delenv("IMMNEWS_NEWS_URL")
    monkeypatch.setattr("data.articles.HOST", server.address.rstrip("/"))
    article = f"{REPOSITORIES[NEWS]}/data/jsons/A.json"
    server.files[article] = body("A")
    assert quick(annotations(tmp_path, [*rows_of("A"), *pieces_of(ODD)])) == Outcome(hydrated=6)
    assert server.asked == {article: 1, stored_at(ODD): 1}


def test_every_shipped_annotation_whose_file_is_here_hydrates(monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL.is_dir():
        pytest.skip("the articles' files are not on this machine")
    monkeypatch.setenv("IMMNEWS_NEWS_DIR", str(REAL))
    assert hydrate(progress=False) == Outcome(hydrated=16_079, missing=7_032, not_public=626)
    assert hydrate(progress=False) == Outcome(already_there=16_079, missing=7_032, not_public=626)
    rows = [json.loads(line) for path in ANNOTATIONS for line in path.read_text(encoding="utf-8").splitlines()]
    texts = hydrated_texts(one["sha1"] for one in rows)
    assert len(texts) == 16_079
    assert all(hashlib.sha1(found.encode()).hexdigest() == sha1 for sha1, found in texts.items())
    words = {one["sha1"]: one["words"] for one in rows}
    assert all(len(found.split()) == words[sha1] for sha1, found in texts.items())
