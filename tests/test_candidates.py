"""The candidates: extraction that learns nothing, one path for training and scoring, and words named after weights."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import skops.io
from sklearn.utils.estimator_checks import parametrize_with_checks

from data.codebook import load_codebook
from data.corpora import load_corpora
from training.cache import EmbeddingCache, sha1
from training.candidates import CANDIDATES
from training.extraction import Extractor, Texts
from training.model.columns import Columns
from training.words import strongest_words


@pytest.fixture(scope="module")
def passages() -> tuple[list[str], np.ndarray]:
    rows = load_corpora(["bundled"])["train"].select(range(120))
    return list(rows["text"]), np.stack([rows["topic"][:], rows["stance"][:]], axis=1)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    return Extractor(EmbeddingCache(tmp_path_factory.mktemp("cache") / "embeddings.sqlite"))


@parametrize_with_checks([Columns()])
def test_columns_is_a_scikit_learn_transformer(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@pytest.mark.parametrize("name", CANDIDATES)
def test_cached_extraction_equals_the_pipelines_own(
    name: str, passages: tuple[list[str], np.ndarray], extractor: Extractor
) -> None:
    texts, y = passages
    pipeline = CANDIDATES[name]()
    rows = extractor.rows(pipeline, Texts(texts, [sha1(text) for text in texts]))
    fresh = pipeline["extract"].transform(texts)
    assert sp.issparse(rows) == sp.issparse(fresh)
    difference = abs(rows - fresh)
    assert difference.max() == 0
    pipeline["heads"].fit(pipeline["weigh"].fit_transform(rows), y)
    trained_path = pipeline["heads"].predict_proba(pipeline["weigh"].transform(rows))
    for fast, whole in zip(trained_path, pipeline.predict_proba(texts), strict=True):
        np.testing.assert_array_equal(fast, whole)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_saved_candidate_is_small_and_answers_the_same(
    name: str, passages: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    texts, y = passages
    pipeline = CANDIDATES[name]().fit(texts, y)
    file = tmp_path / "pipeline.skops"
    skops.io.dump(pipeline, file)
    assert file.stat().st_size < 15e6
    loaded = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
    for before, after in zip(pipeline.predict_proba(texts[:20]), loaded.predict_proba(texts[:20]), strict=True):
        np.testing.assert_array_equal(before, after)


def test_extraction_of_a_text_does_not_depend_on_the_others(passages: tuple[list[str], np.ndarray]) -> None:
    texts, _ = passages
    extract = CANDIDATES["words_and_sentences"]()["extract"]
    together = extract.transform(texts[:7])
    for at, text in enumerate(texts[:7]):
        assert abs(extract.transform([text]) - together[at]).max() == 0


def test_strongest_words_are_those_that_make_the_label() -> None:
    texts = ["zebra crossing opened", "zebra fence closed", "judge ruled today", "judge spoke yesterday", "rain"] * 5
    y = np.array([[1, 0], [1, 0], [4, 1], [4, 1], [10, 2]] * 5)
    names = {"topic": load_codebook().topic_names, "stance": load_codebook().stance_names}
    for candidate in CANDIDATES:
        pipeline = CANDIDATES[candidate]().fit(texts, y)
        features = pipeline["weigh"].transform(pipeline["extract"].transform(texts))
        table = strongest_words(pipeline, texts, features, y, names, top=1)
        if candidate in ("majority", "sentences"):
            assert table.empty
            continue
        first = table.set_index(["head", "label"]).word
        assert first["topic", names["topic"][1]] == "zebra", candidate
        assert first["topic", names["topic"][4]] == "judge", candidate
