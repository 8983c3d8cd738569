"""The corpora of real news and arguments: stand-off annotations, their texts not shipped, and what they evaluate."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from data.files import corpus_features
from data.hydrate import hydrated_texts
from data.passages import complete
from data.splits import hashed_share

FOLDER = Path(__file__).parent / "news"
FEATURES = FOLDER / "features.parquet"  # extracted features, one row a sha1
NEAR_DEV = ("u2296", "u5798")  # near-copies of passages of news dev, which must be new to every candidate
VALIDATION = 0.1  # share of the news documents that validate; news dev and the bundled corpus test
ARGUMENTS_VALIDATION = 0.12  # and of the documents in which people argue


@cache
def annotations(name: str) -> tuple[dict[str, Any], ...]:
    """The records of one of LEARNT, `dev` or `external`, as the file has them (see data/news/DATASHEET.md)."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def load_news(*names: str) -> Dataset:
    """The passages of sets (but for `NEAR_DEV` and `external`, which has no topics) with the columns of a corpus.

    `text` is null where it is not hydrated. A document is a set of articles that share a passage, so that no passage
    is in two splits.
    """
    records = [record for name in names for record in _records(name)]
    return Dataset.from_list(records, features=corpus_features())


def news_split(doc_id: str) -> str:
    """The split of a news document, by a hash of its id: 90% train, 10% validation, nothing for test."""
    return "train" if hashed_share(doc_id) < 1 - VALIDATION else "validation"


def arguments_split(doc_id: str) -> str:
    """The split of a document of `arguments`, whose id is a digest: 88% train, 12% validation.

    The encoder has learnt from the 88%: another rule would measure on what it knows.
    """
    return "train" if int(doc_id[:8], 16) / 2**32 >= ARGUMENTS_VALIDATION else "validation"


def always_train(doc_id: str) -> str:
    """For a corpus too small to be split."""
    return "train"


def _records(name: str) -> Iterator[dict[str, Any]]:
    texts = hydrated_texts(row["sha1"] for row in annotations(name))
    for row in annotations(name):
        if row["id"] in NEAR_DEV:
            continue
        agreed = row.get("topic_agreed", True) and row.get("stance_agreed", True)
        record = {**row, "doc_id": row["document"], "annotations": row["annotators"], "disputed": not agreed}
        yield {**complete(record), "text": texts.get(row["sha1"]), "sha1": row["sha1"]}
