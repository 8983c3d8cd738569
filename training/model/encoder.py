"""Sentence encoders: ONNX files turned into a scikit-learn transformer, without torch and without a hub."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval

from training.model.groups import DIGEST, blind, unquoted

Codes = npt.NDArray[np.int8]
Embeddings = npt.NDArray[np.float32]

NEWS_MINILM = "news-MiniLM"  # this project's own, made by training/tune.py
NEWS_MINILM_FOLDER = Path(__file__).parents[1] / "encoder"
NEWS_MINILM_SHA256 = {
    "model.onnx": "0be45c98b92ae5dbfdcbe3d8badd0fde8439955156ce195388de1d752ca010dc",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
HUB_PREFIX = "hub:"
HUB_FILES = ("tokenizer.json", "onnx/model.onnx", "1_Pooling/config.json")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class EncoderError(ValueError):
    """An encoder's files are missing, changed or of the wrong shape."""


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder's two files lie: the ONNX graph (token states out) and the Hugging Face tokenizer."""

    model: Path
    tokenizer: Path

    @property
    def sha256(self) -> dict[str, str]:
        """Digest of each file as it lies there now, by the name it has inside a model folder."""
        return {"model.onnx": _sha256(self.model), "tokenizer.json": _sha256(self.tokenizer)}


def _sha256(path: Path) -> str:
    """A file is read again only if it is another one or was written since: no one can set the time of change."""
    file = path.stat()
    return _digest(path, (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns))


@lru_cache(maxsize=64)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def resolve_encoder(name: str) -> EncoderFiles:
    """Find the files of an encoder.

    Args:
        name: `news-MiniLM` (this project's own, shipped with it), a folder that holds `model.onnx` and `tokenizer.json`
            (`onnx/model.onnx` as sentence-transformers lays them out is found too), or `hub:<owner>/<model>` for a
            sentence-transformers model of the Hugging Face hub (the only case that uses the network).

    Raises:
        EncoderError: unknown name, missing file, a digest other than the published one, or a model of the hub that
            does not average its tokens.
    """
    if name == NEWS_MINILM:
        files = EncoderFiles(NEWS_MINILM_FOLDER / "model.onnx", NEWS_MINILM_FOLDER / "tokenizer.json")
        for file, expected in NEWS_MINILM_SHA256.items():
            try:
                actual = files.sha256[file]
            except OSError as error:
                actual = f"none ({error})"
            if actual != expected:
                raise EncoderError(
                    f"{file} of {name} has sha256 {actual}, expected {expected}: restore it (`git checkout "
                    f"training/encoder`), or name a folder as the encoder"
                )
        return files
    folder = _from_hub(name.removeprefix(HUB_PREFIX)) if name.startswith(HUB_PREFIX) else Path(name)
    for model in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if model.is_file() and (folder / "tokenizer.json").is_file():
            return EncoderFiles(model, folder / "tokenizer.json")
    raise EncoderError(
        f"encoder {name!r}: not {NEWS_MINILM!r}, not a folder with model.onnx and tokenizer.json, "
        f"and not a hub name such as 'hub:sentence-transformers/all-MiniLM-L12-v2'"
    )


