"""The service over real HTTP: answers, order, and an error for everything that is not a valid request."""

import json
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas as pd
import pytest
from conftest import Champion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_processes import (
    ROOT,
    copy_registry,
    environment,
    figures,
    free_port,
    json_lines,
    process_tree,
    serving_champion,
    stop_tree,
    wait_for,
)

from serving.bodies import MAX_BODY
from serving.guard import METHODS
from serving.parsing import MAX_VALUES
from serving.schema import MAX_CHARACTERS, MAX_PASSAGES
from serving.service import CONCURRENT, EXPLAINERS

JSON = {"Content-Type": "application/json"}
PASSAGES = [
    "The board now lists refugee cases from the spring before last; her asylum claim has waited nineteen months.",
    "Enough. The town was never asked about the migrant hostel, and those who broke the rules should go home.",
    "Ringed plovers have reached the estuary ten days early this year, the wardens of the bird reserve report.",
    "These nurses came from abroad and have kept our hospital running. Give them their papers and an apology.",
    "The migration bill passed its second reading by eleven votes after the Centre Alliance let its members vote.",
    "  ",
    "a\x00b",
    "\N{PILE OF POO}" * MAX_CHARACTERS,
]


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the log of `other` lies; code planted beside its model would write the file `ran` there."""
    return tmp_path_factory.mktemp("other")


@pytest.fixture(scope="module")
def other(history: Champion, served: httpx.Client, served_folder: Path, other_folder: Path) -> Iterator[httpx.Client]:
    """Another server in the BentoML home of `served`, which logs the text; somebody put a module beside its model's."""
    registry = copy_registry(history.uri, other_folder)
    planted = f"open({str(other_folder / 'ran')!r}, 'w')\nraise SystemExit(3)\n"
    (registry.model / "code" / "skops.py").write_text(planted)
    home = str(served_folder / "bentoml")
    with serving_champion(registry.uri, other_folder, BENTOML_HOME=home, IMMNEWS_LOG_TEXT="true") as client:
        yield client


@pytest.fixture(scope="module")
def registered(champion: Any) -> Any:
    """The registry's entry for the champion."""
    return mlflow.MlflowClient(champion.uri, champion.uri).get_model_version_by_alias("immigration-news", "champion")


def classify(served: httpx.Client, passages: list[str]) -> dict[str, Any]:
    response = served.post("/classify", json={"passages": passages})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_answers_as_the_contract_says(served: httpx.Client, registered: Any) -> None:
    answer = classify(served, PASSAGES)
    codebook = served.get("/codebook").json()
    topics = [topic["name"] for topic in codebook["topics"]]
    stances = [stance["name"] for stance in codebook["stances"]]
    assert answer.keys() == {"readings", "model"}
    assert answer["model"] == {
        "name": "immigration-news",
        "version": str(registered.version),
        "codebook": registered.tags["codebook"],
        "data_digest": registered.tags["data_digest"],
    }
    assert len(answer["readings"]) == len(PASSAGES)
    for reading in answer["readings"]:
        assert reading.keys() == {"topic", "stance", "abstained"}
        assert isinstance(reading["abstained"], bool)
        assert (reading["stance"] is None) == (reading["topic"]["label"] == "off_topic")
        for label, names in ((reading["topic"], topics), (reading["stance"], stances)):
            if label is not None:
                assert list(label["scores"]) == names
                assert sum(label["scores"].values()) == pytest.approx(1)
                assert label["confidence"] == label["scores"][label["label"]]


@pytest.fixture(scope="module")
def offline(champion: Any) -> Any:
    """The champion as anyone loads it from the registry."""
    mlflow.set_tracking_uri(champion.uri)
    return mlflow.pyfunc.load_model("models:/immigration-news@champion")


