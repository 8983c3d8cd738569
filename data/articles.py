"""How the articles of the public repository of news are read: over the network with patience, or from a folder."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import requests

COMMIT = "ced8111a720948e6a410e52031ace99c4e53f096"  # the one that was annotated
ADDRESS = f"https://raw.githubusercontent.com/ramybaly/Article-Bias-Prediction/{COMMIT}"
HEADERS = {"User-Agent": "immigration-news (python -m data.hydrate; four requests at a time, each article once)"}
AT_ONCE, ATTEMPTS, GIVE_UP = 4, 4, 8  # requests in parallel, tries an article, articles failed in a row
LARGEST = 5_000_000  # bytes of an article's file; the largest annotated one has 97,716
SLOWEST = 6  # an answer may take so many times the timeout, which by itself bounds only the silences in it

Read = Callable[[str], list[str]]  # an article's passages by its name; FileNotFoundError where there is no such article
Answer = list[str] | Exception


class NoSource(ValueError):
    """A setting that names neither a folder nor an address."""


def read_articles(names: Sequence[str], timeout: float, backoff: float) -> Generator[tuple[str, Answer], None, None]:
    """Each article's passages, or why there are none, as they come.

    They come from the folder IMMNEWS_NEWS_DIR, or else from the address IMMNEWS_NEWS_URL (default ADDRESS), as
    data/jsons/NAME.json of either; FileNotFoundError where it has no such article, InterruptedError where it was
    given up before, another OSError or ValueError where it cannot be read. `timeout` is the silence after which a
    request fails, `backoff` the pause before the second try, in seconds; each further pause is twice as long.
    Closing it stops what is under way. Raises NoSource.
    """
    stop = threading.Event()

    def answer(name: str) -> tuple[str, Answer]:
        try:
            if stop.is_set():
                raise InterruptedError(f"not asked for, as {GIVE_UP} others in a row failed")
            return name, read(name)
        except (OSError, ValueError) as error:
            return name, error

    with _reader(timeout, backoff, stop) as read:
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for done in as_completed([pool.submit(answer, name) for name in names]):
                yield done.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


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


@contextmanager
def _reader(timeout: float, backoff: float, stop: threading.Event) -> Iterator[Read]:
    folder, address = os.environ.get("IMMNEWS_NEWS_DIR"), os.environ.get("IMMNEWS_NEWS_URL") or ADDRESS
    if folder:
        files = Path(folder, "data", "jsons")
        if not files.is_dir():
            remedy = "name the folder that holds data/jsons, or unset it to fetch over the network"
            raise NoSource(f"IMMNEWS_NEWS_DIR={folder}: there is no folder {files}; {remedy}")
        yield lambda name: passages_of((files / f"{name}.json").read_bytes())
    elif not re.match(r"https?://[^/]", address):
        raise NoSource(f"IMMNEWS_NEWS_URL={address}: give an http(s) address, or unset it for {ADDRESS}")
    else:
        base = f"{address.rstrip('/')}/data/jsons"
        with requests.Session() as session:
            session.headers.update(HEADERS)
            yield _patient(lambda name: _get(session, f"{base}/{name}.json", timeout), backoff, stop)


def _get(session: requests.Session, url: str, timeout: float) -> list[str]:
    """One request. Raises PermissionError where refused for good; any other OSError or ValueError may pass."""
    end = time.monotonic() + SLOWEST * timeout
    with session.get(url, timeout=timeout, stream=True) as response:
        status, body = response.status_code, b""
        if status in (404, 410):
            raise FileNotFoundError(url)
        if status != 200:
            passing = status in (408, 425, 429) or status >= 500
            raise (OSError if passing else PermissionError)(f"{url} answered {status} {response.reason}")
        for chunk in response.iter_content(1024):  # raises where less comes than the server promised
            body += chunk
            if len(body) > LARGEST or time.monotonic() > end:
                raise TimeoutError(f"{url} sent {len(body):,} bytes and did not come to an end")
    return passages_of(body)


def _patient(read: Read, backoff: float, stop: threading.Event) -> Read:
    """Tries again what may pass; sets `stop` after some failures in a row, lest a thousand articles wait in vain."""
    failed = 0

    def read_patiently(name: str) -> list[str]:
        nonlocal failed
        for attempt in range(ATTEMPTS):
            try:
                passages = read(name)
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
