"""Which split a document falls in, whether splits leak into one another, and the figures and digest that pin them."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from sklearn.feature_extraction.text import CountVectorizer

SPLITS = ("train", "validation", "test")
SALT = "immigration-news/split/1:"
SHINGLE = 5  # words
SHOWN = 50  # pairs printed; `LeakingSplits.pairs` holds them all


@dataclass(frozen=True)
class NearDuplicate:
    """Two passages of different splits; `similarity` is the Jaccard index of their word 5-grams, 0 to 1."""

    first_id: str
    first_split: str
    second_id: str
    second_split: str
    similarity: float

    def __str__(self) -> str:
        first, second = f"{self.first_id} ({self.first_split})", f"{self.second_id} ({self.second_split})"
        return f"{first} and {second}: similarity {self.similarity:.2f}"


class LeakingSplits(ValueError):
    """Near-duplicates across splits; the message prints the first `SHOWN` pairs, `pairs` holds them all."""

    def __init__(self, pairs: list[NearDuplicate]) -> None:
        self.pairs = tuple(pairs)
        lines = [
            f"{len(pairs)} pair(s) of near-duplicates across splits; give both passages one doc_id, or drop one:",
            *map(str, pairs[:SHOWN]),
        ]
        if len(pairs) > SHOWN:
            lines.append(f"and {len(pairs) - SHOWN} more")
        super().__init__("\n  ".join(lines))


def split_of(doc_id: str) -> str:
    """The split of a document: 70% train, 15% validation, 15% test, by a hash of its id and of nothing else."""
    share = hashed_share(doc_id)
    return "train" if share < 0.70 else "validation" if share < 0.85 else "test"


def hashed_share(doc_id: str) -> float:
    """A number in [0, 1) that depends on the id alone, evenly spread over ids."""
    return int(hashlib.sha256((SALT + doc_id).encode("utf-8")).hexdigest()[:8], 16) / 2**32


def near_duplicates(dataset_dict: DatasetDict, threshold: float = 0.8) -> list[NearDuplicate]:
    """The pairs of passages in different splits at or above the threshold (above 0, to 1), in the order of the rows.

    Compares the sets of word 5-grams of the case-folded texts without punctuation; a shorter text is one shingle, and a
    passage without text is compared by its `sha1`.
    """
    # Shared 5-grams are counted by a sparse product, which is exact: MinHash LSH at 0.8 (128 permutations, 9 bands of
    # 13) finds only 40% of the pairs at 0.8. It is about as fast too, since nearly all 5-grams occur only once.
    vectoriser = CountVectorizer(analyzer=_shingles, binary=True, dtype=np.int32)
    passages = [row for split in dataset_dict.values() for row in split.select_columns(["text", "sha1"])]
    if not passages:
        return []
    shingles = vectoriser.fit_transform(passages)
    sizes = np.diff(shingles.indptr)
    ends = np.cumsum([split.num_rows for split in dataset_dict.values()])
    spans = {
        name: slice(end - split.num_rows, end) for (name, split), end in zip(dataset_dict.items(), ends, strict=True)
    }
    pairs = []
    for first, second in combinations(dataset_dict, 2):
        shared = (shingles[spans[first]] @ shingles[spans[second]].T).tocoo()
        similarity = shared.data / (sizes[spans[first]][shared.row] + sizes[spans[second]][shared.col] - shared.data)
        close = np.flatnonzero(similarity >= threshold)
        ids = dataset_dict[first]["id"][:], dataset_dict[second]["id"][:]
        for at in close[np.lexsort((shared.col[close], shared.row[close]))]:
            left, right = ids[0][int(shared.row[at])], ids[1][int(shared.col[at])]
            pairs.append(NearDuplicate(left, first, right, second, float(similarity[at])))
    return pairs


def refuse_near_duplicates(dataset_dict: DatasetDict, threshold: float = 0.8) -> None:
    """Raises LeakingSplits, which names every pair, if two splits hold nearly the same passage."""
    pairs = near_duplicates(dataset_dict, threshold)
    if pairs:
        raise LeakingSplits(pairs)


def describe_split(dataset_dict: DatasetDict) -> dict[str, dict[str, Any]]:
    """For each split the counts `passages`, `documents`, `topics` and `stances`; the last two by label, zeros kept."""
    return {
        split: {
            "passages": dataset.num_rows,
            "documents": len(set(dataset["doc_id"])),
            "topics": _label_counts(dataset, "topic"),
            "stances": _label_counts(dataset, "stance"),
        }
        for split, dataset in dataset_dict.items()
    }


def digest(dataset: Dataset | DatasetDict) -> str:
    """SHA-256, in hexadecimal, of the ids, documents, text hashes and labels, whatever the order of the rows."""
    parts = dataset.values() if isinstance(dataset, DatasetDict) else [dataset]
    lines = sorted(line for part in parts for line in _digest_lines(part))
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def _digest_lines(dataset: Dataset) -> Iterator[str]:
    topics, stances = dataset.features["topic"], dataset.features["stance"]
    columns = ["id", "doc_id", "sha1", "topic", "secondary_topic", "stance"]
    for row in dataset.select_columns(columns):
        row |= {"topic": topics.int2str(row["topic"]), "stance": stances.int2str(row["stance"])}
        yield json.dumps([row[column] for column in columns])  # names, so that a new label renumbers nothing


def _label_counts(dataset: Dataset, column: str) -> dict[str, int]:
    counts = Counter(dataset[column])
    return {name: counts[number] for number, name in enumerate(dataset.features[column].names)}


def _shingles(passage: dict[str, Any]) -> list[str]:
    if passage["text"] is None:
        return [passage["sha1"]]
    words = re.findall(r"\w+", passage["text"].casefold()) or [passage["text"].strip()]
    return [" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))]
