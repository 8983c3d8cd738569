"""The registered model: it answers alone, runs nothing that was not registered, and refuses a changed byte."""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import skops.io
from conftest import Champion

from training.model.reader import MANIFEST, TRUSTED, ChangedModel, model_files
from training.packaging import REQUIREMENTS

PASSAGES = [
    "Officers took four men off the early shift and drove them to the detention centre.",
    "The appeals panel stayed the deportation order, holding that notice had not been given.",
    "Sign up for our newsletter and never miss a story.",
    "",
    " ",
    "NUL \x00, a combining e\u0301, right-to-left \u202e and 🙂",
    "word " * 2000,
]


@pytest.fixture(scope="module")
def folder(champion: Champion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the champion's files."""
    mlflow.set_tracking_uri(champion.uri)
    target = tmp_path_factory.mktemp("model")
    return Path(mlflow.artifacts.download_artifacts("models:/immigration-news@champion", dst_path=str(target)))


def load(folder: Path, env: dict[str, str] | None = None, code: str = "") -> subprocess.CompletedProcess[str]:
    """Loads a model folder in a new process, in an empty working directory, and prints its answers as JSON."""
    script = (
        f"{code}\nimport sys, json, mlflow.pyfunc, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print(model.predict(pd.DataFrame({'text': json.loads(sys.argv[2])})).to_json(orient='records'))\n"
    )
    command = [sys.executable, "-c", script, str(folder), json.dumps(PASSAGES)]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    cwd = folder.parent / "empty"
    cwd.mkdir(exist_ok=True)
    return subprocess.run(command, cwd=cwd, env={**clean, **(env or {})}, capture_output=True, text=True)


def test_it_answers_with_nothing_but_its_own_requirements_and_no_network(folder: Path) -> None:
    wanted, closure = [re.split("[=<>]", line)[0] for line in (folder / "requirements.txt").read_text().split()], set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name not in closure:
            closure.add(name)
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # asked for on other platforms only
            wanted += [match[0] for need in needs if "extra ==" not in need and (match := re.match(r"[\w.-]+", need))]
    foreign = sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in closure for owner in owners)
    )
    assert {"bentoml", "datasets", "hypothesis"} <= set(foreign)
    assert "data" not in closure
    block = (
        "import sys, socket\n"
        f"foreign = {foreign!r} + ['data', 'serving']\n"
        "for name in foreign: sys.modules[name] = None\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
    )
    done = load(folder, code=block)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    assert [row["topic"] for row in rows[:3]] == ["enforcement", "courts", "off_topic"]
    assert list(rows[0]) == ["topic", "topic_confidence", "stance", "stance_confidence", "abstained"]


def test_the_requirements_are_pinned_to_what_it_was_trained_with(folder: Path) -> None:
    lines = (folder / "requirements.txt").read_text().split()
    assert lines == [f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS]


def test_rows_come_in_order_and_do_not_depend_on_their_neighbours(folder: Path) -> None:
    model = mlflow.pyfunc.load_model(str(folder))
    frame = pd.DataFrame({"text": PASSAGES}, index=range(10, 17))
    together = model.predict(frame)
    assert list(together.index) == list(frame.index)
    alone = pd.concat([model.predict(frame.iloc[[at]]) for at in range(len(frame))])
    pd.testing.assert_frame_equal(together, alone)
    pd.testing.assert_frame_equal(together, model.predict(frame.iloc[::-1]).iloc[::-1])
    assert model.predict(frame.iloc[:0]).dtypes.equals(together.dtypes)


def test_confidence_is_that_of_the_label_and_decides_on_abstention(folder: Path) -> None:
    model = mlflow.pyfunc.load_model(str(folder))
    reader = model.unwrap_python_model()
    readings, frame = reader.read(PASSAGES), model.predict(pd.DataFrame({"text": PASSAGES}))
    np.testing.assert_allclose(readings.topic_scores.sum(axis=1), 1)
    np.testing.assert_allclose(readings.stance_scores.sum(axis=1), 1)
    np.testing.assert_array_equal(frame.topic_confidence, readings.topic_scores.max(axis=1))
    np.testing.assert_array_equal(frame.abstained, frame.topic_confidence < reader.card["threshold"])
    assert (frame[frame.topic == "off_topic"].stance == "neutral").all()
    assert len(reader.read(["\ud800 is half a pair"]).topic) == 1