@lru_cache(maxsize=16)
def _from_hub(repository: str) -> Path:
    """Download the files with the hub's own client, in a process of its own that may go online."""
    code = (
        "import json, sys; from huggingface_hub import snapshot_download; "
        "print(snapshot_download(sys.argv[1], allow_patterns=json.loads(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, repository, json.dumps(HUB_FILES)]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line[:1].strip() and "Error" in line]
        raise EncoderError(
            f"encoder '{HUB_PREFIX}{repository}' could not be fetched ({(reasons or ['no answer'])[-1]}); check the "
            f"name and the network, or name {NEWS_MINILM!r} or a folder with model.onnx and tokenizer.json"
        )
    folder = Path(done.stdout.strip().splitlines()[-1])
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file() and not json.loads(pooling.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
        raise EncoderError(
            f"encoder '{HUB_PREFIX}{repository}' does not average its tokens ({pooling}); choose one that does, such "
            f"as {NEWS_MINILM!r} or '{HUB_PREFIX}sentence-transformers/all-MiniLM-L12-v2'"
        )
    return folder


@lru_cache(maxsize=4)
def _open(files: EncoderFiles, sha256: tuple[str, str], max_tokens: int) -> tuple[Any, Any]:
    """ONNX session (one thread a call) and tokenizer, shared by all encoders of these files.

    What is checked is what is run: the bytes are read once, hashed, and opened from memory.
    """
    import onnxruntime
    from tokenizers import Tokenizer

    model, tokenizer = files.model.read_bytes(), files.tokenizer.read_bytes()
    for path, content, expected in zip((files.model, files.tokenizer), (model, tokenizer), sha256, strict=True):
        if (actual := hashlib.sha256(content).hexdigest()) != expected:
            raise EncoderError(f"{path} changed while it was read: sha256 {actual}, expected {expected}; run it again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and need not be printed too
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, which share no base class
        raise EncoderError(f"{files.model} is not an ONNX model that can be run ({error}); export it again") from None
    try:
        opened = Tokenizer.from_buffer(tokenizer)
    except Exception as error:  # tokenizers raises bare Exception
        raise EncoderError(f"{files.tokenizer} is not a Hugging Face tokenizer ({error}); export it again") from None
    inputs, shape = [node.name for node in session.get_inputs()], session.get_outputs()[0].shape
    if not set(inputs) <= set(INPUTS) or len(shape) != 3 or not isinstance(shape[-1], int):
        raise EncoderError(
            f"{files.model} takes {', '.join(inputs)} and gives {shape}; wanted is a graph that takes none but "
            f"{', '.join(INPUTS)} and gives token states of shape (texts, tokens, a fixed number)"
        )
    opened.no_padding()
    opened.enable_truncation(max_tokens)
    return session, opened


class SentenceEncoder(TransformerMixin, BaseEstimator):
    """Texts to unit-length sentence embeddings: the mean of the token states, kept at 8 bits a dimension.

    Each text is encoded on its own (two texts never share a batch), so its embedding does not depend on its neighbours;
    threads work on different texts. Rounding to 8 bits makes a stored feature equal to a fresh one (see `encode`).

    Parameters:
        model: as for `resolve_encoder`.
        max_tokens: longer texts are cut here; at most what the model was made for (512 for MiniLM).
        threads: texts encoded at once.
        blind_groups: hide which nation or faith a text names (see `blind`).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str],
        "max_tokens": [Interval(Integral, 3, None, closed="left")],
        "threads": [Interval(Integral, 1, None, closed="left")],
        "blind_groups": ["boolean"],
    }
    _held: tuple[Any, Any] | None = None

    def __init__(
        self, model: str = NEWS_MINILM, max_tokens: int = 256, threads: int = 2, blind_groups: bool = True
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.threads = threads
        self.blind_groups = blind_groups

    def fit(self, X: Sequence[str], y: object = None) -> Self:
        """Learns nothing (stateless); checks the parameters and that the encoder's files are there and unchanged."""
        self._validate_params()
        resolve_encoder(self.model)
        return self

    def transform(self, X: Iterable[str]) -> Embeddings:
        """Shape (texts, dimensions), rows of length 1, in the order of the texts."""
        return decode(self.encode(X))

    def encode(self, X: Iterable[str]) -> Codes:
        """The stored form, int8 of shape (texts, dimensions): each row scaled so that its largest entry is 127.

        A text in which the tokenizer finds nothing, not even marks of its own, gives zeros.
        """
        self._validate_params()
        texts = as_texts(X)
        session, tokenizer = self._runtime
        if not texts:
            return np.zeros((0, self.dimensions), np.int8)
        shown = [blind(text) for text in texts] if self.blind_groups else texts
        tokens = [encoding.ids for encoding in tokenizer.encode_batch([_printable(unquoted(text)) for text in shown])]
        inputs = [node.name for node in session.get_inputs()]

        def one(ids: list[int]) -> Codes:
            if not ids:
                return np.zeros(self.dimensions, np.int8)
            ids_ = np.asarray([ids], np.int64)
            feed = dict(zip(INPUTS, (ids_, np.ones_like(ids_), np.zeros_like(ids_)), strict=True))
            try:
                states = session.run(None, {name: feed[name] for name in inputs})[0][0]
            except Exception as error:  # onnxruntime's own, which share no base class
                raise EncoderError(
                    f"{self.model} cannot read {len(ids)} tokens at once; lower max_tokens={self.max_tokens} "
                    f"({str(error).splitlines()[0]})"
                ) from None
            mean = states.mean(axis=0)
            codes: Codes = np.rint(mean * (127 / np.abs(mean).max())).astype(np.int8)
            return codes

        if len(tokens) == 1 or self.threads == 1:
            return np.stack([one(ids) for ids in tokens])
        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(one, tokens)))

    def hold_open(self) -> None:
        """Open the files now, once: whatever becomes of them, this object answers on as it does now."""
        self._held = self._runtime

    @property
    def recipe(self) -> str:
        """What an embedding depends on besides the text: files, `max_tokens`, groups hidden, quotation marks off."""
        digests = "".join(sorted(resolve_encoder(self.model).sha256.values()))
        groups = DIGEST if self.blind_groups else "shown"
        return f"{hashlib.sha256(digests.encode()).hexdigest()[:16]}-{self.max_tokens}-{groups}-unquoted"

    @property
    def dimensions(self) -> int:
        """Length of one embedding."""
        return int(self._runtime[0].get_outputs()[0].shape[-1])

    @property
    def _runtime(self) -> tuple[Any, Any]:
        """ONNX session and tokenizer. Kept outside the object, which so travels to other processes and into files."""
        if self._held is not None:
            return self._held
        files = resolve_encoder(self.model)
        digests = files.sha256
        return _open(files, (digests["model.onnx"], digests["tokenizer.json"]), self.max_tokens)

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_held"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []  # float32 whatever comes
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        return tags


def decode(codes: Codes) -> Embeddings:
    """Stored codes (texts, dimensions) to the unit-length float32 rows that the heads read."""
    rows = codes.astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def as_texts(X: Iterable[str]) -> list[str]:
    """The texts as a list. Raises ValueError unless X is one-dimensional and holds nothing but strings."""
    if isinstance(X, (str, bytes)) or getattr(X, "ndim", 1) != 1:
        raise ValueError(f"SentenceEncoder reads a list of texts, got {type(X).__name__}; give [text] or a column")
    texts = list(X)
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"SentenceEncoder reads strings, got {type(text).__name__} at position {at} ({str(text)[:40]!r})"
            )
    return texts


def _printable(text: str) -> str:
    """The tokenizer needs UTF-8, which has no lone surrogates: they become U+FFFD; pairs become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
