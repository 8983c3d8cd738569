"""Features that ship without their texts: made, kept, refused and mixed with fresh ones as if the texts were there."""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from data.articles import passages_of
from data.hydrate import LEARNT
from data.news import FEATURES, annotations
from training import features
from training.cache import EmbeddingCache, sha1
from training.candidates import CANDIDATES, N_HASHES, hashed_words
from training.extraction import Extractor, Texts
from training.features import SCHEMA, ShippedFeatures, build
from training.model.encoder import SentenceEncoder

SOURCES = Path(__file__).parents[2] / "shared" / "news"  # the texts, where the annotators left them
FILES = (*LEARNT, "dev", "external")
TEXTS = (
    "Zebra keepers asked for visas; the zebra keepers got none.",
    "Seven lanterns hung over the ferry when the last boat of refugees came in, said the harbour master.",
    "None got the visas; keepers asked for keepers, zebra, zebra.",
    "A judge in Utopia struck the fence law down on Monday, calling it vague, stale and unkind.",
    "BREAD prices rose. Bread prices fell. Bread!",
    "Große Häuser, naïve cafés — “quoted” words, and 40 per cent of nothing.",
    "Orchard owners want more pickers, the growers' guild of Ruritania wrote, or apples will rot under every tree.",
    "Rain.",
    "x",
    "word " * 300,
)
BY_SHA1 = {sha1(text): text for text in TEXTS}
PASSED = ("unigrams", "sentences", "words_and_sentences")  # candidates that need no text where features ship


@pytest.fixture
def annotated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts above are the annotated ones; one of them stands in two files."""
    learnt = {"train": TEXTS[:2], "rest": TEXTS[2:4], "arguments": TEXTS[4:5], "world": (*TEXTS[5:7], TEXTS[0])}
    files = {**learnt, "dev": TEXTS[7:9], "external": TEXTS[9:]}
    monkeypatch.setattr(features, "annotations", lambda name: tuple({"sha1": sha1(text)} for text in files[name]))


@pytest.fixture
def built(annotated: None, tmp_path: Path) -> Path:
    """Their features, built."""
    path = tmp_path / "built.parquet"
    assert build(BY_SHA1, path) == len(TEXTS)
    return path


def dense(rows: Any) -> np.ndarray:
    return rows.toarray() if sp.issparse(rows) else np.asarray(rows)


def rewrite(path: Path, **changes: Any) -> None:
    """The same file with other metadata, or another embedding for one sha1."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        row["embedding"] = changes.get("embeddings", {}).get(row["sha1"], row["embedding"])
    metadata = changes.get("metadata", table.schema.metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)), path)


def refused(path: Path, extractor: Any) -> str:
    shipped = ShippedFeatures(path)
    assert not shipped.serves(extractor)
    with pytest.raises(ValueError) as error:
        shipped.rows(extractor, [sha1(TEXTS[0])])
    return str(error.value)


def test_features_in_the_file_equal_those_extracted_from_the_texts(built: Path) -> None:
    shipped, order = ShippedFeatures(built), np.random.default_rng(5).permutation(len(TEXTS)).tolist()
    texts = [TEXTS[at] for at in [*order, order[0]]]  # any order, one twice
    keys = [sha1(text) for text in texts]
    assert all(shipped.holds(key) for key in keys) and not shipped.holds(sha1("another text"))
    np.testing.assert_array_equal(shipped.rows(SentenceEncoder(), keys), SentenceEncoder().encode(texts))
    fresh, kept = hashed_words().transform(texts), shipped.rows(hashed_words(), keys)
    assert kept.shape == fresh.shape and kept.dtype == fresh.dtype
    assert abs(kept - fresh).max() == 0
    assert kept[texts.index(TEXTS[9])].max() == 300