@pytest.mark.parametrize("value", [None, 7, float("nan")])
def test_what_is_not_text_is_refused_by_row(folder: Path, value: object) -> None:
    model = mlflow.pyfunc.load_model(str(folder)).unwrap_python_model()
    with pytest.raises(ValueError, match=r"row 1: text is .*must be a string"):
        model.predict(None, pd.DataFrame({"text": ["fine", value]}))


def test_the_card_says_what_was_measured_and_the_version_carries_the_contracts_tags(
    champion: Champion, folder: Path
) -> None:
    card = json.loads((folder / "artifacts" / "card.json").read_text())
    version = mlflow.MlflowClient(champion.uri).get_model_version_by_alias("immigration-news", "champion")
    assert set(card["quality"]) == {"cross_validation", "validation", "test", "news_dev"}
    assert version.tags["data_digest"] == card["data_digest"]
    assert version.tags["codebook"] == card["codebook"]["version"]
    assert version.tags["gate"] == "passed"
    assert version.tags["run_id"] == version.run_id
    value, low, high = card["quality"]["test"]["topic"]["macro_f1"]
    assert version.tags["test_topic_macro_f1"] == f"{value:.3f} [{low:.3f}, {high:.3f}]"
    assert f"| test | topic | {value:.3f}" in version.description
    manifest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert version.tags["manifest"] == manifest


def test_no_file_of_the_model_is_a_pickle(folder: Path) -> None:
    names = model_files(folder)
    assert "artifacts/pipeline.skops" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib", ".npy"))]
    with zipfile.ZipFile(folder / "artifacts" / "pipeline.skops") as archive:
        inner = archive.namelist()
    assert not [name for name in inner if name.endswith((".pkl", ".pickle"))]


@pytest.mark.parametrize(
    "name", ["artifacts/pipeline.skops", "artifacts/card.json", "artifacts/encoder/model.onnx", "MLmodel", MANIFEST]
)
def test_a_changed_byte_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    changed = bytearray((copy / name).read_bytes())
    at = changed.index(b"mlflow_version") + 20 if name == "MLmodel" else len(changed) // 2
    changed[at] ^= 1
    (copy / name).write_bytes(changed)
    done = load(copy)
    assert done.returncode != 0
    assert "is not as it was registered" in done.stderr
    assert name == MANIFEST or name in done.stderr


def test_a_file_that_was_not_registered_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "artifacts" / "extra.py").write_text("raise SystemExit('ran')")
    done = load(copy)
    assert done.returncode != 0
    assert "extra.py is not as it was registered" in done.stderr


class Planted:
    """A type of ours that no pipeline may name."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch planted",)


@pytest.mark.parametrize("payload", [Planted(), os.system, {"heads": Planted()}])
def test_a_pipeline_that_names_other_types_is_never_built(
    folder: Path, tmp_path: Path, payload: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.model.reader import Reader

    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "model")
    pipeline = copy / "artifacts" / "pipeline.skops"
    skops.io.dump(payload, pipeline)
    lines = [f"{hashlib.sha256((copy / name).read_bytes()).hexdigest()}  {name}\n" for name in model_files(copy)]
    (copy / MANIFEST).write_text("".join(lines))  # as if the attacker could also write the manifest

    class Context:
        artifacts = {"pipeline": str(pipeline), "card": str(copy / "artifacts" / "card.json")}  # noqa: RUF012

    with pytest.raises(ChangedModel, match="types that are not allowed"):
        Reader().load_context(Context())
    assert not (tmp_path / "planted").exists()


def test_only_types_of_the_travelling_code_are_trusted(folder: Path) -> None:
    assert all(name.startswith("training.model.") for name in TRUSTED)
    needed = skops.io.get_untrusted_types(file=folder / "artifacts" / "pipeline.skops")
    assert set(needed) <= set(TRUSTED)
