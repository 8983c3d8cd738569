"""The sentence encoder: each text for itself, whatever its neighbours and threads, and none but the right files."""

import hashlib
import http.server
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from data.corpora import load_corpora
from training.model.encoder import (
    NEWS_MINILM,
    NEWS_MINILM_FOLDER,
    NEWS_MINILM_SHA256,
    EncoderError,
    SentenceEncoder,
    decode,
    resolve_encoder,
)

TEXTS = [
    "The tribunal rejected her asylum claim after a two-day hearing.",
    "Rain.",
    "Fruit growers say that the seasonal worker visa comes too late for the harvest. " * 20,
    "",
    "نقلت القوارب المهاجرين إلى الجزيرة",
    "🚢🛂",
]
WHAT_COMES = st.text(st.characters(), max_size=40)  # any code point, lone surrogates and NUL among them


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the bundled encoder, as an exported model lies on a user's disk."""
    return copy_into(tmp_path_factory.mktemp("encoder"))


def copy_into(folder: Path, graph: str = "model.onnx") -> Path:
    files = resolve_encoder(NEWS_MINILM)
    (folder / graph).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(files.model, folder / graph)
    shutil.copyfile(files.tokenizer, folder / "tokenizer.json")
    return folder


def flip(path: Path, at: int) -> None:
    """Change one byte, and leave size and time of change as a careless copy would."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class FedWithNumbers(SentenceEncoder):
    """Says that it takes a matrix: else scikit-learn's checks, which feed numbers, would pass over it."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


NUMBERS = "feeds a matrix of numbers and wants an embedding; this transformer refuses all but strings"
IGNORED = "wants `fit` to judge X; this transformer learns nothing from X and does not look at it"
EXPECTED = {
    "check_fit_score_takes_y": NUMBERS,
    "check_dont_overwrite_parameters": NUMBERS,
    "check_estimators_dtypes": NUMBERS,
    "check_dtype_object": NUMBERS,
    "check_pipeline_consistency": NUMBERS,
    "check_estimators_pickle": NUMBERS,
    "check_f_contiguous_array_estimator": NUMBERS,
    "check_transformer_data_not_an_array": NUMBERS,
    "check_transformer_general": NUMBERS,
    "check_transformers_unfitted_stateless": NUMBERS,
    "check_methods_sample_order_invariance": NUMBERS,
    "check_methods_subset_invariance": NUMBERS,
    "check_fit2d_1sample": NUMBERS,
    "check_fit2d_1feature": NUMBERS,
    "check_dict_unchanged": NUMBERS,
    "check_fit_idempotent": NUMBERS,
    "check_fit2d_predict1d": NUMBERS,
    "check_complex_data": IGNORED,
    "check_estimators_empty_data_messages": IGNORED,
    "check_estimators_nan_inf": IGNORED,
    "check_estimator_sparse_tag": IGNORED,
    "check_estimator_sparse_array": IGNORED,
    "check_fit1d": IGNORED,
    "check_n_features_in_after_fitting": "texts have no columns to count",
    "check_n_features_in": "texts have no columns to count",
}


def test_its_card_counts_what_it_has_learnt() -> None:
    made = json.loads((NEWS_MINILM_FOLDER / "made.json").read_text(encoding="utf-8"))
    assert made["sha256"] == NEWS_MINILM_SHA256
    sizes = [load_corpora([name]).num_rows["train"] for name in ("bundled", "claims", "news", "arguments")]
    assert made["labelled"] == sum(sizes)
    card = " ".join((NEWS_MINILM_FOLDER / "README.md").read_text(encoding="utf-8").split())
    kinds = ("fictional", "invented claims", "of real news", "of people who argue")
    counts = ", ".join(f"{size:,} {kind}" for size, kind in zip(sizes, kinds, strict=True))
    assert f"on {made['labelled']:,} labelled passages of the training splits: {counts}." in card


@parametrize_with_checks([FedWithNumbers()], expected_failed_checks=lambda _: EXPECTED)
def test_it_is_a_scikit_learn_transformer(estimator: Any, check: Any) -> None:
    check(estimator)


def test_it_is_ready_without_a_fit_and_a_clone_encodes_alike(encoder: SentenceEncoder) -> None:
    check_is_fitted(encoder)
    assert clone(encoder).get_params() == {"model": NEWS_MINILM, "max_tokens": 256, "threads": 2, "blind_groups": True}
    np.testing.assert_array_equal(clone(encoder).fit(TEXTS).transform(TEXTS), encoder.transform(TEXTS))


def test_a_parameter_set_after_use_counts(encoder: SentenceEncoder) -> None:
    changed = clone(encoder)
    changed.encode(TEXTS[:1])
    changed.set_params(max_tokens=8)
    np.testing.assert_array_equal(changed.encode(TEXTS), SentenceEncoder(max_tokens=8).encode(TEXTS))
    assert (changed.encode(TEXTS[2:3]) != encoder.encode(TEXTS[2:3])).any()