def check_against(offline: Any, texts: list[str], readings: list[dict[str, Any]]) -> None:
    """Hold served readings against what the model says here."""
    frame = offline.predict(pd.DataFrame({"text": pd.Series(texts, dtype="object")}))
    assert [reading["topic"]["label"] for reading in readings] == frame["topic"].tolist()
    assert [reading["topic"]["confidence"] for reading in readings] == pytest.approx(frame["topic_confidence"])
    assert [reading["abstained"] for reading in readings] == frame["abstained"].tolist()
    stances = [reading["stance"] and reading["stance"]["label"] for reading in readings]
    assert stances == [
        None if off else one for off, one in zip(frame["topic"] == "off_topic", frame["stance"], strict=True)
    ]


def test_served_labels_equal_the_offline_models(served: httpx.Client, offline: Any) -> None:
    check_against(offline, PASSAGES, classify(served, PASSAGES)["readings"])


ANY_TEXT = st.one_of(
    st.text(st.characters(), max_size=200),  # NUL, lone surrogates, private use, right to left
    st.text(
        st.sampled_from("\x00\u200f\u202e\ud83d\N{PILE OF POO}\N{ARABIC LETTER ALEF}e\u0301 \n\ufeff"), max_size=50
    ),
    st.builds(str.__mul__, st.text(min_size=1, max_size=9), st.integers(1, 1_250)),
    st.sampled_from(PASSAGES).flatmap(lambda text: st.text(max_size=5).map(lambda more: text[:200] + more)),
)


