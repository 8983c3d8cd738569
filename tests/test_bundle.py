"""From the registry to BentoML: what is refused, what travels, and a bento that serves on its own."""

import hashlib
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from serving_processes import NO_NETWORK, Registry, copy_registry, environment, free_port, run, server
from starlette.datastructures import Headers

from serving import bundle, manifest, registry, serve
from serving.guard import check_token
from serving.refusal import Refused

TOKEN = "correct horse"


@pytest.fixture
def copied(champion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of the test's own, to which the environment points."""
    own = copy_registry(champion.uri, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.uri)
    return own


def test_without_a_champion_it_says_what_to_run(tmp_path: Path) -> None:
    done = run(["-m", "serving.serve"], tmp_path, PORT=str(free_port()))
    assert done.returncode == 2
    assert "make train" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_an_alias_it_says_what_to_run(copied: Registry) -> None:
    with closing(sqlite3.connect(copied.uri.removeprefix("sqlite:///"))) as database:
        database.execute("DELETE FROM registered_model_aliases")
        database.commit()
    with pytest.raises(registry.NoChampion, match="make train"):
        registry.champion()


def test_a_version_that_cannot_be_checked_is_not_served(copied: Registry) -> None:
    with closing(sqlite3.connect(copied.uri.removeprefix("sqlite:///"))) as database:
        database.execute("DELETE FROM model_version_tags WHERE key = 'manifest'")
        database.commit()
    with pytest.raises(registry.NoChampion, match="no tag `manifest`"):
        registry.champion()


@pytest.mark.parametrize("pattern", ["artifacts/pipeline*", "MLmodel", "code/**/reader.py", "MANIFEST.sha256"])
def test_a_changed_byte_is_refused(copied: Registry, tmp_path: Path, pattern: str) -> None:
    file = next(copied.model.glob(pattern))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(manifest.ChangedModel) as refusal:
        bundle.checked_copy(registry.champion(), tmp_path)
    message = str(refusal.value)
    assert file.name in message and hashlib.sha256(content).hexdigest() in message
    assert "expected" in message and "make train" in message and "make rollback" in message


def test_a_changed_model_does_not_run_and_ends_the_command(copied: Registry, tmp_path: Path) -> None:
    reader = next(copied.model.glob("code/**/reader.py"))
    reader.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + reader.read_text())
    home = tmp_path / "bentoml"
    done = run(["-m", "serving.bundle", "build"], tmp_path, MLFLOW_TRACKING_URI=copied.uri, BENTOML_HOME=str(home))
    assert done.returncode == 2
    assert "reader.py has changed" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists() and not list(home.glob("models/*/*"))


def test_only_listed_files_travel(copied: Registry, tmp_path: Path) -> None:
    (copied.model / "code" / "sitecustomize.py").write_text("raise SystemExit(3)\n")
    champion = registry.champion()
    clean = bundle.checked_copy(champion, tmp_path)
    manifest.check_exactly(clean, champion.manifest)
    assert not list(clean.rglob("sitecustomize.py"))


def folder_with(folder: Path, **names: str) -> str:
    """A folder of files with a manifest that lists other names for them; gives the manifest's digest."""
    lines = []
    for number, (content, name) in enumerate(names.items()):
        (folder / f"file{number}").write_text(content)
        lines.append(f"{hashlib.sha256(content.encode()).hexdigest()}  {name}\n")
    (folder / manifest.MANIFEST).write_text("".join(lines))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", ["../file0", "a/../../file0", "/etc/passwd", ""])
def test_a_manifest_cannot_name_a_file_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(manifest.ChangedModel, match="outside"):
        manifest.check(tmp_path, folder_with(tmp_path, a=name))


def test_a_link_a_missing_file_and_an_unlisted_file_are_refused(tmp_path: Path) -> None:
    digest = folder_with(tmp_path, a="file0", b="file1")
    manifest.check_exactly(tmp_path, digest)
    (tmp_path / "__pycache__").mkdir()
    manifest.check_exactly(tmp_path, digest)
    (tmp_path / "__pycache__" / "file0.pyc").touch()
    with pytest.raises(manifest.ChangedModel, match=r"file0\.pyc was not registered"):
        manifest.check_exactly(tmp_path, digest)
    (tmp_path / "file1").rename(tmp_path / "moved")
    with pytest.raises(manifest.ChangedModel, match="file1 is missing"):
        manifest.check(tmp_path, digest)
    (tmp_path / "file1").symlink_to(tmp_path / "moved")
    with pytest.raises(manifest.ChangedModel, match="file1 is a link"):
        manifest.check(tmp_path, digest)


STORE = """
import pathlib, serving.bundle as bundle
first = bundle.import_champion()
again = bundle.import_champion()
assert (first.tag, first.creation_time) == (again.tag, again.creation_time), "imported twice"
pathlib.Path(first.path_of("mlflow_model/planted.py")).touch()
from serving.service import ImmigrationNews
try:
    ImmigrationNews()
except Exception as error:
    print("REFUSED", type(error).__name__, error)
anew = bundle.import_champion()
assert anew.creation_time != first.creation_time, "not imported anew"
ImmigrationNews()
assert bundle.import_champion().creation_time == anew.creation_time, "loading changed the files"
print("METADATA", anew.info.metadata)
"""


