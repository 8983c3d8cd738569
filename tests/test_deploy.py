"""The files of `deploy/`: valid by their own schemas, without a secret or a floating version, true of the product."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from postgresql_server import BINARIES, postgresql_server
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.engine import make_url
from starlette.responses import Response
from starlette.testclient import TestClient

from serving import bundle, database, openapi, serve, settings
from serving.guard import Guard

DEPLOY = ROOT / "deploy"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECRETS = {"POSTGRES_PASSWORD": "a1", "FEEDBACK_PASSWORD": "b2", "IMMNEWS_API_TOKEN": "c3"}
# As BentoML lays an image out: the user's number and the folder that BENTOML_HOME names.
USER, HOME = 1034, "/home/bentoml"
WRITTEN = {"/tmp", f"{HOME}/prometheus_multiproc_dir"}
# What a stopping service takes at most; its supervisor may need ten seconds more to notice.
STOPPING = settings.TIMES["IMMNEWS_DRAIN_SECONDS"] + serve.GRACE_SECONDS


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def interpolated(content: str) -> str:
    """As `docker compose` reads it, with all secrets set and nothing else."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return SECRETS.get(found["name"]) or (found["default"] or "").removeprefix(":-")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?P<default>:[-?][^}]*)?\}", value, content)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolated(text("compose.yaml")))
    return loaded


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, Any]:
    """Kind → object."""
    return {one["kind"]: one for one in yaml.safe_load_all(text("kubernetes.yaml"))}