def test_build_gives_the_same_bytes_whatever_the_order_of_the_texts(built: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.parquet"
    build(dict(reversed(BY_SHA1.items())) | {sha1("of no annotation"): "of no annotation"}, again)
    assert again.read_bytes() == built.read_bytes()
    build(BY_SHA1, again)  # over itself
    assert again.read_bytes() == built.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.parquet", "built.parquet"]


def test_a_row_without_text_keeps_its_old_features_and_one_with_text_gets_new_ones(built: Path) -> None:
    before = built.read_bytes()
    assert build({}, built) == 0
    assert built.read_bytes() == before
    one, two = sha1(TEXTS[1]), sha1(TEXTS[3])
    mark = bytes(range(192)) * 2
    rewrite(built, embeddings={one: mark, two: mark})
    assert build({two: TEXTS[3]}, built) == 1
    shipped = ShippedFeatures(built)
    assert shipped.rows(SentenceEncoder(), [one]).tobytes() == mark
    np.testing.assert_array_equal(shipped.rows(SentenceEncoder(), [two]), SentenceEncoder().encode([TEXTS[3]]))
    assert build({one: TEXTS[1]}, built) == 1
    assert built.read_bytes() == before


@pytest.mark.parametrize(
    "extractor",
    [
        SentenceEncoder(max_tokens=128),
        hashed_words().set_params(n_features=N_HASHES // 2),
        hashed_words().set_params(lowercase=False),
        hashed_words().set_params(ngram_range=(1, 2)),
        hashed_words().set_params(binary=True),
    ],
    ids=["tokens", "hashes", "case", "pairs", "binary"],
)
def test_another_recipe_is_refused_with_the_remedy(built: Path, extractor: Any) -> None:
    said = refused(built, extractor)
    assert str(built) in said and "`make data` and `make features`" in said
    assert SentenceEncoder().recipe in said and hashed_words().recipe in said  # what the file was made by
    assert extractor.recipe in said


def test_features_of_a_changed_encoder_file_are_refused(built: Path) -> None:
    recipes = json.loads(pq.read_schema(built).metadata[b"recipe"])
    assert recipes == [SentenceEncoder().recipe, hashed_words().recipe]
    other = ["0123456789abcdef-256", recipes[1]]
    rewrite(built, metadata={b"recipe": json.dumps(other).encode()})
    assert "0123456789abcdef-256" in refused(built, SentenceEncoder())
    assert ShippedFeatures(built).serves(hashed_words())


def test_build_keeps_nothing_of_another_recipe(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = built.read_bytes()
    other = hashed_words().set_params(n_features=2**12)
    monkeypatch.setattr(features, "hashed_words", lambda: other)
    with pytest.raises(ValueError, match=f"^{len(TEXTS) - 1} passages have neither text nor features; `make data`"):
        build({sha1(TEXTS[2]): TEXTS[2]}, built)
    assert built.read_bytes() == before
    assert build(BY_SHA1, built) == len(TEXTS)
    assert ShippedFeatures(built).rows(other, [sha1(TEXTS[2])]).shape == (1, 2**12)


@pytest.mark.parametrize("given", [0, 3, 9])
def test_passages_that_are_missing_are_counted(annotated: None, tmp_path: Path, given: int) -> None:
    texts = dict(list(BY_SHA1.items())[:given])
    with pytest.raises(ValueError, match=f"^{len(TEXTS) - given} passages have neither text nor features"):
        build(texts, tmp_path / "built.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_not_the_one_of_its_sha1_is_refused(built: Path) -> None:
    before, key = built.read_bytes(), sha1(TEXTS[0])
    with pytest.raises(ValueError, match=f"^1 texts are not those of their sha1, the first {key}; run `make data`"):
        build({**BY_SHA1, key: TEXTS[0] + " "}, built)
    assert built.read_bytes() == before


def test_without_a_file_nothing_is_served(tmp_path: Path) -> None:
    said = refused(tmp_path / "none.parquet", hashed_words())
    assert f"{tmp_path / 'none.parquet'} is missing" in said and "`make features`" in said


def test_the_order_of_the_words_is_gone(built: Path) -> None:
    shipped = ShippedFeatures(built)
    one = shipped.rows(hashed_words(), [sha1(TEXTS[0])])
    assert abs(one - hashed_words().transform([" ".join(reversed(TEXTS[0].split()))])).max() == 0
    for row in pq.read_table(built).to_pylist():
        text = BY_SHA1[row["sha1"]]
        assert row["columns"] == sorted(set(row["columns"]))
        assert sum(row["counts"]) == len(hashed_words().build_analyzer()(text))


def test_the_shipped_file_is_small_whole_and_made_by_this_code(tmp_path: Path) -> None:
    assert FEATURES.stat().st_size <= 12_000_000
    table = pq.read_table(FEATURES)
    assert table.schema.equals(SCHEMA) and set(table.schema.metadata) == {b"recipe"}
    assert table["sha1"].to_pylist() == sorted({row["sha1"] for name in FILES for row in annotations(name)})
    assert ShippedFeatures().serves(SentenceEncoder()) and ShippedFeatures().serves(hashed_words())
    assert {len(row) for row in table["embedding"].to_pylist()} == {384}
    codes = np.frombuffer(b"".join(table["embedding"].to_pylist()), np.int8).reshape(-1, 384).astype(int)
    assert set(abs(codes).max(axis=1)) == {127}
    columns, counts = table["columns"].combine_chunks(), table["counts"].combine_chunks()
    assert columns.offsets.equals(counts.offsets)
    flat = columns.flatten().to_numpy()
    assert flat.min() >= 0 and flat.max() < N_HASHES and counts.flatten().to_numpy().min() >= 1
    within = np.ones(len(flat) - 1, bool)
    within[columns.offsets.to_numpy()[1:-1] - 1] = False
    assert (np.diff(flat)[within] > 0).all(), "columns of a passage not in ascending order: they may tell its words'"
    copy = tmp_path / FEATURES.name
    shutil.copy(FEATURES, copy)
    assert build({}, copy) == 0
    assert copy.read_bytes() == FEATURES.read_bytes()


@pytest.mark.parametrize("name", PASSED)
def test_rows_of_shipped_and_fresh_passages_equal_those_of_their_texts(name: str, built: Path, tmp_path: Path) -> None:
    pipeline = CANDIDATES[name]()
    new = ["Two new ferries sail.", "Customs clerks of Lilliput stamped the tiny passports twice.", "y"]
    texts = [new[0], TEXTS[4], TEXTS[0], new[1], TEXTS[8], TEXTS[9], new[2], TEXTS[5], new[0]]
    given = [text if text in new or text == TEXTS[5] else None for text in texts]
    cache = tmp_path / "cache.sqlite"
    extractor = Extractor(EmbeddingCache(cache), ShippedFeatures(built))
    passages = Texts(given, [sha1(text) for text in texts])
    assert extractor.usable(pipeline, passages).all()
    rows = extractor.rows(pipeline, passages)
    singly = [pipeline["extract"].transform([text]) for text in texts]
    assert sp.issparse(rows) == sp.issparse(singly[0]) and rows.dtype == np.float32
    np.testing.assert_array_equal(dense(rows), np.vstack([dense(row) for row in singly]))
    if "sentences" in name:
        with closing(sqlite3.connect(cache)) as connection:
            encoded = {key for (key,) in connection.execute("SELECT sha1 FROM embeddings")}
        assert encoded == {sha1(text) for text in new}


@pytest.mark.parametrize("only", ["shipped", "fresh"])
def test_rows_where_all_are_of_one_kind(only: str, built: Path, tmp_path: Path) -> None:
    pipeline = CANDIDATES["words_and_sentences"]()
    texts = list(TEXTS[3:7])
    extractor = Extractor(EmbeddingCache(tmp_path / "c.sqlite"), ShippedFeatures(built))
    if only == "fresh":
        texts = [f"{text} Indeed." for text in texts]
    given: Sequence[str | None] = [None] * 4 if only == "shipped" else texts
    rows = extractor.rows(pipeline, Texts(given, [sha1(text) for text in texts]))
    assert abs(rows - pipeline["extract"].transform(texts)).max() == 0


def test_usable_are_passages_with_text_and_those_whose_every_part_ships(built: Path, tmp_path: Path) -> None:
    extractor = Extractor(EmbeddingCache(tmp_path / "cache.sqlite"), ShippedFeatures(built))
    unknown = "Known to no file."
    given = [None, "Here.", None, TEXTS[1]]
    passages = Texts(given, [sha1(text) for text in (TEXTS[0], "Here.", unknown, TEXTS[1])])
    for name in (*PASSED, "majority"):
        assert extractor.usable(CANDIDATES[name](), passages).tolist() == [True, True, False, True], name
    assert extractor.usable(CANDIDATES["words"](), passages).tolist() == [False, True, False, True]
    changed = CANDIDATES["words_and_sentences"]().set_params(extract__sentences__max_tokens=8)
    assert extractor.usable(changed, passages).tolist() == [False, True, False, True]
    missing = Extractor(EmbeddingCache(tmp_path / "cache.sqlite"), ShippedFeatures(tmp_path / "none.parquet"))
    assert missing.usable(CANDIDATES["unigrams"](), passages).tolist() == [False, True, False, True]
    nothing = extractor.usable(CANDIDATES["unigrams"](), Texts([], []))
    assert nothing.dtype == bool and nothing.shape == (0,)


def test_a_changed_encoder_reads_the_texts_and_not_the_shipped_rows(built: Path, tmp_path: Path) -> None:
    extractor = Extractor(EmbeddingCache(tmp_path / "cache.sqlite"), ShippedFeatures(built))
    passages = Texts(TEXTS[:4], [sha1(text) for text in TEXTS[:4]])
    usual = CANDIDATES["sentences"]()
    changed = CANDIDATES["sentences"]().set_params(extract__sentences__max_tokens=8)
    rows = extractor.rows(changed, passages)
    np.testing.assert_array_equal(rows, changed["extract"].transform(TEXTS[:4]))
    assert (rows != extractor.rows(usual, passages)).any(axis=1).all()


@pytest.mark.skipif(not SOURCES.is_dir(), reason="the texts of the news are not here: nothing to extract again")
def test_shipped_features_are_those_of_the_texts() -> None:
    names = ("train", "world", "dev")
    files = [*(SOURCES / f"{name}.jsonl" for name in names), *sorted((SOURCES / "external").glob("*.jsonl"))]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]
    some = np.random.default_rng().choice(len(lines), 40, replace=False)
    texts = [json.loads(lines[at])["text"] for at in some]
    for row in np.random.default_rng().choice(annotations("rest"), 20, replace=False):  # type: ignore[arg-type]
        file = SOURCES / "articles" / "data" / "jsons" / f"{row['article']}.json"
        texts.append(passages_of(file.read_bytes())[row["paragraph"]])
    keys, shipped = [sha1(text) for text in texts], ShippedFeatures()
    np.testing.assert_array_equal(shipped.rows(SentenceEncoder(), keys), SentenceEncoder().encode(texts))
    assert abs(shipped.rows(hashed_words(), keys) - hashed_words().transform(texts)).max() == 0
