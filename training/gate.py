"""Whether a winner may become champion: not worse than the present one, and no label below its floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation import Interval, Labels, Report, by_document, macro_f1, resample
from training.experiment import Gate


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, with the reasons in words and the figures behind them."""

    passed: bool
    reasons: tuple[str, ...]
    difference: Interval | None = None  # mean macro-F1, winner minus champion; None where there is no champion
    champion: str | None = None  # the version compared with

    def tags(self) -> dict[str, str]:
        """The verdict as tags of a model version."""
        tags = {"gate": "passed" if self.passed else "refused", "gate_reasons": "; ".join(self.reasons)}
        if self.difference is not None and self.champion is not None:
            tags |= {"gate_champion": self.champion, "gate_difference": str(self.difference)}
        return tags


def compare(
    true: Labels, winner: Labels, champion: Labels, documents: Sequence[str], n_labels: tuple[int, int], resamples: int,
    seed: int,
) -> Interval:  # fmt: skip
    """Mean of the topic's and the stance's macro-F1, winner minus champion, with its 95% interval.

    The labels have the shape (passages, 2), topic and stance. The bootstrap is paired: each draw of documents scores
    both models.
    """

    def mean_f1(predicted: Labels, draws: Labels) -> np.ndarray:
        heads = []
        for column, labels in enumerate(n_labels):
            confusions = by_document(true[:, column], predicted[:, column], documents, labels)
            heads.append(macro_f1(np.tensordot(draws, confusions, axes=1)))
        return np.asarray(np.mean(heads, axis=0))

    n_documents = len(set(documents))
    draws = resample(n_documents, resamples, seed)
    once = np.ones((1, n_documents), np.int64)
    low, high = np.percentile(mean_f1(winner, draws) - mean_f1(champion, draws), [2.5, 97.5])
    value = mean_f1(winner, once) - mean_f1(champion, once)
    return Interval(float(value[0]), float(low), float(high))


def judge(
    gate: Gate, reports: Mapping[str, Report], difference: Interval | None = None, champion: str | None = None
) -> Verdict:
    """Judge a winner by its reports on the validation split (`topic`, `stance`) and its difference to the champion.

    It is worse if the difference lies below `-gate.margin`, or if the whole interval lies below 0. A label that the
    split does not hold has no floor.
    """
    reasons = []
    for head, floor in (("topic", gate.topic_floor), ("stance", gate.stance_floor)):
        for label, figures in reports[head].per_class.items():
            if figures["support"] and figures["f1"] < floor:
                reasons.append(f"{head} {label} has F1 {figures['f1']:.3f}, its floor is {floor:g}")
    if difference is not None and (difference.value < -gate.margin or difference.high < 0):
        against = f"mean macro-F1 differs by {difference} from champion version {champion}"
        reasons.append(f"{against}; at most {gate.margin:g} may be lost")
    if reasons:
        return Verdict(False, tuple(reasons), difference, champion)
    if difference is None:
        return Verdict(True, ("no label is below its floor, and there is no champion to compare with",))
    reason = f"no label is below its floor; mean macro-F1 differs by {difference} from champion version {champion}"
    return Verdict(True, (reason,), difference, champion)