@pytest.fixture(scope="module")
def pod(kubernetes: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = kubernetes["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [one] = pod["containers"]
    assert isinstance(one, dict)
    return one


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60)


def by_the_compose_specification(path: Path) -> subprocess.CompletedProcess[str]:
    return checked("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path))


def by_kubernetes(path: Path) -> subprocess.CompletedProcess[str]:
    return checked("kubernetes_validate", "--strict", str(path))


@pytest.mark.parametrize(
    ("name", "check", "good", "bad"),
    [
        ("compose.yaml", by_the_compose_specification, "stop_grace_period", "grace_period"),
        ("kubernetes.yaml", by_kubernetes, "readinessProbe", "readynessProbe"),
        ("kubernetes.yaml", by_kubernetes, "containerPort: 3000", "containerPort: http"),
    ],
)
def test_the_files_are_valid_and_a_slip_would_be_seen(
    name: str, check: Any, good: str, bad: str, tmp_path: Path
) -> None:
    done = check(DEPLOY / name)
    assert done.returncode == 0, done.stdout + done.stderr
    slip = tmp_path / name
    slip.write_text(text(name).replace(good, bad))
    assert check(slip).returncode != 0


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Authorization(Strict):
    type: str
    credentials_file: str


class StaticConfig(Strict):
    targets: list[str]


class ScrapeConfig(Strict):
    job_name: str
    metrics_path: str
    authorization: Authorization
    static_configs: list[StaticConfig]


class Global(Strict):
    scrape_interval: str
    scrape_timeout: str


class Prometheus(Strict):
    """What of Prometheus' configuration is used here; there is no schema of all of it to be had."""

    global_: Global = Field(alias="global")
    scrape_configs: list[ScrapeConfig]


def test_prometheus_scrapes_the_service_with_its_token(compose: dict[str, Any]) -> None:
    [job] = Prometheus.model_validate(yaml.safe_load(text("prometheus.yml"))).scrape_configs
    assert job.metrics_path in {route.path for route in openapi.ROUTES} - openapi.OPEN
    assert job.static_configs[0].targets == [f"service:{serve.DEFAULT_PORT}"]
    [secret] = compose["services"]["prometheus"]["secrets"]
    assert job.authorization.credentials_file == f"/run/secrets/{secret['target']}"
    assert compose["secrets"][secret["source"]] == {"environment": "IMMNEWS_API_TOKEN"}
    assert "./prometheus.yml:/etc/prometheus/prometheus.yml:ro" in compose["services"]["prometheus"]["volumes"]


def test_promtool_agrees_where_there_is_one() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    command = [promtool, "check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml")]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_no_secret_stands_in_the_files_and_none_has_a_default() -> None:
    content = text("compose.yaml")
    for name in SECRETS:
        assert f"${{{name}:?is not set}}" in content
        assert not re.search(rf"\$\{{{name}:?-", content)
    for address in re.findall(r"://[^\s/]*:([^@\s]*)@", content):
        assert address.startswith("${")
    assert "kind: Secret" not in text("kubernetes.yaml")


def test_images_are_pinned_and_name_no_host(compose: dict[str, Any], container: dict[str, Any]) -> None:
    named = [one["image"] for one in compose["services"].values()]
    base = re.findall(r"^FROM (.+)$", compose["services"]["mlflow"]["build"]["dockerfile_inline"], re.M)
    for image in [*named, *base, container["image"]]:
        name, _, tag = image.partition(":")
        assert re.search(r"\d+\.\d+", tag), image
        assert "." not in name.split("/")[0] or "/" not in name, image
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (
        container["image"] == compose["services"]["service"]["image"] == f"{bundle.registry.NAME}:{project['version']}"
    )
    assert f"mlflow=={named[1].partition(':')[2]}" in project["dependencies"]


def test_the_server_is_installed_from_the_lock(compose: dict[str, Any], tmp_path: Path) -> None:
    """Its line for sed leaves one exact pin a package."""
    dockerfile = compose["services"]["mlflow"]["build"]["dockerfile_inline"]
    [script] = re.findall(r"sed -E ('.+') requirements.lock > pins.txt", dockerfile)
    done = subprocess.run(f"sed -E {script} {ROOT}/requirements.lock", shell=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    pins = [line for line in lines if re.fullmatch(r"[\w.\[\]-]+==[^ ]+( ;.+)?", line)]
    assert pins and len(pins) == len(lines), set(lines) - set(pins)
    assert {"mlflow", "psycopg", "psycopg-binary"} <= {pin.partition("==")[0] for pin in pins}


def test_both_ask_the_routes_and_ports_that_the_service_has(
    compose: dict[str, Any], kubernetes: dict[str, Any], container: dict[str, Any]
) -> None:
    [port] = container["ports"]
    assert str(port["containerPort"]) == serve.DEFAULT_PORT
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/livez", "liveness": "/livez", "readiness": "/readyz",
    }  # fmt: skip
    assert {probe["port"] for probe in asked.values()} == {port["name"]}
    assert {probe["path"] for probe in asked.values()} == openapi.OPEN
    assert kubernetes["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    service = compose["services"]["service"]
    assert f"127.0.0.1:{serve.DEFAULT_PORT}/readyz" in service["healthcheck"]["test"][-1]
    assert service["ports"] == [f"127.0.0.1:{serve.DEFAULT_PORT}:{serve.DEFAULT_PORT}"]
    for one in compose["services"].values():
        assert "healthcheck" in one
        assert all(str(published).startswith("127.0.0.1:") for published in one.get("ports", []))


@pytest.mark.parametrize(("path", "status"), [("/livez", 204), ("/readyz", 204), ("/model", 421)])
def test_a_probe_may_name_any_host_whatever_is_allowed(path: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet names the pod's address."""
    monkeypatch.setenv("IMMNEWS_ALLOWED_HOSTS", "news.example")
    client = TestClient(Guard(Response(status_code=204)), base_url="http://10.0.0.7:3000")
    assert client.get(path).status_code == status


def test_a_stopping_service_has_the_time_that_it_takes(compose: dict[str, Any], pod: dict[str, Any]) -> None:
    service = compose["services"]["service"]
    given = int(service["stop_grace_period"].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] == given > STOPPING + 10
    # The image knows nothing of `serving.serve`, which says so otherwise; BentoML's own default is a day.
    for arguments in (service["command"], pod["containers"][0]["args"]):
        assert arguments == ["serve", "--timeout-graceful-shutdown", str(serve.GRACE_SECONDS)]


def test_the_settings_are_those_that_the_readme_lists(compose: dict[str, Any], container: dict[str, Any]) -> None:
    listed = set(re.findall(r"`([A-Z_]+)`", "".join(re.findall(r"^\| `[A-Z].+", README, re.M))))
    assert "IMMNEWS_API_TOKEN" in listed
    own = {*compose["services"]["service"]["environment"], *(one["name"] for one in container["env"])}
    named = set(re.findall(r"\bIMMNEWS_[A-Z_]+", "".join(text(path.name) for path in DEPLOY.iterdir())))
    assert {name for name in own | named if name.startswith("IMMNEWS_")} - {"IMMNEWS_IMAGE"} <= listed
    secret = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
    assert set(secret) == {"IMMNEWS_API_TOKEN", database.VARIABLE}
    for reference in secret.values():
        assert f"generic {reference['name']} " in text("README.md") and f"={reference['key']}=" in text("README.md")


def test_corrections_go_where_the_image_has_a_driver(compose: dict[str, Any]) -> None:
    url = make_url(compose["services"]["service"]["environment"][database.VARIABLE])
    assert (url.get_backend_name(), url.host, url.password) == ("postgresql", "postgres", SECRETS["FEEDBACK_PASSWORD"])
    assert {"psycopg", "psycopg-binary"} <= {pin.partition("==")[0] for pin in bundle.SERVICE_PACKAGES}


def test_the_service_runs_as_no_one_and_writes_where_it_may(
    compose: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    from bentoml._internal.container import generate

    assert (generate.BENTO_UID_GID, generate.BENTO_HOME.rstrip("/")) == (USER, HOME)
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == USER
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume} == set(mounts)
    assert set(mounts.values()) == WRITTEN
    service = compose["services"]["service"]
    assert service["read_only"] and {mount.partition(":")[0] for mount in service["tmpfs"]} == WRITTEN
    assert service["cap_drop"] == ["ALL"]


def test_an_update_never_leaves_fewer_pods_and_all_objects_mean_the_same_ones(
    kubernetes: dict[str, Any], container: dict[str, Any]
) -> None:
    deployment, budget = kubernetes["Deployment"]["spec"], kubernetes["PodDisruptionBudget"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert 1 <= budget["minAvailable"] < deployment["replicas"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = (deployment["selector"]["matchLabels"], budget["selector"]["matchLabels"])
    assert all(labels == selector for selector in (*selectors, kubernetes["Service"]["spec"]["selector"]))
    assert set(container["resources"]) == {"requests", "limits"}
    assert all(set(amounts) == {"cpu", "memory"} for amounts in container["resources"].values())


def test_volumes_outlive_their_containers(compose: dict[str, Any]) -> None:
    mounted = [volume.split(":")[0] for one in compose["services"].values() for volume in one.get("volumes", [])]
    assert set(compose["volumes"]) == {name for name in mounted if not name.startswith(".")}


def test_the_corrections_get_a_database_and_a_role_of_their_own(compose: dict[str, Any], tmp_path: Path) -> None:
    if not BINARIES or (psql := shutil.which("psql")) is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    script = compose["configs"]["feedback-database"]["content"]
    with postgresql_server() as address:
        server = make_url(address)
        env = {
            "PATH": os.environ["PATH"], "PGHOST": str(server.host), "PGPORT": str(server.port),
            "POSTGRES_USER": str(server.username), "POSTGRES_DB": str(server.database), "FEEDBACK_PASSWORD": "it's",
        }  # fmt: skip
        done = subprocess.run(["sh", "-e", "-c", script], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        asked = [psql, "-At", "-c", "CREATE TABLE corrections (); SELECT current_user", "-U", "feedback", "feedback"]
        answered = subprocess.run(asked, env=env, capture_output=True, text=True, timeout=60)
        assert answered.stdout.split()[-1] == "feedback", answered.stderr


def test_the_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= 60
