"""Extracted features of passages whose texts are not shipped: a cache that comes filled, for one recipe only."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from data.hydrate import LEARNT, hydrated_texts
from data.news import FEATURES, annotations
from training.cache import sha1
from training.candidates import hashed_words
from training.model.encoder import Codes, SentenceEncoder

SCHEMA = pa.schema(
    [
        ("sha1", pa.string()),
        ("embedding", pa.binary()),  # int8, one byte a dimension
        ("columns", pa.list_(pa.int32())),  # hashed lower-case words, sorted: their order in the text is gone
        ("counts", pa.list_(pa.uint16())),
    ]
)
RECIPE = b"recipe"


class ShippedFeatures:
    """The features of one Parquet file, by the sha1 of the text; read at first use."""

    def __init__(self, path: Path = FEATURES) -> None:
        self.path = path

    def serves(self, extractor: Any) -> bool:
        """Whether the features were made by just this extractor: same files, parameters and hash."""
        return extractor.recipe in self.recipes

    def holds(self, key: str) -> bool:
        """Whether the text with this sha1 is among them."""
        return key in self._position

    def rows(self, extractor: Any, keys: Sequence[str]) -> Any:
        """As `extractor.encode(texts)` or `extractor.transform(texts)` would give for the texts with these sha1.

        Raises:
            ValueError: another recipe than that of the features.
            KeyError: a sha1 that is not among them.
        """
        if not self.serves(extractor):
            state = f"was made by {', '.join(self.recipes)}" if self.recipes else "is missing"
            raise ValueError(
                f"{self.path} {state}, and does not serve {extractor.recipe}; "
                "`make data` and `make features` make it anew"
            )
        at = [self._position[key] for key in keys]
        if isinstance(extractor, SentenceEncoder):
            return self._codes[at]
        return self._words[at]

    @cached_property
    def recipes(self) -> tuple[str, ...]:
        """The recipes of the encoder and of the words."""
        return tuple(json.loads(self._table.schema.metadata[RECIPE])) if self.path.is_file() else ()

    @cached_property
    def _table(self) -> pa.Table:
        return pq.read_table(self.path)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {key: at for at, key in enumerate(self._table["sha1"].to_pylist())}

    @cached_property
    def _codes(self) -> Codes:
        rows = self._table["embedding"].to_pylist()
        return np.frombuffer(bytearray().join(rows), np.int8).reshape(len(rows), -1)

    @cached_property
    def _words(self) -> Any:
        columns = self._table["columns"].combine_chunks()
        counts = self._table["counts"].combine_chunks().flatten().to_numpy().astype(np.float32)
        shape = (len(columns), hashed_words().n_features)
        offsets = columns.offsets.to_numpy()
        return sp.csr_matrix((counts, columns.flatten().to_numpy(), offsets), shape=shape)


def build(texts: Mapping[str, str], path: Path = FEATURES) -> int:
    """Write the features of the annotated passages; gives how many were extracted from their texts.

    `texts` maps sha1 to text. A passage without text keeps the features that the file already has, if of this recipe.
    Rows are sorted by sha1, so that the same texts give the same bytes.
    """
    encoder, words = SentenceEncoder(), hashed_words()
    keys = sorted({row["sha1"] for name in (*LEARNT, "dev", "external") for row in annotations(name)})
    fresh = [key for key in keys if key in texts]
    if wrong := [key for key in fresh if sha1(texts[key]) != key]:
        raise ValueError(f"{len(wrong)} texts are not those of their sha1, the first {wrong[0]}; run `make data` again")
    rows: dict[str, tuple[bytes, Any, Any]] = {}
    if fresh:
        codes = encoder.encode([texts[key] for key in fresh])
        counts = words.transform([texts[key] for key in fresh])
        rows = {key: _row(codes[at], counts[at]) for at, key in enumerate(fresh)}
    old = ShippedFeatures(path)
    if path.is_file() and old.serves(encoder) and old.serves(words):
        kept = [key for key in keys if key not in rows and old.holds(key)]
        codes, counts = old.rows(encoder, kept), old.rows(words, kept)
        rows |= {key: _row(codes[at], counts[at]) for at, key in enumerate(kept)}
    if missing := [key for key in keys if key not in rows]:
        raise ValueError(f"{len(missing)} passages have neither text nor features; `make data` fetches what is public")
    columns = zip(*(rows[key] for key in keys), strict=True)
    metadata = {RECIPE: json.dumps([encoder.recipe, words.recipe]).encode()}
    table = pa.Table.from_arrays([pa.array(keys), *map(pa.array, columns)], schema=SCHEMA.with_metadata(metadata))
    temporary = path.with_suffix(".part")
    pq.write_table(table, temporary, compression="zstd", compression_level=19)
    temporary.replace(path)
    return len(fresh)


def _row(codes: Codes, counts: Any) -> tuple[bytes, Any, Any]:
    return codes.tobytes(), counts.indices.tolist(), counts.data.astype(int).tolist()


def main() -> int:
    """`python -m training.features`: the features anew from hydrated texts, as far as there are any."""
    keys = {row["sha1"] for name in (*LEARNT, "dev") for row in annotations(name)}
    try:
        extracted = build(hydrated_texts(keys))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{FEATURES}: {extracted:,} passages extracted from their texts, the others kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