def test_embeddings_are_unit_rows_in_the_order_of_the_texts(encoder: SentenceEncoder) -> None:
    rows = encoder.transform(TEXTS)
    assert rows.shape == (len(TEXTS), encoder.dimensions) == (6, 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(encoder.transform(TEXTS[::-1]), rows[::-1])
    np.testing.assert_array_equal(encoder.transform(iter(TEXTS)), rows)
    np.testing.assert_array_equal(encoder.transform(pd.Series(TEXTS)), rows)


def test_no_texts_give_no_rows(encoder: SentenceEncoder) -> None:
    assert encoder.transform([]).shape == (0, 384)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(WHAT_COMES, min_size=2, max_size=6), threads=st.integers(1, 4))
def test_a_text_is_encoded_alike_whatever_its_neighbours_and_threads(texts: list[str], threads: int) -> None:
    alone = [SentenceEncoder(threads=1).encode([text])[0] for text in texts]
    np.testing.assert_array_equal(SentenceEncoder(threads=threads).encode(texts), np.stack(alone))


@settings(max_examples=40, deadline=None)
@given(WHAT_COMES)
def test_any_string_has_an_embedding_of_unit_length(text: str) -> None:
    rows = SentenceEncoder().transform([text])
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-6)


def test_stored_codes_use_the_whole_range_and_decode_to_the_embedding(encoder: SentenceEncoder) -> None:
    codes = encoder.encode(TEXTS)
    assert codes.dtype == np.int8
    assert (np.abs(codes.astype(int)).max(axis=1) == 127).all()
    np.testing.assert_array_equal(decode(codes), encoder.transform(TEXTS))


def test_a_long_text_is_cut_at_max_tokens(encoder: SentenceEncoder) -> None:
    """`border` is one token, and two of the 256 open and close the text."""
    whole, longer, shorter = (encoder.encode(["border " * times])[0] for times in (254, 5000, 200))
    np.testing.assert_array_equal(whole, longer)
    assert (whole != shorter).any()


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("half a pair \ud83d here", "half a pair \ufffd here"),
        ("the ferry \ud83d\udea2 left", "the ferry 🚢 left"),
        ("the ferry\0 left", "the ferry left"),
        ("The Ferry LEFT", "the ferry left"),
    ],
    ids=["lone surrogate", "surrogate pair", "NUL", "capitals"],
)
def test_odd_characters_read_as_what_they_stand_for(odd: str, plain: str, encoder: SentenceEncoder) -> None:
    np.testing.assert_array_equal(*encoder.encode([odd, plain]))


def test_texts_on_one_matter_lie_closer_than_texts_on_two(encoder: SentenceEncoder) -> None:
    asylum, refugees, bakery = encoder.transform(
        [
            "The court granted asylum to the family that had fled the war.",
            "Judges let the refugees stay in the country.",
            "The bakery on the corner sells sourdough loaves on Sundays.",
        ]
    )
    assert asylum @ refugees - asylum @ bakery > 0.4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("one text", "str"),
        (b"one text", "bytes"),
        (pd.DataFrame({"text": ["a"]}), "DataFrame"),
        (np.array([["a", "b"]]), "ndarray"),
        (["fine", None], "NoneType at position 1"),
        ([3.5], "'3.5'"),
        ([b"bytes"], "bytes at position 0"),
    ],
)
def test_what_is_not_a_list_of_strings_is_refused(wrong: Any, named: str, encoder: SentenceEncoder) -> None:
    with pytest.raises(ValueError, match=named):
        encoder.transform(wrong)


@pytest.mark.parametrize(
    "parameters", [{"max_tokens": 0}, {"max_tokens": "256"}, {"threads": 0}, {"model": Path("folder")}]
)
def test_a_parameter_out_of_range_is_refused_by_name(parameters: dict[str, Any]) -> None:
    for use in (SentenceEncoder.fit, SentenceEncoder.transform):
        with pytest.raises(ValueError, match=f"The '{next(iter(parameters))}' parameter"):
            use(SentenceEncoder(**parameters), TEXTS)


def test_more_tokens_than_the_model_can_read_are_refused_with_a_remedy() -> None:
    with pytest.raises(EncoderError, match=r"cannot read 1502 tokens at once; lower max_tokens=2000"):
        SentenceEncoder(max_tokens=2000).encode(["border " * 1500])


