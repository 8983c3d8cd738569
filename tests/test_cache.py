"""The embedding cache: nothing is encoded twice, by several processes or after a kill, and a bad file is named."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from training.cache import CHUNK, CacheError, EmbeddingCache, sha1
from training.model.encoder import Codes, SentenceEncoder

TEXTS = [f"Passage {number}: the ministry of {'the interior ' * (number % 3)}spoke." for number in range(12)]


class Counting(SentenceEncoder):
    """The encoder itself; remembers which texts it was asked for."""

    def encode(self, X: Iterable[str]) -> Codes:
        texts = list(X)
        self.__dict__.setdefault("asked", []).extend(texts)
        return super().encode(texts)


@pytest.fixture
def encoder() -> Counting:
    counting = Counting(max_tokens=16)
    counting.asked = []
    return counting


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "new folder" / "embeddings.sqlite")


@pytest.fixture(scope="module")
def expected() -> Codes:
    return SentenceEncoder(max_tokens=16).encode(TEXTS)


def stored(path: Path) -> list[tuple[str, str, bytes]]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.execute("SELECT recipe, sha1, codes FROM embeddings ORDER BY recipe, sha1"))


def test_stored_rows_equal_fresh_ones_in_the_order_of_the_texts(
    cache: EmbeddingCache, encoder: Counting, expected: Codes
) -> None:
    first, second = cache.encode(encoder, TEXTS), cache.encode(encoder, TEXTS[::-1])
    assert first.dtype == np.int8
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected[::-1])
    assert second.flags.writeable  # as the encoder's own


def test_nothing_is_encoded_twice(cache: EmbeddingCache, encoder: Counting) -> None:
    cache.encode(encoder, TEXTS[:5])
    cache.encode(encoder, TEXTS[3:8])
    EmbeddingCache(cache.path).encode(encoder, TEXTS)
    cache.encode(encoder, TEXTS)
    assert sorted(encoder.asked) == sorted(TEXTS)
    assert len(stored(cache.path)) == len(TEXTS)


def test_duplicates_in_one_call_are_encoded_once_and_answered_each_time(
    cache: EmbeddingCache, encoder: Counting, expected: Codes
) -> None:
    codes = cache.encode(encoder, [TEXTS[1], TEXTS[0], TEXTS[1], TEXTS[1]])
    np.testing.assert_array_equal(codes, expected[[1, 0, 1, 1]])
    assert sorted(encoder.asked) == sorted(TEXTS[:2])


def test_more_texts_than_one_query_or_chunk_holds(cache: EmbeddingCache, encoder: Counting) -> None:
    texts = [f"no {number}" for number in range(2 * CHUNK + 9)]
    first = cache.encode(encoder, texts)
    assert len(encoder.asked) == len(texts) > 500
    np.testing.assert_array_equal(cache.encode(encoder, texts), first)
    np.testing.assert_array_equal(first[::100], SentenceEncoder(max_tokens=16).encode(texts[::100]))
    assert len(encoder.asked) == len(texts)


def test_no_texts_give_no_rows_and_no_file(cache: EmbeddingCache, encoder: Counting) -> None:
    assert cache.encode(encoder, []).shape == (0, 384)
    assert not cache.path.exists()


def test_texts_that_utf8_cannot_hold_are_stored_apart(cache: EmbeddingCache, encoder: Counting) -> None:
    odd = ["", "\0", "a\ud800", "a\udbff", "a\ufffd", "🛂"]
    fresh = SentenceEncoder(max_tokens=16).encode(odd)
    for _ in range(2):
        np.testing.assert_array_equal(cache.encode(encoder, odd), fresh)
    assert sorted(encoder.asked) == sorted(odd)
    assert len({sha1(text) for text in odd}) == len(odd)


@pytest.mark.parametrize("wrong", ["one text", ["a text", None]])
def test_what_is_no_list_of_texts_is_refused(wrong: list[str], cache: EmbeddingCache, encoder: Counting) -> None:
    with pytest.raises(ValueError, match="SentenceEncoder reads"):
        cache.encode(encoder, wrong)
    assert not encoder.asked


def test_recipes_do_not_mix(cache: EmbeddingCache, expected: Codes) -> None:
    long = ["word " * number for number in (1, 10, 30)]
    for _ in range(2):
        for max_tokens in (4, 16):
            fresh = SentenceEncoder(max_tokens=max_tokens)
            np.testing.assert_array_equal(cache.encode(fresh, long), fresh.encode(long))
    assert len(stored(cache.path)) == 6
    assert len({recipe for recipe, _, _ in stored(cache.path)}) == 2


def fill(path: Path, start: "multiprocessing.synchronize.Barrier", texts: list[str], answers: Path) -> None:
    """What one of two processes does: many small calls, so that both commit all the time."""
    encoder, cache = SentenceEncoder(max_tokens=16, threads=1), EmbeddingCache(path)
    start.wait(60)
    np.save(answers, np.concatenate([cache.encode(encoder, texts[at : at + 3]) for at in range(0, len(texts), 3)]))


def test_two_processes_may_fill_one_file_at_once(tmp_path: Path) -> None:
    texts = [f"number {number}" for number in range(120)]
    spawn = multiprocessing.get_context("spawn")
    start, path = spawn.Barrier(2), tmp_path / "embeddings.sqlite"
    orders = [texts, texts[::-1]]
    both = [
        spawn.Process(target=fill, args=(path, start, order, tmp_path / f"{number}.npy"))
        for number, order in enumerate(orders)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    expected = SentenceEncoder(max_tokens=16).encode(texts)
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "1.npy"), expected[::-1])
    assert {key: codes for _, key, codes in stored(path)} == {
        sha1(text): row.tobytes() for text, row in zip(texts, expected, strict=True)
    }


KILLED = """
import sys
from pathlib import Path
from training.cache import EmbeddingCache
from training.model.encoder import SentenceEncoder
texts = [f"number {number}" for number in range(int(sys.argv[2]))]
EmbeddingCache(Path(sys.argv[1])).encode(SentenceEncoder(max_tokens=16, threads=1), texts)
"""


def test_killed_in_the_middle_it_resumes_where_it_was_and_ends_with_the_same_bytes(
    tmp_path: Path, encoder: Counting
) -> None:
    number, path = 2 * CHUNK, tmp_path / "embeddings.sqlite"
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", KILLED, str(path), str(number)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as process:
        kept = 0
        while not kept:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
            if path.exists():
                try:
                    kept = len(stored(path))
                except sqlite3.OperationalError:  # the table is not there yet
                    continue
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = len(stored(path))
    assert 0 < kept < number
    assert kept % CHUNK == 0
    texts = [f"number {number}" for number in range(number)]
    resumed = EmbeddingCache(path).encode(encoder, texts)
    assert len(encoder.asked) == number - kept
    untouched = EmbeddingCache(tmp_path / "other.sqlite")
    np.testing.assert_array_equal(resumed, untouched.encode(encoder, texts))
    assert stored(path) == stored(untouched.path)


# Files that are no cache


@pytest.mark.parametrize("content", [b"col1,col2\n1,2\n" * 100, b"SQLite format 3\0" + bytes(range(256)) * 20])
def test_a_file_that_is_no_database_is_named_with_the_remedy_and_left_alone(
    content: bytes, tmp_path: Path, encoder: Counting
) -> None:
    path = tmp_path / "embeddings.sqlite"
    path.write_bytes(content)
    with pytest.raises(CacheError, match="delete it") as refused:
        EmbeddingCache(path).encode(encoder, TEXTS)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content
    path.unlink()
    assert len(EmbeddingCache(path).encode(encoder, TEXTS)) == len(TEXTS)


def test_a_damaged_cache_is_named_with_the_remedy(cache: EmbeddingCache, encoder: Counting) -> None:
    cache.encode(encoder, TEXTS)
    data = bytearray(cache.path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)  # all pages but the first
    cache.path.write_bytes(data)
    with pytest.raises(CacheError, match="delete it") as refused:
        cache.encode(encoder, TEXTS)
    assert str(cache.path) in str(refused.value)


@pytest.mark.parametrize(
    "table", ["CREATE TABLE embeddings (text TEXT, vector BLOB)", "CREATE TABLE accounts (name TEXT, balance REAL)"]
)
def test_a_database_of_something_else_is_named_and_left_alone(table: str, tmp_path: Path, encoder: Counting) -> None:
    path = tmp_path / "somebody's.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(table)
    before = path.read_bytes()
    with pytest.raises(CacheError, match="delete it") as refused:
        EmbeddingCache(path).encode(encoder, TEXTS)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before


def test_rows_of_a_wrong_length_are_not_passed_on(cache: EmbeddingCache, encoder: Counting) -> None:
    cache.encode(encoder, TEXTS)
    for damage in ("substr(codes, 1, 100)", "NULL", "'text'"):
        with closing(sqlite3.connect(cache.path)) as connection, connection:
            connection.execute(f"UPDATE embeddings SET codes = {damage} WHERE sha1 = ?", (sha1(TEXTS[2]),))
        with pytest.raises(CacheError, match="delete it") as refused:
            cache.encode(encoder, TEXTS)
        assert str(cache.path) in str(refused.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, encoder: Counting) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "embeddings.sqlite"
    with pytest.raises(CacheError, match="can be written") as refused:
        EmbeddingCache(path).encode(encoder, TEXTS)
    assert str(path) in str(refused.value)


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path, encoder: Counting) -> None:
    path = tmp_path / "embeddings.sqlite"
    path.mkdir()
    with pytest.raises(CacheError, match="can be written") as refused:
        EmbeddingCache(path).encode(encoder, TEXTS)
    assert str(path) in str(refused.value)


@contextmanager
def as_anyone() -> Iterator[None]:
    """Without the superuser's rights, where the tests run with them: it may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_without_leave_to_write_is_named_and_serves_what_it_holds(encoder: Counting) -> None:
    with tempfile.TemporaryDirectory() as name:  # not under `tmp_path`, which others may not look into
        folder, path = Path(name), Path(name) / "embeddings.sqlite"
        codes = EmbeddingCache(path).encode(encoder, TEXTS[:3])
        path.chmod(0o444)
        folder.chmod(0o555)
        with as_anyone():
            np.testing.assert_array_equal(EmbeddingCache(path).encode(encoder, TEXTS[:3]), codes)
            for wanted in (path, folder / "new.sqlite", folder / "new" / "new.sqlite"):
                with pytest.raises(CacheError, match="can be written") as refused:
                    EmbeddingCache(wanted).encode(encoder, TEXTS)
                assert str(wanted) in str(refused.value)
        folder.chmod(0o755)


def test_an_encoder_that_fails_keeps_its_own_words_and_the_rows_before_it(cache: EmbeddingCache) -> None:
    encoder = SentenceEncoder(max_tokens=600)
    cache.encode(encoder, TEXTS[:2])
    with pytest.raises(ValueError, match="lower max_tokens=600"):
        cache.encode(encoder, [TEXTS[2], "word " * 700])
    assert len(stored(cache.path)) == 2
