"""What goes over the wire: requests with their limits, answers, errors.

`/docs.json` is generated from it, and the errors for bad requests quote the descriptions of its fields.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from serving.summary import Summary

OFF_TOPIC = "off_topic"
MAX_PASSAGES = 512
MAX_CHARACTERS = 10_000
MAX_ARTICLE = 200_000
MAX_CUT = 10_000  # passages of one article; only lines of a few letters come to more
MAX_EXPLAINED = 64  # an explanation costs some 25 readings

Passage = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class ClassifyRequest(BaseModel):
    """Passages to read, each on its own."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    passages: Annotated[
        list[Passage],
        Field(
            min_length=1,
            max_length=MAX_PASSAGES,
            description=f"a list of 1 to {MAX_PASSAGES} strings of 1 to {MAX_CHARACTERS:,} characters",
        ),
    ]


class ReadRequest(BaseModel):
    """An article, to be cut into passages and read."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    article: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_ARTICLE,
            description=f"the article as plain text or HTML, 1 to {MAX_ARTICLE:,} characters",
        ),
    ]
    title: Annotated[
        str | None,
        Field(max_length=MAX_CHARACTERS, description=f"null, or its title of up to {MAX_CHARACTERS:,} characters"),
    ] = None


class Label(BaseModel):
    """One answer: the label, its calibrated probability, and that of every label of the codebook."""

    label: str
    confidence: float = Field(ge=0, le=1)
    scores: dict[str, float]


class Mark(BaseModel):
    """A phrase of the passage that moved an answer."""

    start: int = Field(ge=0, description="offset into the passage, in characters")
    end: int = Field(ge=1, description="offset of the character after the last")
    weight: float = Field(description="what it adds to the label's log-odds: above 0 it spoke for the label")


class Explanation(BaseModel):
    """The phrases that moved each answer, strongest first; null where there is no answer."""

    topic: list[Mark]
    stance: list[Mark] | None


class Reading(BaseModel):
    """Topic and stance of one passage; no stance where it is off topic."""

    topic: Label
    stance: Label | None
    abstained: bool = Field(description="whether the topic's confidence is under the threshold that the model carries")
    explanation: Explanation | None = Field(None, exclude_if=lambda value: value is None)


class Served(BaseModel):
    """Which model answered."""

    name: str
    version: str
    codebook: str
    data_digest: str


class ClassifyAnswer(BaseModel):
    """One reading a passage, in their order."""

    readings: list[Reading]
    model: Served


class ReadPassage(Reading):
    """A passage of an article, where it stands, and its reading."""

    text: str
    start: int = Field(ge=0, description="offset into the article, in characters")
    end: int = Field(ge=1, description="offset of the character after the last")


class ReadAnswer(BaseModel):
    """The article as plain text, its passages in order, and what they amount to."""

    article: str
    passages: list[ReadPassage]
    summary: Summary
    model: Served


class Model(Served):
    """What is served: where it comes from, and how well it reads."""

    run_id: str
    manifest: str = Field(description="sha256 of the list of the model's files")
    candidate: str
    experiment: str
    git_commit: str
    threshold: float
    training: str = Field(description="what it was trained on, in words")
    abstention: dict[str, float] = Field(description="what the threshold does on the test split")
    quality: dict[str, Any] = Field(description="measured figures, as training wrote them")
    held_out: dict[str, Any] = Field(description="shares measured on real news besides, with 95% intervals")


class Definition(BaseModel):
    """A label, what it means, and an example; for topics also what it is not."""

    model_config = ConfigDict(extra="allow")

    name: str
    definition: str
    example: str


class Rule(BaseModel):
    """How to choose between labels."""

    name: str
    text: str


class Codebook(BaseModel):
    """The labels and how to choose between them."""

    version: str
    unit: str
    genres: list[str]
    topics: list[Definition]
    stances: list[Definition]
    rules: list[Rule]
    crosswalk: list[dict[str, list[str]]]


class Error(BaseModel):
    """Why a request was refused: the field and the limit."""

    error: str