def test_a_pickle_holds_parameters_and_no_model(encoder: SentenceEncoder) -> None:
    encoder.encode(["opened"])
    frozen = pickle.dumps(encoder)
    assert len(frozen) < 1000
    np.testing.assert_array_equal(pickle.loads(frozen).encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parametrize("graph", ["model.onnx", "onnx/model.onnx"])
def test_a_local_folder_is_an_encoder(graph: str, encoder: SentenceEncoder, tmp_path: Path) -> None:
    local = SentenceEncoder(str(copy_into(tmp_path, graph)))
    np.testing.assert_array_equal(local.encode(TEXTS), encoder.encode(TEXTS))
    assert local.recipe == encoder.recipe  # the same bytes, so embeddings are shared


def test_quotation_marks_around_a_whole_text_change_nothing(encoder: SentenceEncoder) -> None:
    said = TEXTS[0]
    alike = encoder.encode([said, f'"{said}"', f" “{said}” "])
    assert (alike == alike[0]).all()
    two = encoder.encode([f'"{said}" she said. "{said}"', f'{said}" she said. "{said}'])
    assert (two[0] != two[1]).any()  # two quotations keep theirs


def test_the_recipe_names_the_files_contents_and_the_cut(published: Path, tmp_path: Path) -> None:
    recipes = {SentenceEncoder(str(published), max_tokens=length).recipe for length in (64, 128, 256)}
    for file in ("model.onnx", "tokenizer.json"):
        folder = shutil.copytree(published, tmp_path / file)
        flip(folder / file, -100)
        recipes.add(SentenceEncoder(str(folder)).recipe)
    assert len(recipes) == 5
    assert SentenceEncoder(threads=1).recipe == SentenceEncoder(threads=4).recipe


def test_asking_for_the_recipe_again_does_not_read_the_files_again(encoder: SentenceEncoder) -> None:
    content = resolve_encoder(NEWS_MINILM).model.read_bytes()
    started = time.perf_counter()
    hashlib.sha256(content).hexdigest()
    once = time.perf_counter() - started
    assert encoder.recipe
    started = time.perf_counter()
    for _ in range(20):
        assert encoder.recipe
    assert time.perf_counter() - started < 10 * once


def test_a_file_changed_after_use_is_noticed(published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "encoder")
    encoder = SentenceEncoder(str(folder))
    recipe, codes = encoder.recipe, encoder.encode(TEXTS)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"rain":', '"rainq":'), encoding="utf-8")
    assert encoder.recipe != recipe
    assert (encoder.encode(TEXTS)[1] != codes[1]).any()


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_shipped_files_other_than_the_registered_ones_are_refused(
    file: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(published, tmp_path / "encoder")
    monkeypatch.setattr("training.model.encoder.NEWS_MINILM_FOLDER", folder)
    SentenceEncoder().encode(TEXTS[:1])  # a faithful copy will do
    flip(folder / file, 1000)
    actual = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    for use in (SentenceEncoder().fit, SentenceEncoder().encode):
        with pytest.raises(EncoderError, match=f"{file} of {NEWS_MINILM} has sha256 {actual}, expected .*git checkout"):
            use(TEXTS)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v3", "", "sentence-transformers/all-MiniLM-L12-v2"])
def test_an_unknown_encoder_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(EncoderError) as refused:
        SentenceEncoder(name).fit(TEXTS)
    for part in (repr(name), NEWS_MINILM, "folder with model.onnx and tokenizer.json", "'hub:"):
        assert part in str(refused.value)


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused(file: str, published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "encoder")
    (folder / file).unlink()
    with pytest.raises(EncoderError, match=r"not a folder with model\.onnx and tokenizer\.json"):
        SentenceEncoder(str(folder)).fit(TEXTS)


def test_a_shipped_file_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.model.encoder.NEWS_MINILM_FOLDER", tmp_path)
    with pytest.raises(EncoderError, match=rf"model\.onnx of {NEWS_MINILM} .*No such file.*git checkout"):
        SentenceEncoder().fit(TEXTS)


def test_a_text_in_which_a_tokenizer_finds_nothing_gives_zeros(published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "encoder")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"] = None  # no marks for start and end
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    codes = SentenceEncoder(str(folder)).encode(["", "a text"])
    assert not codes[0].any() and codes[1].any()
    assert np.isfinite(decode(codes)).all()


def field(number: int, content: bytes | str | int) -> bytes:
    """One field of a protocol buffer; contents up to 127 bytes."""
    if isinstance(content, int):
        return (
            bytes([number << 3, content]) if number < 16 else bytes([number << 3 & 0x7F | 0x80, number >> 4, content])
        )
    content = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2, len(content)]) + content


