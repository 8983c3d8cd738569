"""What the passages of one article say together: shares of topics and stances, and the balance of the stances.

The passages of one article are not independent. The intervals take them as a sample of the outlet's wording; they
describe this article, and are a lower bound on the uncertainty of any wider claim.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field
from scipy.stats import binomtest

CONFIDENCE = 0.95
SIDES = {"supportive": 1, "restrictive": -1}
# Enough for a 95% percentile interval to two decimal places.
DRAWS = 2_000
SEED = 20_240


class Share(BaseModel):
    """How many passages bear a label, their share, and its 95% interval (Wilson)."""

    count: int
    share: float
    low: float
    high: float


class Balance(BaseModel):
    """The mean stance, from -1 (restrictive) to 1 (supportive), and its 95% interval; null with nothing on topic."""

    value: float | None
    low: float | None
    high: float | None


class Summary(BaseModel):
    """One article: `topics` are shares of all passages, `stances` of those on topic."""

    passages: int
    on_topic: int = Field(description="passages with a stance: all but those that are off topic")
    abstained: int
    topics: dict[str, Share]
    stances: dict[str, Share]
    stance_balance: Balance


def summarise(
    topics: Sequence[str],
    stances: Sequence[str | None],
    abstained: Sequence[bool],
    topic_names: Sequence[str],
    stance_names: Sequence[str],
) -> Summary:
    """Sum up an article's readings, one a passage; a passage off topic has no stance.

    Raises:
        ValueError: lists of different length, or a label that the codebook lacks.
    """
    if not len(topics) == len(stances) == len(abstained):
        lengths = f"{len(topics)}, {len(stances)} and {len(abstained)}"
        raise ValueError(f"topics, stances and abstained have {lengths} entries; give one of each a passage")
    held = [stance for stance in stances if stance is not None]
    return Summary(
        passages=len(topics),
        on_topic=len(held),
        abstained=sum(map(bool, abstained)),
        topics=_shares("topic", topics, topic_names),
        stances=_shares("stance", held, stance_names),
        stance_balance=_balance(held),
    )


def _shares(kind: str, labels: Sequence[str], names: Sequence[str]) -> dict[str, Share]:
    if unknown := sorted(set(labels) - set(names)):
        raise ValueError(f"unknown {kind} {unknown[0]!r}; the codebook has {', '.join(names)}: use one of these")
    return {name: _share(labels.count(name), len(labels)) for name in names}


def _share(count: int, total: int) -> Share:
    if not total:
        return Share(count=0, share=0.0, low=0.0, high=1.0)
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count=count, share=count / total, low=float(interval.low), high=float(interval.high))


def _balance(stances: Sequence[str]) -> Balance:
    """The mean with a percentile bootstrap over passages.

    To draw passages with replacement is to draw how many there are of each side, so one multinomial draw does for all.
    """
    total = len(stances)
    if not total:
        return Balance(value=None, low=None, high=None)
    counts = np.array([stances.count(side) for side in SIDES])
    shares = np.append(counts, total - counts.sum()) / total
    draws = np.random.default_rng(SEED).multinomial(total, shares, DRAWS)[:, :-1]
    weights = np.array(list(SIDES.values()))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws @ weights / total, [tail, 1 - tail])
    return Balance(value=float(counts @ weights / total), low=float(low), high=float(high))
