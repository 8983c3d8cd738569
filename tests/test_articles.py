"""An article's passages: nothing is lost or changed, none crosses a line break, and no sentence is cut without need."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.articles import LONG, Article, cut
from serving.schema import MAX_ARTICLE, MAX_CHARACTERS

BREAKS = ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
VOTE = (
    "The town council of Harwell voted by nine to four on Tuesday to keep the migrant hostel open for another winter."
)
CLAIMS = "Some 212 people asked for asylum at the Lisse crossing in March, twice the number of the month before."
WHOLE = [
    "The U.S. Senate and the U.K. Home Office agreed, said J. R. Tarrant.",
    "Mr. Tarrant lives at No. 10 Mill Lane with Dr. Lisse and Prof. Harwell.",
    "They brought goods, e.g. bread and tools, i.e. all they had.",
    "LONDON (AP) — The Home Office said on Tuesday that fees would rise.",
    "WASHINGTON, D.C. (Reuters) - The panel ruled on Jan. 5 against Sen. Lisse.",
    "Photo: The hostel on Mill Lane (A. Lisse/Courier).",
    "The cook said “We came. We worked. We stayed.” and went back to the stove.",
    "The office opens at 10 a.m. Tuesday for approx. 300 people, at $1.5 million.",
    "In Tarrant v. Harwell the panel read Art. 5 and p. 12 of the Act.",
]
PAGE = f"""<!DOCTYPE html><html><head><title>Tarrant Courier</title><style>p {{ color: red }}</style>
<script>document.write("<p>SCRIPT</p>")</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/sport">Sport</a></li></ul></nav>
<div id="cookie-consent" class="cookie-banner"><p>We use cookies. Accept all cookies to read on.</p></div>
<article><h1>Hostel stays open</h1><figure><img src="x.jpg"><figcaption>Photo: Snow on Mill Lane.</figcaption></figure>
<p>{VOTE}</p><p>Residents &mdash; some with banners &amp; whistles &mdash; packed\n the <b>gallery</b>.</p>
<!-- COMMENT --><blockquote><p>"We came for work and for quiet," said a cook. "We found both."</p></blockquote>
<ul><li>Beds: 140 in winter and 90 in summer, by the plan.</li><li>Cost: 1.2 million crowns a year.</li></ul>
<table><tr><th>Year</th><th>Claims</th></tr><tr><td>2030</td><td>5,250</td></tr></table><p>{CLAIMS}</p></article>
<footer><p>Copyright 2031 The Tarrant Courier.</p></footer></body></html>"""


def check(article: Article) -> list[str]:
    """What holds of every article; its passages."""
    end, gaps, pieces = 0, [], []
    for start, stop in article.spans:
        assert end <= start < stop <= start + MAX_CHARACTERS
        gaps.append(article.text[end:start])
        pieces.append(article.text[start:stop])
        end = stop
    gaps.append(article.text[end:])
    assert not "".join(gaps).strip()
    assert all(piece == piece.strip() and len(piece.splitlines()) == 1 for piece in pieces)
    assert "".join(part for pair in zip(gaps, [*pieces, ""], strict=True) for part in pair) == article.text
    return pieces


def read(article: str) -> list[str]:
    return check(cut(article))


WORDS = st.sampled_from(
    [*WHOLE, VOTE, *BREAKS, " ", "\t", "* * *", "a < b", "“", '"', "\0", "\ud800", "\u202e", "x" * 900]
)


@settings(deadline=None)
@given(st.lists(WORDS | st.text(max_size=5), max_size=60).map("".join))
def test_plain_text_stays_as_it_is_and_only_white_space_is_outside(text: str) -> None:
    article = cut(text)
    assert article.text == text
    pieces = check(article)
    end = 0
    for line in text.splitlines(keepends=True):
        start, end = end, end + len(line)
        if 0 < len(line.strip()) <= LONG:
            indent = len(line) - len(line.lstrip())
            assert (start + indent, start + indent + len(line.strip())) in article.spans
    assert "".join("".join(pieces).split()) == "".join(text.split())


@settings(deadline=None)  # the first page loads lists of words
@given(
    st.lists(
        st.sampled_from("<p> </p> <div> <br> <html> <table> <td <!-- --> <b> & &#0; \0 \ud800 <script> a. ' \"".split())
    )
)
def test_whatever_looks_like_html_is_read_without_an_error(tags: list[str]) -> None:
    read("<html>" + " ".join(tags))


@pytest.mark.parametrize("line_break", BREAKS)
def test_every_kind_of_line_break_parts_passages_and_empty_lines_are_none(line_break: str) -> None:
    text = line_break.join([f"  {VOTE}\t", "", " \u3000", "* * *", "Advertisement", CLAIMS, ""])
    assert read(text) == [VOTE, "* * *", "Advertisement", CLAIMS]


@pytest.mark.parametrize("sentence", WHOLE)
@pytest.mark.parametrize("copies", range(8, 40, 5))
def test_a_long_paragraph_is_cut_between_sentences_only(sentence: str, copies: int) -> None:
    # The word before differs, so that the cuts fall at many places.
    pieces = read(" ".join([VOTE[: 40 + copies] + ".", *[sentence, VOTE] * copies]))
    assert len(pieces) > 1
    joined = "\n".join(pieces)
    assert joined.count(sentence) == joined.count(VOTE) == copies
    assert all(len(piece) <= LONG for piece in pieces)
    assert min(map(len, pieces)) > LONG / 3


def test_long_paragraphs_are_cut_into_similar_lengths() -> None:
    short = " ".join([VOTE] * 11)
    assert LONG < len(short) < LONG * 1.1
    first, second = read(short)
    assert abs(len(first) - len(second)) <= len(VOTE) + 1
    assert read(" ".join([VOTE] * 10)) == [" ".join([VOTE] * 10)]


def test_an_opening_quotation_mark_stays_with_what_it_opens() -> None:
    # Newspapers open each paragraph of a long quotation, and close the last alone.
    pieces = read(f"{VOTE} " * 10 + f"“{CLAIMS} " * 10)
    assert not [piece for piece in pieces if piece.endswith("“")]


def test_a_sentence_beyond_the_model_is_cut_at_white_space_or_hard() -> None:
    words = "migrant " * 3_000
    assert [piece.split() for piece in read(words)] == [["migrant"] * 1_250, ["migrant"] * 1_250, ["migrant"] * 500]
    assert {piece.strip("migrant ") for piece in read("x" + words)} == {"x", ""}
    assert [len(piece) for piece in read("x" * 25_000)] == [10_000, 10_000, 5_000]


@pytest.mark.parametrize(
    "text",
    ["We <3 it, and a < b > c.", "A stray <b>bold</b> word.", "One<br>break.", "if x<p and y>p: <i>no</i>", "", " \n"],
)
def test_plain_text_with_angle_brackets_stays_plain(text: str) -> None:
    assert cut(text).text == text


def test_of_a_page_the_article_is_read_and_nothing_else() -> None:
    pieces = read(PAGE)
    assert {VOTE, CLAIMS, "Hostel stays open"} <= set(pieces)
    assert "Residents — some with banners & whistles — packed the gallery." in pieces
    assert '"We came for work and for quiet," said a cook. "We found both."' in pieces
    assert [piece for piece in pieces if "140 in winter" in piece] and [piece for piece in pieces if "5,250" in piece]
    for word in ("SCRIPT", "COMMENT", "color", "cookies", "Sport", "Copyright", "<", "&amp;", "---"):
        assert word not in cut(PAGE).text
    assert cut(PAGE) == cut(PAGE)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (f"<p>{VOTE}</p><p>{CLAIMS}</p>", [VOTE, CLAIMS]),
        (f"\ufeff<html><body>{VOTE}<br><br>{CLAIMS}", [VOTE, CLAIMS]),
        ("<HTML><script>SCRIPT</script><style>p</style><!-- no --></HTML>", []),
        ("<p>Fees rise.</p>", ["Fees rise."]),
        ("<html>" + "<div>" * 30_000 + "Deep <b>in</b>side.<div>Below.", ["Deep inside.", "Below."]),
        ("<html>" + "<ul><li>item" * 300, ["item"] * 300),
    ],
)
def test_html_of_every_shape(html: str, expected: list[str]) -> None:
    assert read(html) == expected


@pytest.mark.parametrize(
    "unit",
    "<p> <div> <b> <!-- <!----> <?x <a/b=' <br>a <table><tr><td>a <script> </ & A.B. “A. (A. \"A! . a\n x \0".split(
        " "
    ),
)
def test_whatever_fills_the_limit_takes_no_longer_than_a_page(unit: str) -> None:
    for prefix in ("", "<html>"):
        text = (prefix + (unit + " ") * MAX_ARTICLE)[:MAX_ARTICLE]
        started = time.perf_counter()
        read(text)
        assert time.perf_counter() - started < 3
