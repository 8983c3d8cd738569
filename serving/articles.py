"""How an article, plain text or HTML, becomes passages: paragraphs as they stand, long ones cut between sentences.

What is outside the passages is white space, and plain text is never changed. HTML is only parsed: nothing in it is
executed, fetched or opened.
"""

import logging
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from math import ceil
from typing import NamedTuple

import sentencex  # type: ignore[import-untyped]
import trafilatura

from serving.markup import read_markup
from serving.schema import MAX_CHARACTERS

# The model was trained on passages of about 15 to 130 words, and 130 words are some 800 characters: half as much again
# keeps an ordinary paragraph whole.
LONG = 1_200
# The segmenter takes quadratic time where quotations are many; in a window it cannot, and a sentence still fits.
WINDOW = 2 * MAX_CHARACTERS

Span = tuple[int, int]

# It warns of every page without text.
logging.getLogger("trafilatura").setLevel(logging.ERROR)

# Atomic groups: a document of nothing but comments would otherwise be tried in every way.
DOCUMENT = re.compile(
    r"[\s\ufeff]*+(?:<\?xml[^>]*+>\s*+)?(?:(?><!--.*?-->)\s*+)*+<(?:!doctype\s+html|html[\s>])", re.I | re.S
)
BLOCK = re.compile(
    r"</?(?:address|article|aside|blockquote|body|br|div|dd|dl|dt|figcaption|figure|footer|h[1-6]|header|hr|li|main|nav|ol"
    r"|p|pre|section|table|td|th|tr|ul)(?:\s[^<>]*)?/?>",
    re.I,
)
SEVERAL = 3
SURROGATE = re.compile(r"[\ud800-\udfff]")
TABLE_RULE = re.compile(r"\|[\s|-]*")

# The segmenter knows most abbreviations, but ends a sentence at "10 a.m. Tuesday" and "approx. 300".
ABBREVIATION = re.compile(r"(?:\b(?:\w{1,3}\.)+\w{1,3}|\b(?:approx|est))\.[\"'”’)\]]*\Z", re.I)
OPENING = re.compile(r"\s[\"'“‘(\[]+\Z")


class Article(NamedTuple):
    """An article's plain text and its passages: start and end, in characters of the text, in order."""

    text: str
    spans: list[Span]


def cut(article: str) -> Article:
    """Cut plain text, or what HTML says, into passages of at most `MAX_CHARACTERS`."""
    text = plain(article) if is_html(article) else article
    return Article(text, [span for paragraph in paragraphs(text) for span in passages(text, *paragraph)])


def is_html(article: str) -> bool:
    """Whether an article is HTML beyond doubt: a whole document, or one with several block tags."""
    if DOCUMENT.match(article):
        return True
    if len(list(islice(BLOCK.finditer(article), SEVERAL))) == SEVERAL:
        return True
    opening = BLOCK.match(article.lstrip())
    return bool(opening and opening[0][1] != "/" and article.rstrip().endswith("</" + opening[0][1:]))


def plain(html: str) -> str:
    """The text of an HTML article, one paragraph a line; where no article is found, all that a reader would see."""
    html = SURROGATE.sub("\N{REPLACEMENT CHARACTER}", html)
    markup = read_markup(html)
    if not markup.ordinary:
        return markup.text
    found = trafilatura.extract(html, include_comments=False, include_formatting=False, include_links=False)
    lines = [line.strip() for line in (found or "").splitlines()]
    return "\n".join(line for line in lines if line and not TABLE_RULE.fullmatch(line)) or markup.text


def paragraphs(text: str) -> Iterator[Span]:
    """The lines of a text that hold anything, without the white space around them."""
    start = 0
    for line in text.splitlines(keepends=True):
        yield from stripped(text, start, start + len(line))
        start += len(line)


def stripped(text: str, start: int, end: int) -> list[Span]:
    """A span without the white space around it; none if there is nothing else."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    kept = len(piece.strip())
    return [(start, start + kept)] if kept else []


def passages(text: str, start: int, end: int) -> Iterator[Span]:
    """A paragraph as it stands, or if it is long in parts of similar length, each of whole sentences."""
    if end - start <= LONG:
        yield start, end
        return
    ends = [stop for sentence in sentences(text, start, end) for stop in bounded(text, *sentence)]
    for this, following in pairwise(ends):
        aim = (end - start) / ceil((end - start) / LONG)
        if following - start > LONG or following - start - aim >= aim - (this - start):
            yield from stripped(text, start, this)
            start = this
    yield from stripped(text, start, end)


def sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of a paragraph, without gaps; what a window cuts short is read again in the next."""
    while end - start > WINDOW:
        *whole, last = segments(text[start : start + WINDOW])
        yield from ((start + first, start + stop) for first, stop in whole)
        if not whole:
            yield start, start + last[1]
        start += whole[-1][1] if whole else last[1]
    yield from ((start + first, start + stop) for first, stop in segments(text[start:end]))


def segments(piece: str) -> list[Span]:
    """The sentences of a piece of text by sentencex, joined where it ends one at an abbreviation."""
    readable = SURROGATE.sub("\N{REPLACEMENT CHARACTER}", piece)
    stops = [0]
    for boundary in sentencex.get_sentence_boundaries("en", readable)[1:]:
        stop = boundary["start_index"]
        before = readable[max(0, stop - 40) : stop]
        # An opening mark whose fellow is far away is left at the end of the sentence before.
        if mark := OPENING.search(before):
            stop -= len(before) - mark.start()
            before = before[: mark.start()]
        if stop > stops[-1] and not ABBREVIATION.search(before.rstrip()):
            stops.append(stop)
    return list(zip(stops, [*stops[1:], len(piece)], strict=True))


def bounded(text: str, start: int, end: int) -> Iterator[int]:
    """Where a sentence ends, and before that wherever it must be cut (at white space, if there is any) to be short."""
    while end - start > MAX_CHARACTERS:
        head = text[start : start + MAX_CHARACTERS]
        words = head.rstrip() if text[start + MAX_CHARACTERS].isspace() else head[: len(head) - len(last_word(head))]
        start += len(words.rstrip()) or MAX_CHARACTERS
        yield start
    yield end


def last_word(head: str) -> str:
    """What follows the last white space of a text: the text itself where there is none."""
    return head.rsplit(maxsplit=1)[-1] if head.strip() and not head[-1].isspace() else ""
