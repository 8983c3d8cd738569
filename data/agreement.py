"""How far two annotators who worked blind agree on topic and stance, overall and label by label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from nltk.metrics.agreement import AnnotationTask
from sklearn.metrics import cohen_kappa_score

from data.codebook import load_codebook
from data.corpora import load_bundled


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement on one label against the rest; `first` and `second` count how often each annotator gave it.

    `raw` is the share of passages on which both say yes or both say no. Cohen's `kappa` and Krippendorff's `alpha`
    (nominal) are at most 1, 0 at chance level, and nan where only one value was ever given.
    """

    label: str
    first: int
    second: int
    raw: float
    kappa: float
    alpha: float


@dataclass(frozen=True)
class TaskAgreement:
    """Agreement on topic or stance: over all labels, and for each label in the codebook's order."""

    task: str
    raw: float
    kappa: float
    alpha: float
    labels: tuple[LabelAgreement, ...]


@dataclass(frozen=True)
class Agreement:
    """Agreement on the `passages` that carry exactly two annotations."""

    passages: int
    topic: TaskAgreement
    stance: TaskAgreement


def agreement(dataset: Dataset) -> Agreement:
    """The agreement of the first annotator with the second; passages without exactly two annotations do not count.

    Raises ValueError if there is no passage with two.
    """
    pairs = [readings for readings in dataset["annotations"] if len(readings) == 2]
    if not pairs:
        raise ValueError(f"none of {dataset.num_rows} passages has two annotations; agreement needs at least one")
    codebook = load_codebook()

    def task(name: str, labels: Sequence[str]) -> TaskAgreement:
        codes = np.array([[labels.index(reading[name]) for reading in pair] for pair in pairs]).T
        return _task_agreement(name, codes, labels)

    return Agreement(len(pairs), task("topic", codebook.topic_names), task("stance", codebook.stance_names))


def as_markdown(result: Agreement) -> str:
    """The agreement as one Markdown table a task, figures to three places."""
    return "\n\n".join(_table(task, result.passages) for task in (result.topic, result.stance))


def _task_agreement(task: str, codes: np.ndarray, labels: Sequence[str]) -> TaskAgreement:
    """`codes` has the shape (2, passages) and holds the positions of the given labels."""
    each = []
    for code, label in enumerate(labels):
        given = (codes == code).astype(int)
        first, second = (int(count) for count in given.sum(axis=1))
        each.append(LabelAgreement(label, first, second, *_coefficients(given)))
    return TaskAgreement(task, *_coefficients(codes), tuple(each))


def _coefficients(codes: np.ndarray) -> tuple[float, float, float]:
    """Raw agreement, Cohen's kappa and Krippendorff's alpha; chance is undefined where there is one value only."""
    raw = float(np.mean(codes[0] == codes[1]))
    if len(np.unique(codes)) == 1:
        return raw, math.nan, math.nan
    kappa = float(cohen_kappa_score(codes[0], codes[1]))
    answers = [(coder, item, int(code)) for coder, row in enumerate(codes) for item, code in enumerate(row)]
    return raw, kappa, float(AnnotationTask(answers).alpha())  # nominal: two labels differ or they do not


def _table(task: TaskAgreement, passages: int) -> str:
    lines = [
        f"| {task.task} | first | second | raw agreement | Cohen's kappa | Krippendorff's alpha |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        f"| all labels | {passages} | {passages} | {_figures(task)} |",
    ]
    lines += [f"| `{label.label}` | {label.first} | {label.second} | {_figures(label)} |" for label in task.labels]
    return "\n".join(lines)


def _figures(row: TaskAgreement | LabelAgreement) -> str:
    return " | ".join("–" if math.isnan(figure) else f"{figure:.3f}" for figure in (row.raw, row.kappa, row.alpha))


if __name__ == "__main__":
    print(as_markdown(agreement(load_bundled())))