def graph_without_token_states() -> bytes:
    """An ONNX graph that turns token numbers into as many floats: `Cast` of input_ids (texts, tokens)."""
    shape = field(2, field(1, field(2, "texts")) + field(1, field(2, "tokens")))
    values = [
        field(where, field(1, name) + field(2, field(1, field(1, kind) + shape)))
        for where, name, kind in ((11, "input_ids", 7), (12, "out", 1))
    ]
    to_float = field(5, field(1, "to") + field(3, 1) + field(20, 2))
    node = field(1, field(1, "input_ids") + field(2, "out") + field(4, "Cast") + to_float)
    graph = node + field(2, "g") + b"".join(values)
    return field(1, 8) + field(8, field(2, 13)) + bytes([7 << 3 | 2, len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("model.onnx", lambda _: b"not a graph", "model.onnx is not an ONNX model that can be run"),
        ("model.onnx", lambda old: old[:1_000_000], "model.onnx is not an ONNX model that can be run"),
        ("model.onnx", lambda old: old.replace(b"attention_mask", b"picture_pixels"), "picture_pixels.*wanted"),
        ("model.onnx", lambda _: graph_without_token_states(), "gives .*wanted is .* token states"),
        ("tokenizer.json", lambda _: b"{}", "tokenizer.json is not a Hugging Face tokenizer"),
    ],
    ids=["no graph", "half a graph", "other inputs", "other output", "no tokenizer"],
)
def test_files_that_are_no_encoder_are_refused_by_name(
    file: str, content: Any, complaint: str, published: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(published, tmp_path / "encoder")
    (folder / file).write_bytes(content((folder / file).read_bytes()))
    with pytest.raises(EncoderError, match=complaint):
        SentenceEncoder(str(folder)).encode(TEXTS)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own client with an empty cache, and a hub where nobody listens."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub" / "hub"


def downloaded(cache: Path, repository: str) -> Path:
    """The folder in which the hub's client keeps the files of a model that it has fetched before."""
    model = cache / f"models--{repository.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("a" * 40)
    return copy_into(model / "snapshots" / ("a" * 40), "onnx/model.onnx")


def test_a_hub_model_out_of_reach_is_refused_soon_and_clearly(no_network: Path) -> None:
    started = time.monotonic()
    with pytest.raises(EncoderError) as refused:
        SentenceEncoder("hub:nobody/nowhere").fit(TEXTS)
    assert time.monotonic() - started < 30
    for part in (
        "'hub:nobody/nowhere' could not be fetched",
        "onnection refused",
        "check the name and the network",
        NEWS_MINILM,
    ):
        assert part in str(refused.value)
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("name", ["hub:", "hub:a/b/c", "hub:--not a name--"])
def test_a_malformed_hub_name_is_refused(name: str, no_network: Path) -> None:
    with pytest.raises(EncoderError, match=f"encoder '{name}' could not be fetched .*check the name"):
        resolve_encoder(name)


def test_a_hub_model_fetched_before_needs_no_network(no_network: Path, encoder: SentenceEncoder) -> None:
    folder = downloaded(no_network, "owner/averaging")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    fetched = SentenceEncoder("hub:owner/averaging")
    np.testing.assert_array_equal(fetched.encode(TEXTS), encoder.encode(TEXTS))
    assert fetched.recipe == encoder.recipe


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs: one model, `some/encoder`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files, commit = self.server.files, "a" * 40
        path = self.path.partition("?")[0]
        name = path.removeprefix(f"/some/encoder/resolve/{commit}/")
        if path.startswith("/api/models/some/encoder"):
            entries = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
            siblings = [{"rfilename": name} for name in files]
            told = entries if "/tree/" in path else {"id": "some/encoder", "sha": commit, "siblings": siblings}
            self.answer(json.dumps(told).encode(), {"Content-Type": "application/json"})
        elif name in files:
            digest = hashlib.sha256(files[name]).hexdigest()
            self.answer(files[name], {"ETag": f'"{digest}"', "X-Repo-Commit": commit})
        else:
            self.send_error(404)

    def answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(no_network: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine; gives the folder of what its client has downloaded."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {
        "onnx/model.onnx": (published / "model.onnx").read_bytes(),
        "tokenizer.json": (published / "tokenizer.json").read_bytes(),
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "pytorch_model.bin": b"not wanted",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield no_network
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_downloaded_without_what_is_not_needed(hub: Path, encoder: SentenceEncoder) -> None:
    remote = SentenceEncoder("hub:some/encoder")
    np.testing.assert_array_equal(remote.encode(TEXTS), encoder.encode(TEXTS))
    assert remote.recipe == encoder.recipe
    assert list(hub.rglob("model.onnx")) and not list(hub.rglob("pytorch_model.bin"))


def test_a_hub_model_that_is_not_there_is_refused_by_name(hub: Path) -> None:
    with pytest.raises(EncoderError, match=rf"'hub:some/other' could not be fetched .*{NEWS_MINILM}"):
        SentenceEncoder("hub:some/other").fit(TEXTS)


def test_a_hub_model_that_does_not_average_is_refused(no_network: Path) -> None:
    folder = downloaded(no_network, "owner/first-token")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(EncoderError, match="owner/first-token' does not average its tokens"):
        SentenceEncoder("hub:owner/first-token").fit(TEXTS)
