"""Corrections: what is acknowledged is kept, once, in SQLite and in PostgreSQL, and comes back as a corpus."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bentoml
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from postgresql_server import postgresql_server
from serving_processes import ROOT, environment, free_port
from sqlalchemy import delete, func, select
from starlette.requests import Request

from data.codebook import load_codebook
from data.files import read_passages
from serving import database
from serving.corrections import TABLE, Correction, KeyTaken, Store, Unavailable, open_store
from serving.feedback import MAX_READING, feedback, main
from serving.schema import Served

MODEL = {"name": "immigration-news", "version": "3", "codebook": "1", "data_digest": "d" * 8}
MODEL_COLUMNS = {"model": MODEL["name"], **{name: MODEL[name] for name in ("version", "codebook", "data_digest")}}
LABEL = {"label": "asylum", "confidence": 0.8, "scores": {"asylum": 0.8, "border": 0.2}}
READING = {"topic": LABEL, "stance": None, "abstained": False, "seen": "in the page"}
ASYLUM = Correction("Her claim was heard.", "asylum", "neutral", READING, "a note")
WRITE = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from serving.corrections import Correction, open_store

store, model = open_store(sys.argv[1]), dict.fromkeys(["name", "version", "codebook", "data_digest"], "x")

def add(number):
    store.add(Correction(f"passage {number}", "asylum", "neutral"), f"key {number}", model)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    if sys.argv[2] == "0":  # the one to be killed never comes to its end
        time.sleep(0.02 if number < 320 else 60)

with ThreadPoolExecutor(8) as threads:
    list(threads.map(add, range(int(sys.argv[2]), 400, 4)))
"""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgresql_server() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/feedback.db"
    address: str = request.getfixturevalue("postgresql")
    with open_store(address).engine.begin() as connection:
        connection.execute(delete(TABLE))
    return address


def count(store: Store) -> int:
    with store.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(TABLE)).scalar_one()


def test_a_correction_is_kept_with_what_was_served(url: str) -> None:
    number = open_store(url).add(ASYLUM, None, MODEL)
    superseded, rows = open_store(url).latest()
    (row,) = rows
    assert (superseded, row.id, row.passage, row.topic, row.stance) == (0, number, *ASYLUM[:3])
    assert (json.loads(row.reading), row.note, row.key) == (READING, "a note", None)
    assert (row.model, row.version, row.codebook, row.data_digest) == tuple(MODEL.values())
    assert row.received_at.endswith("+00:00") and len(row.sha1) == 40


def test_a_commit_waits_for_the_disk(url: str) -> None:
    store = open_store(url)
    with store.engine.connect() as connection:
        if url.startswith("sqlite"):
            asked = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("synchronous", "journal_mode")
            }
            assert asked == {"synchronous": 3, "journal_mode": "wal"}
        else:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_a_key_stands_for_one_correction(url: str) -> None:
    store = open_store(url)
    first = store.add(ASYLUM, "k", MODEL)
    assert store.add(ASYLUM._replace(reading=dict(reversed(READING.items()))), "k", {**MODEL, "version": "4"}) == first
    for other in ({"passage": "b"}, {"topic": "border"}, {"stance": None}, {"reading": None}, {"note": "another"}):
        with pytest.raises(KeyTaken, match="'k' stands for another correction"):
            store.add(ASYLUM._replace(**other), "k", MODEL)
    assert count(store) == 1
    assert len({first, store.add(ASYLUM, None, MODEL), store.add(ASYLUM, None, MODEL)}) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1), note=st.none() | st.text(), extra=st.text(st.characters()))
@example("a\0\\0\\\\\0", "\0", "\ud800\0")
@example("'; DROP TABLE corrections; --%s{}:x\u2028\x85\r\n\ufeff", "", "\U0010ffff")
def test_any_text_comes_back_as_it_went_in(url: str, text: str, note: str | None, extra: str) -> None:
    store = STORES.get(url) or STORES.setdefault(url, open_store(url))
    number = store.add(Correction(text, "asylum", "neutral", {"extra": extra}, note), None, MODEL)
    with store.engine.connect() as connection:
        row = connection.execute(select(TABLE).where(TABLE.c.id == number)).one()
    assert (row.passage, row.note, json.loads(row.reading)) == (text, note, {"extra": extra})


