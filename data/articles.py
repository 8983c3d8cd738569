"""How the files of public repositories with annotated texts are read: over the network with patience, or locally."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests

HOST = "https://raw.githubusercontent.com"
NEWS = "article_bias_prediction"  # the source whose articles are files of their own: data/jsons/ARTICLE.json
REPOSITORIES = {  # source: repository and the commit that was annotated
    NEWS: "ramybaly/Article-Bias-Prediction/ced8111a720948e6a410e52031ace99c4e53f096",
    "candidates_texas_2020": "kschow/down-ballot-voting-guide/e23e2117946ae04c5900086e9c9043f508331bfd",
    "candidates_texas_2022": "kschow/down-ballot-voting-guide/3e1d8863719554b29d647e600c1cbf72ad992f5c",
    "civil_comments": "ipavlopoulos/toxic_spans/beaf170538df8275c3447b2e26070f2f82e55272",
    "congressional_record": "milesmcc/congress-scope/19e83351806b9e81a5e164f3da2c4bd7c01fb2b6",
    "debatewise": "CogComp/perspectrum/b42c27b85f20f2a35c0a0895698fa242ccf160ab",
    "internet_argument_corpus": "sl-m-lab/Internet-Argument-Corpus/95e3d0dc188220935016320ef3da5936a6508a2a",
    "parliament_britain": (
        "nellazabrina/ParlaMint-Immigration-Sentiment-Analysis/b1fef0932bb6743ae61876de7c94db3f58a29ea8"
    ),
    "parliament_ontario": "NLB-G-Suite/ola-data/55e0ec5888bd95abab9eb0f142cda0e89770f98e",
    "parliament_press_australia": "wragge/trove-parliament-pressreleases/dc9628fe78757d43f409fbdfd9763b2cd8dd4493",
    "polis": "compdemocracy/openData/0bc2ce0f32c673f68da20b57bce15c457aa787b5",
    "presidential_debates": "deborahdore/ElecDeb60to20/2ae8b4c8398006c4446e886bec1fac70faceddc8",
    "reddit_2005_2024": "roy-elia/MAISProject/2629f57f76fdeae7c176f13e39fe066aa579b06f",
    "reddit_ideologies": "rosaunde/Reddit-Political-Data/f25e4ecfdf92ead1d4bef64257a52302c852f9d6",
    "reddit_immigration": (
        "jojo142/US-Immigration-Sentiment-Trend-using-Reddit/0291c750eb2284949c54546b9f625b1b317c5021"
    ),
    "senate_press_releases": "lintool/GrimmerSenatePressReleases/2c7bab8837f934437a9fdbb8460876fde31f5cae",
    "survey_undocumented": "isaiahraynal/mixed_data_mixed_methods/8b2348464b2ed011abcd2132002b2ec615f1208f",
    "survey_us": "dzangri/stmGUI/c22a5e23c5f01d57045d52d68b25488fc6f113d9",
    "youtube_congress": "cr1285/final_project/4a2e54bec8fc706c5814974681a24c2f93e1ab86",
    "youtube_ireland": "gksingh17/immigration-sentiment-analysis/57741b1cebd6cd2430ee33ac6afe85d8dcc7ef04",
}
HEADERS = {"User-Agent": "immigration-news (python -m data.hydrate; four requests at a time, each file once)"}
AT_ONCE, ATTEMPTS, GIVE_UP = 4, 4, 8  # requests in parallel, tries a file, files failed in a row
LARGEST = 5_000_000  # bytes of a file
SLOWEST = 6  # an answer may take so many times the timeout, which by itself bounds only the silences in it

File = tuple[str, str]  # source, and the article's name or the file's path in the repository
Passages = Callable[[int | str], str | None]  # the passage at a place in a file, None where the file has no such place
Read = Callable[[File], Passages]  # FileNotFoundError where there is no such file
Answer = Passages | Exception


class NoSource(ValueError):
    """A setting that names neither a folder nor an address."""


def read_files(files: Sequence[File], timeout: float, backoff: float) -> Generator[tuple[File, Answer], None, None]:
    """Each file's passages, or why there are none, as they come.

    They come from the folder IMMNEWS_NEWS_DIR, from the address IMMNEWS_NEWS_URL, or else from GitHub: articles as
    data/jsons/ARTICLE.json of either, other files as OWNER/REPOSITORY/COMMIT/PATH. FileNotFoundError where there is no
    such file, InterruptedError where it was given up before, another OSError or ValueError where it cannot be read.
    `timeout` is the silence after which a request fails, `backoff` the pause before the second try, in seconds; each
    further pause is twice as long. Closing it stops what is under way. Raises NoSource.
    """
    stop = threading.Event()

    def answer(file: File) -> tuple[File, Answer]:
        try:
            if stop.is_set():
                raise InterruptedError(f"not asked for, as {GIVE_UP} others in a row failed")
            return file, read(file)
        except (OSError, ValueError) as error:
            return file, error

    with _reader(timeout, backoff, stop) as read:
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for done in as_completed([pool.submit(answer, file) for file in files]):
                yield done.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def passages_in(file: File, body: bytes) -> Passages:
    """How to find a passage in a file. Raises ValueError where an article's body is none."""
    if file[0] != NEWS:
        return lambda place: _piece(body, Path(file[1]).suffix, str(place))
    paragraphs = passages_of(body)
    return lambda place: paragraphs[int(place)] if int(place) < len(paragraphs) else None


