"""Experiments as files: what is right is read, and every misspelling is refused with file, key, value and choices."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import QUICK, ROOT
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from training.candidates import CANDIDATES
from training.experiment import Candidate, Gate, InvalidExperiment, read_experiment

FLOORS = "[candidates.majority]\n[candidates.unigrams]\n"
WHOLE = """
name = "tuned"
corpora = ["bundled", "own.csv"]
seed = 7
folds = 3
resamples = 500
precision = 0.8
weights = {bundled = 0.5, "own.csv" = 2}
gate = {margin = 0.02, topic_floor = 0.3, stance_floor = 0.5}

[candidates.majority]

[candidates.small]
pipeline = "unigrams"
params = {weigh__words__tfidf__norm = "l1", heads__topic__C = 2}
grid = {heads__stance__C = [0.1, 1.0], weigh__words__tfidf__sublinear_tf = [true, false]}

[candidates.both]
pipeline = "words_and_sentences"
encoder = "news-MiniLM"
params = {weigh__transformer_weights = {words = 0.5, sentences = 2.0}}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the training job has it."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def refusal(path: Path, content: str | bytes) -> str:
    """What is said against an experiment; it names the file first."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidExperiment) as refused:
        read_experiment(path)
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_the_default_experiment_reads() -> None:
    found = read_experiment(ROOT / "experiments" / "default.toml")
    assert (found.name, found.corpora, found.folds) == ("default", ("bundled", "news", "world", "arguments"), 4)
    assert [candidate.pipeline for candidate in found.candidates] == [
        "majority",
        "unigrams",
        "sentences",
        "words_and_sentences",
    ]
    assert found.candidates[1].grid["heads__topic__C"] == [1.0, 3.0]
    assert found.gate == Gate(0.01, 0.25, 0.4)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_everything_that_an_experiment_may_say(path: Path, mark: str) -> None:
    path.write_text(mark + WHOLE, encoding="utf-8")
    found = read_experiment(path)
    assert (found.name, found.corpora, found.seed, found.folds) == ("tuned", ("bundled", "own.csv"), 7, 3)
    assert (found.resamples, found.precision) == (500, 0.8)
    assert found.weights == {"bundled": 0.5, "own.csv": 2}
    assert found.gate == Gate(0.02, 0.3, 0.5)
    majority, small, both = found.candidates
    assert majority == Candidate("majority", "majority")
    assert small.build().get_params()["weigh__words__tfidf__norm"] == "l1"
    assert small.grid == {"heads__stance__C": [0.1, 1.0], "weigh__words__tfidf__sublinear_tf": [True, False]}
    assert both.build()["weigh"].transformer_weights == {"words": 0.5, "sentences": 2.0}


def test_what_is_not_said_has_its_default_and_the_file_gives_the_name(path: Path) -> None:
    path.write_text('corpora = ["bundled"]\n' + FLOORS)
    found = read_experiment(path)
    assert (found.name, found.seed, found.folds, found.resamples, found.precision) == ("mine", 0, 5, 1000, 0.9)
    assert (found.weights, found.gate) == ({}, Gate())


def test_reading_leaves_the_parameters_to_the_experiment(path: Path) -> None:
    """The checks set values on pipelines; none of that may stick to what is built afterwards."""
    path.write_text(QUICK + "grid.heads__topic__C = [5.0, 6.0]\n")
    [_, candidate] = read_experiment(path).candidates
    assert candidate.params == {}
    assert candidate.build().get_params()["heads__topic__C"] == 1.0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("fold = 3", ["key", "'fold'", "folds", "resamples", "did you mean 'folds'?"]),
        ("seed = true", ["seed", "True", "a whole number between 0 and 4294967295"]),
        ("seed = -1", ["seed", "-1", "between 0 and"]),
        ("folds = 3.0", ["folds", "3.0", "a whole number between 2 and 20"]),
        ('folds = "3"', ["folds", "'3'", "a whole number between 2 and 20"]),
        ("folds = 1", ["folds", "1 is not", "between 2 and 20"]),
        ("resamples = 10", ["resamples", "10 is not", "between 100 and 100000"]),
        ("precision = 1.5", ["precision", "1.5", "between 0 and 1"]),
        ("precision = nan", ["precision", "nan", "between 0 and 1"]),
        ("precision = true", ["precision", "True", "a number between 0 and 1"]),
        ("name = 3", ["name", "3 is not a string"]),
        ("weights = {bundle = 1}", ["weights", "'bundle'", "bundled", "did you mean 'bundled'?"]),
        ("weights = {bundled = -1}", ["weights.bundled", "-1", "between 0 and 1000"]),
        ("weights = {bundled = true}", ["weights.bundled", "True", "a number"]),
        ("weights = {bundled = 0}", ["weights", "{'bundled': 0}", "more than 0"]),
        ("weights = 2", ["weights", "2 is not a table"]),
        ("gate = {margins = 0}", ["gate", "'margins'", "margin, stance_floor, topic_floor"]),
        ("gate = {margin = -0.1}", ["gate.margin", "-0.1", "between 0 and 1"]),
    ],
)
def test_a_wrong_top_level_entry_is_refused(path: Path, lines: str, said: list[str]) -> None:
    message = refusal(path, f'{lines}\ncorpora = ["bundled"]\n{FLOORS}')
    assert message.startswith(said[0]), message
    assert all(part in message for part in said), message


@pytest.mark.parametrize("corpora", ["[]", '"bundled"', "[1]", "{}"])
def test_corpora_that_are_not_a_list_of_names_are_refused(path: Path, corpora: str) -> None:
    assert refusal(path, f"corpora = {corpora}\n{FLOORS}").startswith("corpora: ")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[candidates.unigram]", ["candidates.unigram", "'unigram'", *CANDIDATES, "did you mean 'unigrams'?"]),
        ('[candidates.x]\npipeline = "wards"', ["candidates.x", "'wards'", *CANDIDATES, "did you mean 'words'?"]),
        ("[candidates.x]\npipeline = 3", ["candidates.x.pipeline", "3 is not a string"]),
        ("[candidates.words]\nparam.heads__topic__C = 1", ["candidates.words", "'param'", "did you mean 'params'?"]),
        ("[candidates.words]\nparams = 1", ["candidates.words.params", "1 is not a table"]),
        ('[candidates."two words"]\npipeline = "words"', ["candidates.two words", "letters, digits, _ and -"]),
        ('[candidates."words/2"]\npipeline = "words"', ["candidates.words/2", "letters, digits, _ and -"]),
        ('[candidates.words]\nencoder = "x"', ["candidates.words.encoder", "'x'", "takes no encoder", "sentences"]),
        ('[candidates.sentences]\nencoder = "minilm"', ["candidates.sentences.encoder", "'minilm'", "news-MiniLM"]),
        ("[candidates.sentences]\nencoder = 5", ["candidates.sentences.encoder", "5 is not a string"]),
    ],
)  # fmt: skip
def test_a_wrong_candidate_is_refused(path: Path, table: str, said: list[str]) -> None:
    message = refusal(path, f"{QUICK}\n{table}")
    assert message.startswith(said[0]), message
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("params.heads__topic__c = 1", ["params.heads__topic__c", "heads__stance__C", "mean 'heads__topic__C'?"]),
        ("params.heads__topic__C = -1", ["params.heads__topic__C", "range (0.0, inf]", "-1"]),
        ('params.heads__topic__C = "x"', ["params.heads__topic__C", "range (0.0, inf]", "'x'"]),
        ("params.heads__topic__C = true", ["params.heads__topic__C", "True is not a number"]),
        ("params.heads__stance__max_iter = 1.5", ["params.heads__stance__max_iter", "an int in the range", "1.5"]),
        ("params.heads__stance__max_iter = true", ["params.heads__stance__max_iter", "True is not a number"]),
        ('params.heads__topic__solver = "lbgfs"', ["params.heads__topic__solver", "'lbgfs'", "lbfgs"]),
        ('params.weigh__words__tfidf__norm = "l3"', ["params.weigh__words__tfidf__norm", "'l3'", "'l1'", "'l2'"]),
        ("grid.heads__topic__C = 1", ["grid.heads__topic__C", "1 is not a list of values"]),
        ("grid.heads__topic__C = []", ["grid.heads__topic__C", "[] is not a list of values"]),
        ("grid.heads__topic__C = [1.0, -2.0]", ["grid.heads__topic__C", "range (0.0, inf]", "-2.0"]),
        ("grid.heads__topic__Cs = [1.0]", ["grid.heads__topic__Cs", "did you mean 'heads__topic__C'?"]),
        (
            "grid.heads__topic__C = [1.0]\nparams.heads__topic__C = 2.0",
            ["grid.heads__topic__C", "[1.0]", "2.0 under params", "keep one"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused(path: Path, setting: str, said: list[str]) -> None:
    message = refusal(path, QUICK + setting)
    assert message.startswith(f"candidates.unigrams.{said[0]}: "), message
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    "key",
    [
        "heads__topic", "heads__n_topics", "heads__topic_temperature", "weigh__words", "weigh__words__tfidf",
        "weigh__words__steps", "weigh__words__columns__start", "weigh__transformer_list", "weigh__n_jobs", "heads",
        "extract__words__n_features",
    ],
)  # fmt: skip
def test_what_holds_a_pipeline_together_is_no_parameter(path: Path, key: str) -> None:
    for value in ("5", '"drop"'):
        message = refusal(path, f"{QUICK}params.{key} = {value}")
        assert f"params.{key}: {key!r} is not one of " in message
        choices = message.split(" is not one of ")[1].split("; ")[0].split(", ")
        assert "heads__topic__C" in choices
        assert key not in choices


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('params.heads__topic__solver = "liblinear"', ["'liblinear'", "multiclass"]),
        ("params.heads__stance__l1_ratio = 1.0", ["'heads__stance__l1_ratio': 1.0", "lbfgs"]),
        (
            'grid.heads__topic__l1_ratio = [0.0, 1.0]\ngrid.heads__topic__solver = ["saga", "lbfgs"]',
            ["'heads__topic__l1_ratio': 1.0", "'heads__topic__solver': 'lbfgs'"],
        ),
        ("params.weigh__transformer_weights = {wards = 2.0}", ["'wards'", "not present"]),
        ("params.heads__topic__class_weight = {asylum = 2.0}", ["'asylum'"]),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_the_combination(
    path: Path, settings: str, said: list[str]
) -> None:
    message = refusal(path, QUICK + settings)
    assert message.startswith("candidates.unigrams: ")
    assert all(part in message for part in said), message


def test_values_that_go_together_only_in_some_candidates_pass_there(path: Path) -> None:
    path.write_text(QUICK + 'params.heads__topic__solver = "saga"\ngrid.heads__topic__l1_ratio = [0.0, 1.0]\n')
    assert read_experiment(path).candidates[1].grid == {"heads__topic__l1_ratio": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("tables", "missing", "remedy"),
    [
        (["unigrams"], "majority", "[candidates.majority]"),
        (["majority"], "words or unigrams", "[candidates.words]"),
        (["majority", "sentences"], "words or unigrams", "[candidates.words]"),
        (["sentences"], "majority", "[candidates.majority]"),
        ([], "majority", ""),
    ],
)
def test_an_experiment_without_its_floors_is_refused_with_the_remedy(
    path: Path, tables: list[str], missing: str, remedy: str
) -> None:
    listed = "".join(f"[candidates.{name}]\n" for name in tables) or "[candidates]"
    message = refusal(path, f'corpora = ["bundled"]\n{listed}')
    assert message.startswith("candidates: ")
    assert missing in message
    assert remedy in message
    if remedy:
        listed += f"{remedy}\n" + ("[candidates.unigrams]\n" if "sentences" in tables and missing == "majority" else "")
        path.write_text(f'corpora = ["bundled"]\n{listed}')
        read_experiment(path)


@pytest.mark.parametrize("words_alone", ["words", "unigrams"])
def test_floors_count_by_their_pipeline_whatever_they_are_called(path: Path, words_alone: str) -> None:
    path.write_text(
        'corpora = ["bundled"]\n[candidates.a]\npipeline = "majority"\n'
        f'[candidates.majority]\npipeline = "{words_alone}"\n'
    )
    assert [candidate.pipeline for candidate in read_experiment(path).candidates] == ["majority", words_alone]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "corpora: missing"),
        ("# nothing yet\n", "corpora: missing"),
        ('corpora = ["bundled"]', "candidates: missing"),
        ("corpora: [bundled]\n", "not TOML: "),
        ('corpora = ["bundled"]\ncorpora = ["bundled"]', "not TOML: "),
        (b"\xff\xfe\x00", "not TOML: "),
        ('corpora = ["bundled"]\ncandidates = ["majority"]', "candidates: ['majority'] is not a table"),
        ('corpora = ["bundled"]\n[candidates]\nwords = true', "candidates.words: True is not a table"),
    ],
)  # fmt: skip
def test_a_file_that_says_too_little_or_is_not_toml_is_refused(path: Path, content: str | bytes, said: str) -> None:
    assert refusal(path, content).startswith(said)


def test_a_missing_file_is_refused_and_its_neighbours_are_named(path: Path) -> None:
    with pytest.raises(InvalidExperiment) as refused:
        read_experiment(path)
    assert str(refused.value) == f"{path}: no such file; experiments there: none"
    other = path.with_name("other.toml")
    other.write_text(WHOLE)
    with pytest.raises(InvalidExperiment, match=r"no such file; experiments there: .*other\.toml$"):
        read_experiment(path)


def test_a_folder_is_no_experiment(tmp_path: Path) -> None:
    for place in (tmp_path, ROOT / "pyproject.toml" / "x.toml"):
        with pytest.raises(InvalidExperiment) as refused:
            read_experiment(place)
        assert str(refused.value).startswith(f"{place}: ")


# The keys of WHOLE that the next test misspells: all but the names of candidates, which are free.
KEYS = (
    "name", "corpora", "seed", "folds", "resamples", "precision", "weights", "gate", "bundled", "own.csv", "margin",
    "topic_floor", "stance_floor", "majority", "pipeline", "encoder", "params", "grid", "weigh__words__tfidf__norm",
    "heads__topic__C", "heads__stance__C", "weigh__words__tfidf__sublinear_tf", "weigh__transformer_weights",
    "candidates",
)  # fmt: skip
LETTERS = st.characters(codec="ascii", min_codepoint=32, max_codepoint=126)


@st.composite
def misspellings(draw: st.DrawFn) -> tuple[str, str]:
    """A key and what becomes of it by one or two letters too many, too few, other ones, or two that changed places."""
    key = wrong = draw(st.sampled_from(KEYS))
    for _ in range(draw(st.integers(1, 2))):
        at, letter = draw(st.integers(0, max(len(wrong) - 1, 0))), draw(LETTERS)
        wrong = draw(
            st.sampled_from(
                [
                    wrong[:at] + letter + wrong[at:],
                    wrong[:at] + wrong[at + 1 :],
                    wrong[:at] + letter + wrong[at + 1 :],
                    wrong[:at] + wrong[at + 1 : at + 2] + wrong[at : at + 1] + wrong[at + 2 :],
                ]
            )
        )
    return key, wrong


@given(misspellings())
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_misspelling_of_a_key_passes(path: Path, misspelt: tuple[str, str]) -> None:
    key, wrong = misspelt
    assume(wrong not in KEYS)
    old = {"majority": "[candidates.majority]", "candidates": "[candidates.both]", "own.csv": '"own.csv" ='}
    new = {"majority": f"[candidates.{json.dumps(wrong)}]", "candidates": f"[{json.dumps(wrong)}.both]"}
    found, replaced = old.get(key, f"{key} ="), new.get(key, f"{json.dumps(wrong)} =")
    assert found in WHOLE
    message = refusal(path, WHOLE.replace(found, replaced, 1))
    assert wrong in message or repr(wrong) in message
