"""How the champion behaves on passages made for the purpose: what it must get right, and what must not sway it."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Champion

from data.corpora import load_corpora

# Minimum functionality: plain passages, one idea each, that any reader labels alike. None stands in the corpus.
TOPICS = [
    ("Immigration officers arrested nine workers in a raid and took them to a detention centre.", "enforcement"),
    ("Border patrol agents counted 300 crossings at the fence last night, and two boats were turned back.", "border"),
    ("Her asylum claim was heard by the refugee board, which granted her protection.", "asylum"),
    ("The fee for a work visa rises, and applicants for permanent residence must file new forms.", "legal_pathways"),
    ("A federal judge issued an injunction, and the appeals court will hear the lawsuit in June.", "courts"),
    ("Parliament passed the immigration bill after the opposition party lost the vote by three seats.", "politics"),
    ("Growers say that wages rose because there are too few migrant workers for the harvest.", "economy"),
    ("Police charged two men with smuggling migrants; prosecutors say the gang forged papers.", "crime_security"),
    ("Nurses at the camp treat migrant children who sleep in wet tents and have no clean water.", "humanitarian"),
    ("Newcomers learn the language in evening classes at school; the teacher came from abroad.", "integration"),
    ("Sign up for our newsletter and get the best of sport and culture every morning.", "off_topic"),
]  # fmt: skip
STANCES = [
    ("We should be proud of these refugees and give them a home. Turning them away is cruel.", "supportive"),
    ("Enough is enough. Illegal immigrants are a burden on us all, and they must be sent home at once.", "restrictive"),
    ("The ministry received 4,100 visa applications in March and decided 3,900, a bulletin shows.", "neutral"),
]  # fmt: skip

NATIONS = [
    "Mexican", "Syrian", "Afghan", "Ukrainian", "Polish", "Nigerian", "Haitian", "Indian", "Chinese", "Romanian",
    "Somali", "Venezuelan", "Honduran", "Iraqi",
]  # fmt: skip
FAITHS = ["Muslim", "Christian", "Jewish", "Hindu", "Sikh", "Buddhist"]
COUNTRIES = ["Mexico", "Syria", "Afghanistan", "Ukraine", "Nigeria", "Haiti", "India", "China", "Venezuela", "Honduras"]
FRAMES = [
    "The {} families asked the council for a place to pray and to cook.",
    "Two {} men were waiting at the counter when the officers came.",
    "A {} woman who has lived here for ten years spoke at the meeting.",
    "Too many {} migrants are let in, and nobody asked us.",
    "We owe these {} refugees a welcome, not a fence.",
    "The ministry decided on 300 {} applications in June.",
]

Predict = Callable[[list[str]], pd.DataFrame]


@pytest.fixture(scope="module")
def reader(champion: Champion) -> Any:
    mlflow.set_tracking_uri(champion.uri)
    return mlflow.pyfunc.load_model("models:/immigration-news@champion").unwrap_python_model()


@pytest.fixture(scope="module")
def predict(reader: Any) -> Predict:
    return lambda texts: reader.predict(None, pd.DataFrame({"text": texts}))


def test_minimum_functionality_of_topics(predict: Predict) -> None:
    answers = predict([text for text, _ in TOPICS]).topic.tolist()
    wrong = [(expected, got, text) for (text, expected), got in zip(TOPICS, answers, strict=True) if got != expected]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(("text", "stance"), STANCES)
def test_minimum_functionality_of_stances(predict: Predict, text: str, stance: str) -> None:
    assert predict([text]).stance[0] == stance


@pytest.mark.parametrize(("groups", "name"), [(NATIONS, "nationality"), (FAITHS, "religion"), (COUNTRIES, "country")])
def test_swapping_the_group_leaves_the_stance(reader: Any, groups: list[str], name: str) -> None:
    """Held-out corpus passages that name one of the groups, and six frames, each in the names of all groups."""
    rows = load_corpora(["bundled"])
    texts = [*rows["validation"]["text"], *rows["test"]["text"]]
    pattern = re.compile(rf"\b({'|'.join(groups)})\b")
    bases = [pattern.sub("{}", text) for text in texts if pattern.search(text) and "{" not in text] + FRAMES
    readings = reader.read([base.replace("{}", group) for base in bases for group in groups])
    stance = readings.stance.reshape(len(bases), len(groups))
    scores = readings.stance_scores.reshape(len(bases), len(groups), -1)
    usual = np.array([np.bincount(row).argmax() for row in stance])
    changed = stance != usual[:, None]
    moved = np.abs(scores - scores.mean(axis=1, keepdims=True)).max(axis=2)
    worst = [(groups[at], bases[row]) for row, at in np.argwhere(changed)][:5]
    print(f"{name}: {changed.mean():.1%} of {changed.size} stances change, probability moves by {moved.mean():.3f}")
    assert not changed.any(), worst
    assert moved.max() < 1e-6, "the groups are hidden from the model"


def test_case_and_white_space_hardly_matter(predict: Predict) -> None:
    texts = list(load_corpora(["bundled"])["validation"]["text"][:80])
    plain = predict(texts)
    for change in (str.lower, str.upper, lambda text: f"\n  {text}  \n", lambda text: text.replace(" ", "  ")):
        changed = predict([change(text) for text in texts])
        assert (changed.topic != plain.topic).mean() <= 0.05
        assert (changed.stance != plain.stance).mean() <= 0.05


REBUTTALS = [
    ("Critics claim that migrants are a burden and a threat.",
     "They are wrong: these neighbours work hard, pay taxes and deserve our thanks.", "supportive"),
    ("Opponents say the newcomers take jobs from locals.",
     "That is a myth: the farms would stand idle without them, and everyone in town knows it.", "supportive"),
    ("Activists call the new border rules cruel and inhuman.",
     "Nonsense: a country that cannot decide who enters is none, and these rules are long overdue.", "restrictive"),
    ("Some say asylum seekers come only for the benefits.",
     "Nobody who has met them believes it; they have fled bombs, and they need our protection.", "supportive"),
    ("Campaigners insist that deporting overstayers tears families apart.",
     "What tears at a society is law that nobody enforces: those with no right to stay should go home.", "restrictive"),
    ("The minister says the camp is generous and humane.",
     "It is a disgrace, and the families locked up in it should be freed at once.", "supportive"),
]  # fmt: skip


TOLD_ALREADY = pytest.mark.xfail(reason="'critics claim' alone has it at the other side already", strict=False)


@pytest.mark.parametrize(("claim", "answer", "side"), [pytest.param(*REBUTTALS[0], marks=TOLD_ALREADY), *REBUTTALS[1:]])
def test_a_rebuttal_moves_the_stance_to_its_side(reader: Any, claim: str, answer: str, side: str) -> None:
    names = [one["name"] for one in reader.card["codebook"]["stances"]]
    before, after = reader.read([claim, f"{claim} {answer}"]).stance_scores[:, names.index(side)]
    assert after > before


def _swapped_letters(text: str) -> str:
    """A typo in every tenth word of four letters or more: its second and third letters change places."""
    words = text.split(" ")
    for at in [at for at, word in enumerate(words) if re.fullmatch(r"[A-Za-z]{4,}", word)][::10]:
        words[at] = words[at][0] + words[at][2] + words[at][1] + words[at][3:]
    return " ".join(words)


# Name → the change, and the largest share of answers that may differ (topic, stance): what was measured, with room.
SMALL_CHANGES: dict[str, tuple[Callable[[str], str], float, float]] = {
    "typos": (_swapped_letters, 0.15, 0.15),
    "no punctuation": (lambda text: re.sub(r"[^\w\s]", "", text), 0.15, 0.15),
    "typographic quotation marks": (lambda text: re.sub(r'"([^"]*)"', "“\\1”", text).replace("'", "’"), 0.05, 0.05),
    "in quotation marks": (lambda text: f'"{text}"', 0.10, 0.10),
    "a byline before": (lambda text: f"By the staff of the Harwell Courier. {text}", 0.20, 0.15),
    "an invitation behind": (lambda text: f"{text} Sign up for our morning newsletter.", 0.25, 0.15),
}  # fmt: skip


@pytest.fixture(scope="module")
def changed(predict: Predict) -> Callable[[str], pd.Series]:
    """By the name of a change, the share of topics and of stances that differ after it."""
    texts = list(load_corpora(["bundled"])["validation"]["text"])
    plain = predict(texts)

    @cache
    def shares(name: str) -> pd.Series:
        answers = predict([SMALL_CHANGES[name][0](text) for text in texts])
        found = pd.Series({head: (answers[head] != plain[head]).mean() for head in ("topic", "stance")})
        print(f"{name}: {found.topic:.1%} of topics and {found.stance:.1%} of stances change")
        return found

    return shares


MISSPELT = pytest.mark.xfail(reason="the encoder has learnt from few misspelt words: 19% of topics change", strict=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MISSPELT if name == "typos" else ()) for name in SMALL_CHANGES]
)
def test_what_changes_no_meaning_changes_few_topics(changed: Callable[[str], pd.Series], name: str) -> None:
    assert changed(name).topic <= SMALL_CHANGES[name][1]


@pytest.mark.parametrize("name", SMALL_CHANGES)
def test_what_changes_no_meaning_changes_few_stances(changed: Callable[[str], pd.Series], name: str) -> None:
    assert changed(name).stance <= SMALL_CHANGES[name][2]


# A claim, the same turned round, and the stance towards which the probability must move.
TURNS = [
    ("These migrants are a burden on the town.", "These migrants are no burden, quite the opposite.", "supportive"),
    ("We must let these refugees stay.", "We must not let these refugees stay.", "restrictive"),
    ("The newcomers are a threat to our safety.", "The newcomers were never a threat to our safety.", "supportive"),
    ("They deserve a home here.", "They do not deserve a home here.", "restrictive"),
]


@pytest.mark.xfail(reason="words and mean embeddings carry little of what negates what", strict=False)
@pytest.mark.parametrize(("claim", "turned", "stance"), TURNS, ids=[turned for _, turned, _ in TURNS])
def test_negation_turns_the_stance(reader: Any, claim: str, turned: str, stance: str) -> None:
    names = [one["name"] for one in reader.card["codebook"]["stances"]]
    before, after = reader.read([claim, turned]).stance_scores[:, names.index(stance)]
    assert after > before


@pytest.mark.parametrize(("corpus", "floor"), [("contrast", 0.62), ("voices", 0.55), ("opinions", 0.63)])
def test_stance_that_only_composition_tells_is_read_better_than_by_chance(
    predict: Predict, corpus: str, floor: float
) -> None:
    """Both sides in nearly the same words, or in their own. The most frequent stance has 0.40, 0.42 and 0.45."""
    parts = load_corpora([corpus])
    rows = [row for part in parts.values() for row in part]
    names = parts["train"].features["stance"].names
    right = predict([row["text"] for row in rows]).stance == [names[row["stance"]] for row in rows]
    sets = right.groupby([row["doc_id"] for row in rows]).all()
    print(
        f"{corpus}: {right.mean():.3f} of {len(right)} stances right, {sets.mean():.3f} of {len(sets)} documents whole"
    )
    assert right.mean() >= floor