def test_the_store_is_reused_if_whole_and_filled_anew_if_not(copied: Registry, tmp_path: Path) -> None:
    done = run(["-c", STORE], tmp_path, MLFLOW_TRACKING_URI=copied.uri, BENTOML_HOME=str(tmp_path / "bentoml"))
    assert done.returncode == 0, done.stderr
    assert "REFUSED ChangedModel" in done.stdout and "planted.py was not registered" in done.stdout
    assert str(dict(registry.champion()._asdict())) in done.stdout


@pytest.fixture(scope="module")
def bento(champion: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make bento`, without a network; gives BENTOML_HOME."""
    home = tmp_path_factory.mktemp("bento")
    variables = {"MLFLOW_TRACKING_URI": champion.uri, "BENTOML_HOME": str(home), **NO_NETWORK}
    done = run(["-m", "serving.bundle", "build"], tmp_path_factory.mktemp("elsewhere"), **variables)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def client(bento: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`bentoml serve` of the bento, from an empty folder, with a token; neither checkout, registry nor network."""
    port = free_port()
    variables = environment(
        BENTOML_HOME=str(bento),
        IMMNEWS_FEEDBACK_URL=f"sqlite:///{bento}/feedback.db",
        IMMNEWS_API_TOKEN=TOKEN,
        **NO_NETWORK,
    )
    command = ["-m", "bentoml", "serve", "immigration-news:latest", "--host", "127.0.0.1", "--port", str(port)]
    with server(command, port, tmp_path_factory.mktemp("empty"), variables) as client:
        yield client


def test_a_bento_serves_on_its_own(client: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = client.post("/classify", json={"passages": ["Her asylum claim has waited a year."]}, headers=headers)
    assert response.status_code == 200
    assert response.json()["readings"][0]["topic"]["scores"]
    assert client.get("/docs.json", headers=headers).json()["info"]["version"] not in ("", "checkout")


def test_a_bento_pins_its_packages_and_its_model(bento: Path) -> None:
    folder = next(path for path in bento.glob("bentos/immigration-news/*") if path.is_dir())
    model = next(path for path in bento.glob("models/immigration-news/*") if path.is_dir())
    pins = (folder / "env" / "python" / "requirements.txt").read_text().split()
    assert set((model / "mlflow_model" / "requirements.txt").read_text().split()) < set(pins)
    assert any(pin.startswith("bentoml==") for pin in pins) and not any(pin.startswith("-") for pin in pins)
    described = yaml.safe_load((folder / "bento.yaml").read_text())
    assert described["args"] == {"model": f"immigration-news:{model.name}"}
    assert {path.name for path in (folder / "src").iterdir()} == {"serving", "bentofile.yaml"}
    assert "/classify" in yaml.safe_load((folder / "apis" / "openapi.yaml").read_text())["paths"]


@pytest.mark.parametrize("path", ["/classify", "/codebook", "/model", "/metrics", "/docs.json", "/nowhere"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer é"])
def test_without_the_token_every_route_is_closed(client: httpx.Client, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    response = client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.json().keys() == {"error"} and response.headers["www-authenticate"] == "Bearer"


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, ...]] = []
    monkeypatch.setattr("serving.guard.hmac.compare_digest", lambda *given: compared.append(given))
    with pytest.raises(Refused):
        check_token(TOKEN, "/classify", Headers({"Authorization": "Bearer wrong"}))
    assert compared == [(b"wrong", TOKEN.encode())]


def test_a_browser_gives_the_token_as_a_password(client: httpx.Client) -> None:
    asked = client.get("/")
    assert asked.status_code == 401 and asked.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/", auth=("anyone", TOKEN)).status_code == 200
    assert client.get("/codebook", auth=("anyone", TOKEN)).status_code == 200
    assert client.get("/", auth=("anyone", "wrong")).status_code == 401


def test_health_needs_no_token(client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]


def test_an_image_needs_docker(tmp_path: Path) -> None:
    done = run(["-m", "serving.bundle", "image"], tmp_path, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "Docker is not installed" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "3000.0", "²"])
def test_a_port_is_a_number(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        serve.main([f"--port={port}"])
    assert exit_.value.code == 2
    assert "from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["IMMNEWS_TIMEOUT_SECONDS", "IMMNEWS_DRAIN_SECONDS", "IMMNEWS_THREADS"])
@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "3601"])
def test_a_setting_is_a_number(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert serve.main([f"--port={free_port()}"]) == 2
    assert f"{name}='{value}' is not a" in capsys.readouterr().err


def test_an_address_that_cannot_be_had_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main([f"--port={port}"]) == 2
        assert f"127.0.0.1:{port}" in capsys.readouterr().err
    monkeypatch.setenv("IMMNEWS_HOST", "no.such.host.invalid")
    assert serve.main([f"--port={port}"]) == 2
    assert "no.such.host.invalid" in capsys.readouterr().err
    assert serve.listening_address("localhost", port) in ("127.0.0.1", "::1")
