"""`make train` end to end: what is printed, what MLflow then holds, and that a second run gives the same."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, ROOT, Champion, Store
from mlflow.entities import Run

from data.codebook import load_codebook
from data.corpora import load_corpora
from data.splits import digest
from training.run import main as train

CANDIDATES = ["majority", "unigrams", "sentences", "words_and_sentences"]
CORPORA = ["bundled", "news", "world", "arguments"]


@pytest.fixture(scope="module")
def runs(champion: Champion) -> dict[str, Run]:
    """Candidate → its run; under "parent" the run of the experiment."""
    mlflow.set_tracking_uri(champion.uri)
    found = mlflow.search_runs(experiment_names=["immigration-news"], output_format="list")
    return {run.data.params.get("candidate", "parent"): run for run in found}


def artifacts(champion: Champion, run: Run) -> Path:
    mlflow.set_tracking_uri(champion.uri)
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))


def test_leaderboard_ranks_every_candidate_with_its_intervals_and_cost(champion: Champion) -> None:
    lines = champion.printed.splitlines()
    header = next(at for at, line in enumerate(lines) if line.startswith("candidate"))
    rows = {line.split()[0]: line for line in lines[header + 1 : header + 5]}
    assert sorted(rows) == sorted(CANDIDATES)
    assert lines[header + 4].startswith("majority"), "the floor comes last"
    assert all(line.count("[") == 2 for line in rows.values())
    held_out = next(at for at, line in enumerate(lines) if line.startswith("held-out real news"))
    assert all(line.count("[") == 4 for line in lines[held_out + 1 : held_out + 5])
    assert "promoted to champion" in champion.printed
    assert "test split: topic macro-F1" in champion.printed


def test_compare_prints_the_same_leaderboard(champion: Champion) -> None:
    done = champion.make("compare")
    assert done.returncode == 0, done.stderr
    board = done.stdout.split("champion: version 1")[0].strip()
    assert board in champion.printed


def test_one_parent_run_with_one_child_a_candidate(runs: dict[str, Run]) -> None:
    assert sorted(runs) == sorted([*CANDIDATES, "parent"])
    parent, children = runs["parent"].info.run_id, [runs[name] for name in CANDIDATES]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}
    assert [run.info.run_name for run in children] == CANDIDATES


def test_each_run_says_what_data_code_and_libraries_it_had(runs: dict[str, Run]) -> None:
    dataset = load_corpora(CORPORA)
    inputs = {one.tags[0].value: one.dataset.digest for one in runs["parent"].inputs.dataset_inputs}
    assert inputs == {split: digest(rows)[:36] for split, rows in dataset.items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    for run in runs.values():
        assert run.data.tags["git.commit"] == (commit or "unknown")
        assert run.data.tags["git.dirty"] in ("true", "false")
        assert run.data.tags["version.scikit-learn"] == "1.9.1"


@pytest.mark.parametrize("evaluation", ["cross_validation", "validation"])
def test_metrics_cover_each_label_averages_calibration_and_folds(runs: dict[str, Run], evaluation: str) -> None:
    book = load_codebook()
    metrics = runs["words_and_sentences"].data.metrics
    for head, labels in (("topic", book.topic_names), ("stance", book.stance_names)):
        for figure in ("macro_f1", "macro_f1_low", "accuracy", "weighted_f1", "macro_precision", "calibration_error"):
            assert 0 <= metrics[f"{evaluation}/{head}/{figure}"] <= 1
        assert metrics[f"{evaluation}/{head}/macro_f1_low"] < metrics[f"{evaluation}/{head}/macro_f1"]
        for label in labels:
            assert {f"{evaluation}/{head}/{figure}/{label}" for figure in ("precision", "recall", "f1")} <= set(metrics)
        history = mlflow.MlflowClient().get_metric_history(
            runs["unigrams"].info.run_id, f"cross_validation/{head}/fold_macro_f1"
        )
        assert [point.step for point in history] == [0, 1, 2, 3]


def test_only_the_winner_was_read_on_the_test_split(runs: dict[str, Run]) -> None:
    with_test = [name for name, run in runs.items() if any(key.startswith("test/") for key in run.data.metrics)]
    assert with_test == [runs["parent"].data.tags["winner"]]


def test_learning_beats_the_floor_and_sentences_beat_words_alone(runs: dict[str, Run]) -> None:
    heads = ("topic", "stance")
    mean = {
        name: np.mean([runs[name].data.metrics[f"validation/{head}/macro_f1"] for head in heads]) for name in CANDIDATES
    }
    assert runs["parent"].data.tags["winner"] == max(mean, key=lambda name: mean[name])
    assert mean["majority"] < 0.2 < 0.5 < mean["unigrams"] < mean["words_and_sentences"]
    on_news = {name: runs[name].data.metrics["news_dev/topic/macro_f1"] for name in CANDIDATES}
    assert on_news["majority"] < 0.1 < 0.5 < on_news["words_and_sentences"]


def test_figures_and_tables_lie_with_the_run(champion: Champion, runs: dict[str, Run]) -> None:
    folder = artifacts(champion, runs["unigrams"])
    drawn = ("confusion.png", "reliability.png", "coverage.png", "precision_recall.png")
    for name in (*drawn, *(f"news_dev/{file}" for file in drawn), "stance_by_leaning.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    misread = pd.read_json(folder / "misread.json", orient="split")
    assert ((misread.topic != misread.topic_predicted) | (misread.stance != misread.stance_predicted)).all()
    accuracy = runs["unigrams"].data.metrics["validation/topic/accuracy"]
    wrong = (misread.topic != misread.topic_predicted).sum()
    assert wrong == round((1 - accuracy) * load_corpora(CORPORA)["validation"].num_rows)
    slices = pd.read_json(folder / "news_slices.json", orient="split")
    assert {"leaning", "country", "decade", "length"} <= set(slices["slice"])
    assert (slices.passages >= 20).all()


BESIDE = pytest.mark.xfail(reason="beside sentences that know the topic, `refugees` weighs little", strict=True)


@pytest.mark.parametrize("candidate", ["unigrams", pytest.param("words_and_sentences", marks=BESIDE)])
def test_strongest_words_are_words_that_a_reader_would_expect(
    champion: Champion, runs: dict[str, Run], candidate: str
) -> None:
    table = pd.read_json(artifacts(champion, runs[candidate]) / "strongest_words.json", orient="split")
    of_label = table.groupby("label").word.apply(set)
    for label, words in {"asylum": {"asylum", "refugees"}, "courts": {"court"}, "border": {"border"}}.items():
        assert words <= of_label[label], label
    assert len(table) == 14 * 15


def test_same_seed_same_figures_and_an_unchanged_champion_passes_the_gate(history: Champion) -> None:
    assert "mean macro-F1 differs by 0.000 [0.000, 0.000] from champion version 1" in history.printed
    mlflow.set_tracking_uri(history.uri)
    runs = mlflow.search_runs(experiment_names=["immigration-news"], output_format="list")
    _, first, second = [run.data.metrics for run in runs if run.data.params.get("candidate") == "unigrams"]
    measured = [key for key in first if not key.startswith("cost/")]
    assert len(measured) > 100
    assert {key: first[key] for key in measured} == {key: second[key] for key in measured}


@pytest.mark.slow
def test_an_own_corpus_joins_by_its_path(stores: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    rows = ["id,doc_id,text,topic,stance"]
    wire = "The panel in the old customs house at Lisse heard the claims of two brothers from the camp on case list"
    rows += [f"own-{n},own-doc-{n},{wire} {n},asylum,neutral" for n in range(9)]
    own.write_text("\n".join(rows))
    experiment = tmp_path / "own.toml"
    experiment.write_text(QUICK.replace('["bundled"]', f'["bundled", "{own}"]'))
    folder = stores / "own"
    folder.mkdir()
    code, said = Store(folder).call(train, str(experiment))
    assert code == 2, "nine near-copies across splits must be refused"
    assert "near-duplicates across splits" in said

    passages = [
        "The panel heard the claim of a baker from Lisse.",
        "Two brothers waited for a hearing before the refugee board.",
        "A lawyer asked the tribunal for time to find the birth papers.",
        "Her protection was granted after nine years.",
    ]
    rows[1:] = [f"own-{n},own-doc-{n},{text},asylum,neutral" for n, text in enumerate(passages)]
    own.write_text("\n".join(rows))
    code, said = Store(folder).call(train, str(experiment))
    assert code == 0, said
    mlflow.set_tracking_uri(Store(folder).uri)
    query = "tags.role = 'experiment'"
    [parent] = mlflow.search_runs(experiment_names=["immigration-news"], filter_string=query, output_format="list")
    split = mlflow.artifacts.load_dict(f"runs:/{parent.info.run_id}/split.json")
    assert sum(part["passages"] for part in split.values()) == sum(load_corpora(["bundled"]).num_rows.values()) + 4


@pytest.mark.slow
def test_a_candidate_that_needs_texts_reads_what_has_them_and_cannot_win(stores: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "texts.toml"
    content = QUICK.replace('["bundled"]', '["bundled", "news"]').replace("folds = 3", "folds = 2")
    experiment.write_text(content + "[candidates.words]\n")
    folder = stores / "texts"
    folder.mkdir()
    code, said = Store(folder).call(train, str(experiment))
    assert code == 0, said
    first_table = said.split("held-out real news")[0]
    trained_on = {line.split()[0]: line for line in first_table.splitlines() if line.split()}
    bundled, news = (load_corpora([name])["train"].num_rows for name in ("bundled", "news"))
    assert f" {bundled:,} " in trained_on["words"]
    assert f" {bundled + news:,} " in trained_on["unigrams"]
    assert "winner unigrams" in said
    assert re.search("^words +needs texts", said, re.M)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, ["nowhere.toml", "default.toml"]),
        (QUICK.replace("folds", "fold"), ["'fold'", "folds"]),
        (QUICK.replace('"bundled"', '"bundle"'), ["'bundle'", "bundled"]),
        (QUICK.replace('"bundled"', '"world"'), ["['world']", "validation and test", "'bundled'"]),
        (QUICK.replace('"bundled"', '"missing.csv"'), ["missing.csv", "no such file"]),
    ],
)
def test_a_bad_experiment_is_refused_before_anything_is_stored(
    tmp_path: Path, content: str | None, named: list[str]
) -> None:
    experiment = ROOT / "experiments" / "nowhere.toml" if content is None else tmp_path / "bad.toml"
    if content is not None:
        experiment.write_text(content)
    code, said = Store(tmp_path).call(train, str(experiment))
    assert code == 2
    assert all(name in said for name in named), said
    assert not (tmp_path / "mlflow.db").exists()


def test_an_interrupt_ends_it_with_nothing_promoted(stores: Path, champion: Champion) -> None:
    folder = stores / "interrupted"
    folder.mkdir()
    store = Store(folder)
    command = [sys.executable, "-m", "training.run", "experiments/bundled.toml"]
    # A suite that runs in the background of a shell hands down an ignored SIGINT: the command gets the usual one.
    process = subprocess.Popen(
        command, cwd=ROOT, env=store.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    while "[2/4] words" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert store.run("training.leaderboard").returncode == 2, "an unfinished experiment is not shown as one"
