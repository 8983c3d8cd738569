"""What the tests share: real stores with real champions, trained once a session by the commands that users run."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from serving_processes import serving_champion

from training.run import main as train

ROOT = Path(__file__).resolve().parent.parent

for name, value in {
    "HF_HUB_OFFLINE": "1", "BENTOML_DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "IMMNEWS_THREADS": "2",
}.items():  # fmt: skip
    os.environ[name] = value
for name in ("API_TOKEN", "NEWS_DIR", "NEWS_URL", "FEEDBACK_URL", "ALLOWED_HOSTS"):
    os.environ.pop(f"IMMNEWS_{name}", None)
# Its own folder: what a developer has hydrated changes what the corpora hold.
_cache = tempfile.TemporaryDirectory(prefix="immigration-news-tests-")
os.environ["IMMNEWS_CACHE"] = _cache.name


@dataclass(frozen=True)
class Store:
    """An MLflow store in a folder of its own, and the commands run against it."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a command that works on this store; the embedding cache is shared by all stores."""
        own = {
            "MLFLOW_TRACKING_URI": self.uri,
            "IMMNEWS_CACHE": str(self.folder.parent / "cache"),
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "IMMNEWS_FEEDBACK_URL": f"sqlite:///{self.folder}/feedback.db",
        }
        return {**os.environ, **own}

    def run(self, module: str, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """`python -m module arguments` in the checkout."""
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout)

    def make(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """`make arguments` in the checkout."""
        env = {key: value for key, value in self.env.items() if not key.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)

    def call(self, main: Callable[[Sequence[str]], int], *arguments: str) -> tuple[int, str]:
        """The same in this process, which saves the imports: exit code, and what was said on both streams."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            for name, value in self.env.items():
                patch.setenv(name, value)
            patch.chdir(ROOT)
            return main(arguments), said.getvalue()


@dataclass(frozen=True)
class Champion(Store):
    """A store whose champion is `version`; `printed` is what the training said."""

    version: str
    printed: str


@pytest.fixture(scope="module", autouse=True)
def own_code() -> Iterator[None]:
    """Opening a registered model puts its copy of our code first on the path: not for the next module's processes."""
    path = sys.path[:]
    yield
    sys.path[:] = path


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all stores of the session."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def champion(stores: Path) -> Champion:
    """The default experiment, trained from nothing by the command that a user gives."""
    folder = stores / "default"
    folder.mkdir()
    done = Store(folder).make("train")
    assert done.returncode == 0, done.stderr
    return Champion(folder, "1", done.stdout)


QUICK = """
corpora = ["bundled"]
seed = 3
folds = 3
resamples = 200
[candidates.majority]
[candidates.unigrams]
"""


@pytest.fixture(scope="session")
def history(stores: Path) -> Champion:
    """A store with three versions by quick experiments: 1 and 2 alike, 3 worse and refused; 2 is champion."""
    folder = stores / "history"
    folder.mkdir()
    good, worse = folder / "good.toml", folder / "worse.toml"
    good.write_text(QUICK)
    worse.write_text(QUICK + "params.heads__topic__C = 1e-4\nparams.heads__stance__C = 1e-4\n")
    printed = []
    for experiment in (good, good, worse):
        code, said = Store(folder).call(train, str(experiment))
        assert code == 0, said
        printed.append(said)
    return Champion(folder, "2", "\n".join(printed))


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server of `served` keeps its log and its corrections (`feedback.db`)."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def served(champion: Champion, served_folder: Path) -> Iterator[httpx.Client]:
    """`make serve` with the champion."""
    with serving_champion(champion.uri, served_folder) as client:
        yield client