def passages_of(body: bytes) -> list[str]:
    """An article's passages in the order that the annotations count. Raises ValueError where the body is no article."""
    try:
        article = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its file is not JSON ({error})") from error
    content = article.get("content_original") if isinstance(article, dict) else None
    if not isinstance(content, str):
        raise ValueError("its file has no text under content_original")
    return [" ".join(piece.split()) for piece in re.split(r"\n+", content)]


def _piece(body: bytes, suffix: str, place: str) -> str | None:
    """The bytes START+LENGTH of a file as text: what JSON or CSV escapes undone, white space collapsed."""
    start, _, length = place.partition("+")
    try:
        piece = body[int(start) : int(start) + int(length)].decode("utf-8")
        if suffix == ".json":
            piece = json.loads(f'"{piece}"', strict=False)
    except ValueError:
        return None
    return " ".join((piece.replace('""', '"') if suffix == ".csv" else piece).split())


def _path(file: File, whole: bool = False) -> str:
    """Where a file lies in a folder or under an address, or, if `whole`, under that of all repositories."""
    source, name = file
    inside = f"data/jsons/{name}.json" if source == NEWS else name
    return inside if source == NEWS and not whole else f"{REPOSITORIES[source]}/{inside}"


@contextmanager
def _reader(timeout: float, backoff: float, stop: threading.Event) -> Iterator[Read]:
    folder, address = os.environ.get("IMMNEWS_NEWS_DIR"), os.environ.get("IMMNEWS_NEWS_URL") or HOST
    if folder:
        articles = Path(folder, "data", "jsons")
        if not articles.is_dir():
            remedy = "name the folder that holds data/jsons, or unset it to fetch over the network"
            raise NoSource(f"IMMNEWS_NEWS_DIR={folder}: there is no folder {articles}; {remedy}")
        yield lambda file: passages_in(file, Path(folder, _path(file)).read_bytes())
    elif not re.match(r"https?://[^/]", address):
        raise NoSource(f"IMMNEWS_NEWS_URL={address}: give an http(s) address, or unset it for {HOST}")
    else:
        base = address.rstrip("/")
        with requests.Session() as session:
            session.headers.update(HEADERS)

            def get(file: File) -> Passages:
                url = f"{base}/{quote(_path(file, whole=base == HOST))}"
                return passages_in(file, _get(session, url, timeout))

            yield _patient(get, backoff, stop)


def _get(session: requests.Session, url: str, timeout: float) -> bytes:
    """One request. Raises PermissionError where refused for good; any other OSError or ValueError may pass."""
    end = time.monotonic() + SLOWEST * timeout
    with session.get(url, timeout=timeout, stream=True) as response:
        status, body = response.status_code, bytearray()
        if status in (404, 410):
            raise FileNotFoundError(url)
        if status != 200:
            passing = status in (408, 425, 429) or status >= 500
            raise (OSError if passing else PermissionError)(f"{url} answered {status} {response.reason}")
        for chunk in response.iter_content(1024):  # raises where less comes than the server promised
            body += chunk
            if len(body) > LARGEST or time.monotonic() > end:
                raise TimeoutError(f"{url} sent {len(body):,} bytes and did not come to an end")
    return bytes(body)


def _patient(read: Read, backoff: float, stop: threading.Event) -> Read:
    """Tries again what may pass; sets `stop` after some failures in a row, lest a thousand files wait in vain."""
    failed = 0

    def read_patiently(file: File) -> Passages:
        nonlocal failed
        for attempt in range(ATTEMPTS):
            try:
                passages = read(file)
                failed = 0
                return passages
            except FileNotFoundError:
                failed = 0
                raise
            except (OSError, ValueError) as error:
                final = isinstance(error, PermissionError) or attempt == ATTEMPTS - 1
                if final or stop.wait(backoff * 2**attempt):
                    failed += 1
                    if failed >= GIVE_UP:
                        stop.set()
                    raise
        raise AssertionError("the last attempt returns or raises")

    return read_patiently