STORES: dict[str, Store] = {}


def test_what_was_acknowledged_outlives_a_killed_writer(url: str) -> None:
    command = [sys.executable, "-c", WRITE, url]
    variables = environment(PYTHONPATH=str(ROOT))
    writers = [
        subprocess.Popen([*command, str(start)], env=variables, stdout=subprocess.PIPE, text=True) for start in range(4)
    ]
    outputs = [writer.stdout for writer in writers]
    assert outputs[0]
    acknowledged = [outputs[0].readline() for _ in range(25)]
    writers[0].kill()
    acknowledged += [line for output in outputs if output for line in output if line.endswith("\n")]
    assert [writer.wait() for writer in writers] == [-signal.SIGKILL, 0, 0, 0]
    store = open_store(url)
    kept = count(store)
    assert 325 <= len(set(acknowledged)) == len(acknowledged) <= kept < 400
    with store.engine.connect() as connection:
        keys = set(connection.execute(select(TABLE.c.key)).scalars())
    assert {f"key {int(line)}" for line in acknowledged} <= keys and len(keys) == kept

    def add(number: int) -> int:
        return store.add(Correction(f"passage {number}", "asylum", "neutral"), f"key {number}", MODEL)

    with ThreadPoolExecutor(32) as threads:
        assert len(set(threads.map(add, range(400)))) == 400
    assert count(store) == 400


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nonsense", "no address"),
        ("postgres:me:secret@host:port/x", "no address"),
        ("postgres://me:secret@host/x", "no address"),
        ("postgresql://me:secret@host:port/x", "no address"),
        ("mysql://me:secret@host/x?password=secret", "'mysql' is not supported"),
        ("postgresql+asyncpg://me:secret@host/x", "not supported"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "must be a file"),
        ("sqlite:////nowhere/feedback.db", "make the folder"),
        ("sqlite:////tmp", "a file cannot stand there"),
    ],
)
def test_a_bad_address_is_refused_without_its_password(address: str, says: str) -> None:
    with pytest.raises(database.BadUrl, match=says) as refusal:
        open_store(address)
    assert str(refusal.value).startswith("IMMNEWS_FEEDBACK_URL: '") and "secret" not in str(refusal.value)


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Posts to the handler of a service that keeps corrections in `tmp_path`."""
    codebook = load_codebook()
    service = SimpleNamespace(
        topics=list(codebook.topic_names),
        stances=list(codebook.stance_names),
        served=Served(**MODEL),
        corrections=open_store(f"sqlite:///{tmp_path}/feedback.db"),
    )
    monkeypatch.setattr(bentoml, "get_current_service", lambda: service)

    def send(key: str | None = None, **fields: Any) -> tuple[int, dict[str, Any]]:
        body = json.dumps({"passage": "a", "topic": "asylum", "stance": "neutral", **fields}).encode()
        headers = [] if key is None else [(b"idempotency-key", key.encode("latin-1"))]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        response = asyncio.run(feedback(Request({"type": "http", "method": "POST", "headers": headers}, receive)))
        return response.status_code, json.loads(bytes(response.body))

    return send


def test_the_handler_answers_by_what_was_kept(post: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    assert post(reading=READING, note="x", key="k") == (200, {"id": 1, "stored": True})
    assert post(reading=READING, note="x", key="k") == (200, {"id": 1, "stored": True})
    assert post(topic="off_topic", stance=None) == (200, {"id": 2, "stored": True})
    status, answer = post(key="k")
    assert status == 409 and "Idempotency-Key: the key 'k' stands for another" in answer["error"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"passage": ""}, "passage must be a string of 1 to 10,000 characters"),
        ({"topic": "asylums"}, "topic: 'asylums' is not known; choose one of"),
        ({"stance": "for"}, "stance: 'for' is not known; choose one of supportive, neutral, restrictive"),
        ({"stance": None}, "stance: missing or null; choose one of"),
        ({"topic": "off_topic"}, "stance: 'neutral' with the topic off_topic"),
        ({"note": "x" * 2001}, "note must be null, or a string of up to 2,000"),
        ({"reading": {}}, "topic: Field required; reading must be null, or"),
        ({"reading": {**READING, "abstained": "no"}}, "abstained: Input should be a valid boolean"),
        ({"reading": {**READING, "more": "x" * MAX_READING}}, "characters long; reading must be"),
        ({"reading": {**READING, "more": "\ud800"}, "key": ""}, "Idempotency-Key: ''; it must be"),
        ({"key": "x" * 201}, "1 to 200 printable"),
        ({"key": "\xe9"}, "1 to 200 printable"),
        ({"verdict": "x"}, "unknown field 'verdict'; allowed are [passage: "),
    ],
)
def test_a_bad_correction_is_refused_by_name(
    post: Callable[..., tuple[int, dict[str, Any]]], fields: dict[str, Any], says: str
) -> None:
    status, answer = post(**fields)
    assert status == 400 and answer.keys() == {"error"} and says in answer["error"]


def test_a_locked_or_broken_store_is_503_and_then_recovers(
    post: Callable[..., tuple[int, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bentoml.get_current_service().corrections.engine.dispose()
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.1)
    bentoml.get_current_service().corrections = open_store(f"sqlite:///{tmp_path}/feedback.db")
    with closing(sqlite3.connect(tmp_path / "feedback.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, answer = post(passage="xyzzy")
        assert status == 503 and "Idempotency-Key" in answer["error"]
    assert post()[0] == 200
    (tmp_path / "no.db").write_text("This is no database at all, whatever its name may say." * 99)
    bentoml.get_current_service().corrections = open_store(f"sqlite:///{tmp_path}/no.db")
    assert post(passage="xyzzy")[0] == 503
    assert "database is locked" in caplog.text and "not a database" in caplog.text and "xyzzy" not in caplog.text


def test_a_server_that_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"postgresql://me:secret@127.0.0.1:{free_port()}/x")
    with pytest.raises(Unavailable, match="refused"):
        store.add(ASYLUM, None, MODEL)
    assert "cannot be kept until" in caplog.text and "secret" not in caplog.text


def test_the_corrections_join_as_a_corpus(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMMNEWS_FEEDBACK_URL", url)
    store, output = open_store(url), tmp_path / "corrections.jsonl"
    assert main(["--output", str(output)]) == 0
    assert "no corrections" in capsys.readouterr().err and not output.exists()
    odd = "line\u2028separator, NEL\x85, NUL\0, a\\0 and \N{PILE OF POO}"
    for one in (
        ASYLUM,
        ASYLUM._replace(topic="border"),
        Correction(odd, "off_topic", None),
        Correction(" ", "other", ""),
    ):
        store.add(one, None, MODEL)
    assert main(["--output", str(output)]) == 0
    said = capsys.readouterr().err
    assert "2 corrections written; 1 superseded" in said and "its passage is blank" in said
    corpus = read_passages(output, "corrections")
    assert corpus["text"] == [ASYLUM.passage, odd]
    assert [corpus.features["topic"].int2str(topic) for topic in corpus["topic"]] == ["border", "off_topic"]
    assert [corpus.features["stance"].int2str(stance) for stance in corpus["stance"]] == ["neutral", "neutral"]
    (annotation,) = json.loads(output.read_text().splitlines()[0])["annotations"]
    assert annotation["corrected"] == {**MODEL_COLUMNS, "reading": READING}
    assert annotation["at"] and annotation["note"] == "a note" and annotation["annotator"].startswith("feedback-")
    assert main([]) == 0
    assert capsys.readouterr().out == output.read_text()
    assert not list(tmp_path.glob(".*partial"))


def test_the_command_reads_the_file_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_store(f"sqlite:///{tmp_path}/feedback.db").add(ASYLUM, None, MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMMNEWS_FEEDBACK_URL", raising=False)
    assert main([]) == 0 and json.loads(capsys.readouterr().out)["text"] == ASYLUM.passage


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("IMMNEWS_FEEDBACK_URL", "nonsense")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: IMMNEWS_FEEDBACK_URL: 'nonsense'")
