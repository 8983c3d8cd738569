"""Which corpora there are, by name or as a user's own file, and how several become one split dataset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from data.files import READERS, corpus_features, read_passages
from data.news import always_train, arguments_split, load_news, news_split
from data.passages import InvalidPassages, Problem
from data.splits import SPLITS, split_of

BUNDLED = Path(__file__).parent / "corpus" / "passages.jsonl"
CONTRAST = Path(__file__).parent / "corpus" / "contrast.jsonl"
VOICES = Path(__file__).parent / "corpus" / "voices.jsonl"
OPINIONS = Path(__file__).parent / "corpus" / "opinions.jsonl"
CLAIMS = Path(__file__).parent / "corpus" / "claims.jsonl"


@dataclass(frozen=True)
class Corpus:
    """A named source of passages.

    `load` gives a dataset with the columns of `corpus_features()`; where texts may not be shipped, `text` is null.
    `split` maps a doc_id to train, validation or test; a corpus that comes with a fixed split brings its own function.
    """

    name: str
    load: Callable[[], Dataset]
    split: Callable[[str], str] = split_of


CORPORA: dict[str, Corpus] = {
    "bundled": Corpus("bundled", partial(read_passages, BUNDLED, "bundled")),
    # For probing, in no experiment that ships: sets of passages in nearly the same words with opposite stances, and
    # people who argue, each side in the other's words; and people who give their opinion as they come.
    "contrast": Corpus("contrast", partial(read_passages, CONTRAST, "contrast")),
    "voices": Corpus("voices", partial(read_passages, VOICES, "voices")),
    "opinions": Corpus("opinions", partial(read_passages, OPINIONS, "opinions")),
    # What debaters say, mostly in a sentence or two: the encoder has learnt from it.
    "claims": Corpus("claims", partial(read_passages, CLAIMS, "claims"), always_train),
    "news": Corpus("news", partial(load_news, "train", "rest"), news_split),
    "world": Corpus("world", partial(load_news, "world"), always_train),
    "arguments": Corpus("arguments", partial(load_news, "arguments"), arguments_split),
}


class UnknownCorpus(ValueError):
    """A name that is neither a corpus nor the path to a file of a format that can be read."""


def load_corpora(names: Sequence[str], base: Path = Path(), keep_disputed: bool = False) -> DatasetDict:
    """The corpora, mixed, as the splits train, validation and test, in the order given.

    A name is a key of CORPORA or the path to a file, relative to `base`. Each row has the columns of
    `corpus_features()` and `corpus`, its name as given. Disputed passages are left out of all splits unless asked for.
    Raises UnknownCorpus, UnreadableFile, or InvalidPassages with the problems of all corpora.
    """
    corpora = [_find(name, base) for name in _distinct(names)]
    loaded = _load_all(corpora)
    _check_ids(loaded)
    parts: dict[str, list[Dataset]] = {split: [_no_rows()] for split in SPLITS}
    for corpus, dataset in zip(corpora, loaded.values(), strict=True):
        splits = [corpus.split(doc_id) for doc_id in dataset["doc_id"]]
        kept = [keep_disputed or not disputed for disputed in dataset["disputed"]]
        for split in SPLITS:
            rows = [row for row, own in enumerate(splits) if own == split and kept[row]]
            parts[split].append(_part(dataset, rows, corpus.name))
    return DatasetDict({split: concatenate_datasets(datasets) for split, datasets in parts.items()})


def load_bundled() -> Dataset:
    """All passages of the bundled corpus in the file's order, disputed ones included."""
    return CORPORA["bundled"].load()


def _distinct(names: Sequence[str]) -> Sequence[str]:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated or not names or isinstance(names, str):
        raise UnknownCorpus(f"corpora {names!r}: give a list of at least one corpus, each once; {_choices()}")
    return names


def _find(name: str, base: Path) -> Corpus:
    if name in CORPORA:
        return CORPORA[name]
    path = base / name
    if path.suffix in READERS:
        return Corpus(name, partial(read_passages, path, name))
    raise UnknownCorpus(f"unknown corpus {name!r}; {_choices()}")


def _choices() -> str:
    return f"choose one of {', '.join(sorted(CORPORA))}, or the path to a {', '.join(READERS)} file"


def _load_all(corpora: Sequence[Corpus]) -> dict[str, Dataset]:
    loaded: dict[str, Dataset] = {}
    problems: list[Problem] = []
    for corpus in corpora:
        try:
            loaded[corpus.name] = corpus.load()
        except InvalidPassages as error:
            problems += error.problems
    if problems:
        raise InvalidPassages(problems)
    return loaded


def _check_ids(loaded: Mapping[str, Dataset]) -> None:
    owner: dict[str, str] = {}
    problems = []
    for name, dataset in loaded.items():
        for row, passage in enumerate(dataset["id"], start=1):
            other = owner.setdefault(passage, name)
            if other != name:
                remedy = f"also the id of a passage in {other}; rename one, or leave one corpus out"
                problems.append(Problem(name, row, "id", passage, remedy))
    if problems:
        raise InvalidPassages(problems)


def _split_features() -> Features:
    return Features({**corpus_features(), "corpus": Value("string")})


def _no_rows() -> Dataset:
    return Dataset.from_dict({column: [] for column in _split_features()}, features=_split_features())


def _part(dataset: Dataset, rows: Sequence[int], name: str) -> Dataset:
    return Dataset.from_dict({**dataset[rows], "corpus": [name] * len(rows)}, features=_split_features())
