"""What a reader would see of a page, read in one pass without building a tree, and whether its shape is ordinary.

A tree of HTML costs more the stranger it is, and lxml drops what lies deeper than 256 elements. One pass costs
milliseconds whatever it is given, and tells which pages are fit for a tree.
"""

from typing import NamedTuple

from lxml import etree  # type: ignore[import-untyped]

# News pages have some hundreds of elements, seldom more than 40 deep; a page beyond these is no page of an article.
MAX_ELEMENTS = 10_000
MAX_DEPTH = 200
MAX_ATTRIBUTES = 100

UNSEEN = frozenset("head noscript script style template title".split())
INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr q s samp small span strike"
    " strong sub sup time tt u var wbr".split()
)


class Markup(NamedTuple):
    """A page's visible text, one paragraph a line, and whether it may be made a tree."""

    text: str
    ordinary: bool


def read_markup(html: str) -> Markup:
    """Read any text as HTML; nothing that it refers to is opened."""
    reader = _Reader()
    parser = etree.HTMLParser(target=reader, huge_tree=True, no_network=True, encoding="utf-8")
    parser.feed(html.encode("utf-8"))
    markup: Markup = parser.close()
    return markup


class _Reader:
    """A target of lxml's parser, which calls it with what it meets."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.elements = self.depth = self.deepest = self.unseen = self.attributes = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        self.attributes = max(self.attributes, len(attributes))
        self.unseen += tag in UNSEEN
        self._separate(tag)

    def end(self, tag: str) -> None:
        self.depth -= 1
        self.unseen -= tag in UNSEEN
        self._separate(tag)

    def data(self, text: str) -> None:
        if not self.unseen:
            # Line breaks of the source are spaces of the page.
            self.pieces.append(" ".join(text.splitlines()) if text.strip() else " ")

    def close(self) -> Markup:
        lines = (" ".join(line.split()) for line in "".join(self.pieces).split("\n"))
        ordinary = self.elements <= MAX_ELEMENTS and self.deepest <= MAX_DEPTH and self.attributes <= MAX_ATTRIBUTES
        return Markup("\n".join(line for line in lines if line), ordinary)

    def _separate(self, tag: str) -> None:
        if tag not in INLINE:
            self.pieces.append("\n")