@given(st.lists(ANY_TEXT, max_size=6))
@settings(max_examples=75, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_read_as_the_offline_model_reads_it_or_refused(
    served: httpx.Client, offline: Any, texts: list[str]
) -> None:
    body = json.dumps({"passages": texts})
    response = served.post("/classify", content=body, headers=JSON)
    texts = json.loads(body)["passages"]  # a pair of surrogates has become its character
    valid = texts and all(1 <= len(text) <= MAX_CHARACTERS and is_unicode(text) for text in texts)
    assert response.status_code == (200 if valid else 400), response.text
    if valid:
        check_against(offline, texts, response.json()["readings"])
    else:
        assert "passages" in response.json()["error"]


def is_unicode(text: str) -> bool:
    """Whether it holds no lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def test_readings_come_in_the_order_of_the_passages(served: httpx.Client) -> None:
    forwards = classify(served, PASSAGES)["readings"]
    assert classify(served, PASSAGES[::-1])["readings"] == forwards[::-1]
    assert classify(served, PASSAGES[:1])["readings"] == forwards[:1]


def test_says_what_is_served(served: httpx.Client, registered: Any) -> None:
    model = served.get("/model").json()
    assert model["version"] == str(registered.version)
    assert model["run_id"] == registered.tags["run_id"]
    assert model["manifest"] == registered.tags["manifest"]
    assert model["quality"]
    codebook = served.get("/codebook").json()
    assert len(codebook["topics"]) == 11 and all(topic["definition"] for topic in codebook["topics"])
    assert len(codebook["stances"]) == 3 and codebook["rules"] and codebook["crosswalk"]


def test_describes_its_routes_and_errors(served: httpx.Client) -> None:
    paths = served.get("/docs.json").json()["paths"]
    assert {"/classify", "/codebook", "/model", "/livez", "/readyz", "/metrics"} <= paths.keys()
    responses = paths["/classify"]["post"]["responses"]
    assert {"200", "400", "401", "413", "415", "429", "503"} <= responses.keys()
    assert "bentoml_service_request" in served.get("/metrics").text


def test_a_module_planted_in_the_registry_does_not_run(other: httpx.Client, other_folder: Path) -> None:
    classify(other, PASSAGES[:1])
    assert not (other_folder / "ran").exists()


def test_the_text_is_logged_where_asked_for(other: httpx.Client, other_folder: Path) -> None:
    classify(other, PASSAGES[:1])
    assert wait_for(lambda: [line for line in json_lines(other_folder) if line.get("texts") == PASSAGES[:1]])


def test_servers_that_share_a_home_count_apart(served: httpx.Client, other: httpx.Client) -> None:
    def asked(client: httpx.Client) -> float:
        name = "immigration_news_requests_total"
        return sum(value for key, value in figures(client).items() if key[0] == name and key[2:] == ("/model", "200"))

    before, others = asked(served), asked(other)
    for _ in range(3):
        assert served.get("/model").json()["version"] != other.get("/model").json()["version"]
    assert wait_for(lambda: asked(served) == before + 3 and asked(other) == others + 3)


def test_a_service_that_runs_outlives_its_models_files(
    other: httpx.Client, other_folder: Path, served_folder: Path
) -> None:
    before = classify(other, PASSAGES)
    [model] = [path for path in served_folder.glob("bentoml/models/immigration-news/2-*") if path.is_dir()]
    shutil.rmtree(model)
    assert classify(other, PASSAGES) == before
    assert other.get("/readyz").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "reason"), [("changed", "pipeline.skops has changed: sha256"), ("missing", "could not be found locally")]
)
def test_a_stored_model_that_is_not_as_imported_is_never_served(
    history: Champion, tmp_path: Path, harm: str, reason: str
) -> None:
    with serving_champion(history.uri, tmp_path):
        pass
    [stored] = (path for path in tmp_path.glob("bentoml/models/immigration-news/*-*") if path.is_dir())
    if harm == "missing":
        shutil.rmtree(stored)
    else:
        [pipeline] = stored.rglob("pipeline.skops")
        pipeline.write_bytes(pipeline.read_bytes()[:-1] + b"!")
    port, log = free_port(), tmp_path / "again.log"
    command = ["-m", "bentoml", "serve", "serving.service:ImmigrationNews", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--arg", f"model={stored.parent.name}:{stored.name}"]
    url = f"sqlite:///{tmp_path}/feedback.db"
    settings = environment(BENTOML_HOME=str(tmp_path / "bentoml"), IMMNEWS_FEEDBACK_URL=url)

    def told() -> bool:
        with suppress(httpx.TransportError):
            assert httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code != 200
        return reason in log.read_text()

    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=settings, stdout=out, stderr=out)
    try:
        assert wait_for(told)
    finally:
        print(log.read_text())
        stop_tree(process, signal.SIGKILL)


BAD = {
    "too many values": (b'{"passages":[' + b"[]," * MAX_VALUES + b"[]]}", "over 200,000 values"),
    "no body": (b"", "not JSON"),
    "half an object": (b"{", "not JSON"),
    "two documents": (b'{"passages":["a"]} {}', "not JSON"),
    "a list": (b'["a"]', "must be an object"),
    "null": (b"null", "must be an object"),
    "no field": (b"{}", "passages: Field required"),
    "misspelt field": (b'{"passage":["a"]}', "'passage'; allowed are [passages: a list of 1 to 512"),
    "another field": (b'{"passages":["a"],"title":""}', "'title'"),
    "field twice": (b'{"passages":["a"],"passages":["b"]}', "'passages' stands twice"),
    "a string": (b'{"passages":"a"}', "passages: Input should be a valid list"),
    "an empty list": (b'{"passages":[]}', "at least 1"),
    "a number inside": (b'{"passages":["a",3]}', "passages[1]: Input should be a valid string"),
    "null inside": (b'{"passages":["a",null]}', "passages[1]"),
    "an empty passage": (b'{"passages":["a","b",""]}', "passages[2]: String should have at least 1"),
    "too many": (json.dumps({"passages": ["a"] * (MAX_PASSAGES + 1)}).encode(), "at most 512 items, not 513"),
    "too long": (json.dumps({"passages": ["a", "b" * (MAX_CHARACTERS + 1)]}).encode(), "passages[1]: "),
    "lone surrogate": (b'{"passages":["a\\ud800"]}', "passages[0]: "),
    "lone surrogate in a name": (b'{"\\udc00":["a"]}', "object"),
    "NaN": (b'{"passages":NaN}', "NaN"),
    "a huge number": (b'{"passages":' + b"9" * 5000 + b"}", "number"),
    "deep nesting": (b'{"passages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    "not UTF-8": (b'{"passages":["\xff"]}', "UTF-8"),
    "UTF-16": ('{"passages":["a"]}'.encode("utf-16"), "UTF-8"),
}


def test_a_body_of_a_hundred_thousand_fields_is_refused_at_once(served: httpx.Client) -> None:
    names = [f"f{number}" for number in range(100_000)]
    many = json.dumps(dict.fromkeys(names, 0))
    for body, says in ((many, "100,000 fields"), (many[:-1] + ', "f99999": 0}', "'f99999' stands twice")):
        response = served.post("/classify", content=body, headers=JSON, timeout=10)  # squared, it would be minutes
        assert response.status_code == 400 and says in response.json()["error"]


def test_what_stands_inside_a_passage_is_no_value(served: httpx.Client) -> None:
    passage = ',[{"\\' * (MAX_CHARACTERS // 5)
    classify(served, [passage] * 100)


@pytest.mark.parametrize(("body", "says"), BAD.values(), ids=list(BAD))
def test_a_bad_body_is_refused_by_name(served: httpx.Client, body: bytes, says: str) -> None:
    response = served.post("/classify", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.json().keys() == {"error"}
    assert says in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/classify", {"Content-Type": "text/plain"}, 415),
        ("POST", "/classify", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ("POST", "/classify", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/classify", {"Content-Type": ""}, 415),
        ("POST", "/classify", {}, 415),
        ("POST", "/classify", {**JSON, "Content-Encoding": "gzip"}, 415),
        ("POST", "/classify", {"Content-Type": "application/json; charset=utf-8"}, 200),
        ("GET", "/classify", {}, 405),
        ("DELETE", "/model", {}, 405),
        ("POST", "/model", JSON, 405),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/classify/", {}, 404),
        ("HEAD", "/codebook", {}, 200),
        ("GET", "/livez", {}, 200),
    ],
)
def test_types_routes_and_methods(
    served: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    content = b'{"passages":["a"]}' if method == "POST" else b""
    response = served.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    if status >= 400:
        assert response.json().keys() == {"error"}
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("route", METHODS)
def test_a_pickle_is_not_opened(served: httpx.Client, route: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return open, (str(tmp_path / "opened"), "w")

    for kind in ("application/vnd.bentoml+pickle", "Application/Vnd.BentoML+Pickle", "application/octet-stream"):
        for method in ("GET", "POST", "PUT"):
            response = served.request(method, route, content=pickle.dumps(Bomb()), headers={"Content-Type": kind})
            assert response.status_code == 415
    form = {"passages": ("a.pkl", pickle.dumps(Bomb()), "application/vnd.bentoml+pickle")}
    assert served.post(route, files=form).status_code == 415
    assert not (tmp_path / "opened").exists()


def test_a_body_over_the_limit_is_refused_however_it_comes(served: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 2**20 + 2):
            yield b" " * 2**20

    for content in (b" " * (MAX_BODY + 1), chunks()):
        response = served.post("/classify", content=content, headers=JSON)
        assert response.status_code == 413
        assert f"{MAX_BODY:,} bytes" in response.json()["error"]


SMALL = b'{"passages":["a"]}'


@pytest.mark.parametrize(
    ("lengths", "body", "status"),
    [
        ("Content-Length: 999999999999", SMALL, 413),  # the rest never comes
        (f"Content-Length: {MAX_BODY + 1}", b"", 413),
        ("Content-Length: 99999999999999999999999999", SMALL, 400),  # no length that HTTP's parser knows
        ("Content-Length: -18", SMALL, 400),
        ("Content-Length: 18\r\nContent-Length: 19", SMALL, 400),
        ("Content-Length: 3", SMALL, 400),  # what follows is no request
        pytest.param("Content-Length: 30", SMALL, 408, marks=pytest.mark.slow),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", b"12\r\n" + SMALL + b"\r\n0\r\n\r\n", 200),
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            b"%x\r\n" % (MAX_BODY + 1) + b" " * (MAX_BODY + 1) + b"\r\n0\r\n\r\n",
            413,
        ),
        pytest.param("Transfer-Encoding: chunked", b"ffffffffffff\r\n" + SMALL, 408, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value)[:60].replace("\r\n", " ") if isinstance(value, str) else "",
)
def test_a_length_that_lies_gets_no_more_than_what_came(
    served: httpx.Client, lengths: str, body: bytes, status: int
) -> None:
    head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lengths}\r\n\r\n"
    with socket.create_connection((served.base_url.host, served.base_url.port)) as connection:
        connection.settimeout(20)
        with suppress(BrokenPipeError, ConnectionResetError):  # answered before all of it was sent
            connection.sendall(head.encode() + body)
        answer = connection.recv(2**16)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    classify(served, PASSAGES[:1])


def test_the_largest_valid_body_fits() -> None:
    body = {"passages": ["\N{PILE OF POO}" * MAX_CHARACTERS] * MAX_PASSAGES}
    assert len(json.dumps(body, indent=4)) < MAX_BODY


def test_overload_is_told_when_to_return_and_passes(served: httpx.Client) -> None:
    start = threading.Barrier(CONCURRENT + 40)

    def post(_: int) -> httpx.Response:
        start.wait()
        return own.post("/classify", json={"passages": PASSAGES[:5]})

    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=served.base_url, timeout=60, limits=limits, trust_env=False) as own,
        ThreadPoolExecutor(CONCURRENT + 40) as threads,
    ):
        responses = list(threads.map(post, range(CONCURRENT + 40)))
    shed = [response for response in responses if response.status_code != 200]
    assert shed and len(responses) - len(shed) >= CONCURRENT
    for response in shed:
        assert response.status_code in (429, 503)
        assert response.headers["retry-after"].isdigit() and response.json().keys() == {"error"}
    classify(served, PASSAGES[:1])


def test_requests_for_explanations_keep_no_other_out(served: httpx.Client) -> None:
    passages = [" ".join(PASSAGES[:5])] * 2
    done = threading.Event()

    def explain(number: int) -> httpx.Response:
        return served.post("/classify?explain=true", json={"passages": [f"{text} {number}" for text in passages]})

    def keep_asking() -> None:
        while not done.is_set():
            classify(served, PASSAGES[:1])

    with ThreadPoolExecutor(33) as threads:
        others = threads.submit(keep_asking)
        responses = list(threads.map(explain, range(4 * EXPLAINERS)))
        done.set()
        others.result()
    busy = [response for response in responses if response.status_code == 429]
    assert busy and len(responses) - len(busy) >= EXPLAINERS
    assert {response.status_code for response in responses} == {200, 429}
    for response in busy:
        assert response.headers["retry-after"].isdigit()
        assert response.json().keys() == {"error"} and "leave explain out" in response.text


def test_as_many_as_is_said_are_taken_at_once(served: httpx.Client) -> None:
    def post(number: int) -> int:
        body = {"passages": [f"{PASSAGES[0]} {number}"]}
        return httpx.post(served.base_url.join("/classify"), json=body, timeout=60, trust_env=False).status_code

    with ThreadPoolExecutor(CONCURRENT) as threads:
        assert set(threads.map(post, range(CONCURRENT))) == {200}


def test_it_listens_on_the_loopback_interface_alone(served: httpx.Client, served_folder: Path) -> None:
    processes = process_tree(int((served_folder / "server.pid").read_text()))
    listening = [one.laddr for process in processes for one in process.net_connections() if one.status == "LISTEN"]
    assert served.base_url.port in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_one_bad_request_harms_no_other(served: httpx.Client) -> None:
    def post(number: int) -> int:
        return served.post("/classify", json={"passages": [PASSAGES[0], "" if number == 7 else "b"]}).status_code

    with ThreadPoolExecutor(24) as threads:
        assert [400 if number == 7 else 200 for number in range(24)] == list(threads.map(post, range(24)))


def test_the_log_holds_no_passage(served: httpx.Client, served_folder: Path) -> None:
    classify(served, ["xyzzy in the plain"])
    served.post("/classify", json={"passages": ["xyzzy in the plain", ""]})
    log = (served_folder / "server.log").read_text()
    assert '"route": "/classify"' in log and "xyzzy" not in log
    assert "Traceback" not in log and "exc_info" not in log and '"level": "ERROR"' not in log
