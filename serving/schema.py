"""What goes over the wire: requests with their limits, answers, errors.

`/docs.json` is generated from it, and the errors for bad requests quote the descriptions of its fields.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_PASSAGES = 512
MAX_CHARACTERS = 10_000

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


class Label(BaseModel):
    """One answer: the label, its calibrated probability, and that of every label of the codebook."""

    label: str
    confidence: float = Field(ge=0, le=1)
    scores: dict[str, float]


class Reading(BaseModel):
    """Topic and stance of one passage; no stance where it is off topic."""

    topic: Label
    stance: Label | None
    abstained: bool = Field(description="whether the topic's confidence is under the threshold that the model carries")


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


class Model(Served):
    """What is served: where it comes from, and how well it reads."""

    run_id: str
    manifest: str = Field(description="sha256 of the list of the model's files")
    candidate: str
    experiment: str
    git_commit: str
    threshold: float
    quality: dict[str, Any] = Field(description="measured figures, as training wrote them")


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
