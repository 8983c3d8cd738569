"""The README: its commands run as they stand, and its figures are those that training gives."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Champion
from serving_processes import free_port

from data.corpora import load_corpora

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.fixture(scope="module")
def served(champion: Champion) -> Iterator[int]:
    """The port of what `make serve` started, as the quick start has it but for the port."""
    assert blocks("sh")[0].splitlines() == ["make train", "make compare", "make serve PORT=3000"]
    port = free_port()
    log = (champion.folder / "serve.log").open("w")
    command = ["make", "serve", f"PORT={port}"]
    env = {key: value for key, value in champion.env.items() if not key.startswith(("MAKE", "MFLAGS"))}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for _ in range(240):
            assert process.poll() is None, (champion.folder / "serve.log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.25)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        log.close()


def test_the_quick_starts_curl_gets_labels(served: int) -> None:
    [command] = blocks("sh")[1].splitlines()
    done = subprocess.run(command.replace("3000", str(served)), shell=True, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["readings"][0]["topic"]["label"] == "courts"
    assert answer["readings"][1]["stance"]["label"] == "restrictive"
    assert answer["model"]["version"] == "1"


def test_the_quick_starts_python_gets_labels(champion: Champion, tmp_path: Path) -> None:
    [code] = blocks("python")
    code = code.replace("sqlite:///mlflow.db", champion.uri)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "asylum" in done.stdout


def test_every_command_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.M))
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.M))
    assert named <= targets
    assert {"train", "test", "ui", "compare", "serve", "bento", "image", "rollback", "lint"} <= targets


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_results_tables_are_what_training_gives(champion: Champion) -> None:
    """Figures to within 0.02: other processors round otherwise."""
    below, above = _tables()
    printed = champion.printed.split("held-out real news")
    for rows, lines, figures in ((above, printed[0], 9), (below, printed[1], 12)):
        assert len(rows) == 4
        of_candidate = {line.split()[0]: line for line in lines.splitlines() if line.split()}
        for candidate, cells in rows.items():
            stated = [float(figure) for cell in cells for figure in re.findall(r"\d\.\d{3}", cell)]
            measured = [float(figure) for figure in re.findall(r"\d\.\d{3}", of_candidate[candidate])]
            assert stated[:figures] == pytest.approx(measured[:figures], abs=0.02), candidate
    test = re.search(r"\*\*topic (\d\.\d+) \[.*stance (\d\.\d+) \[", README)
    line = re.search(r"topic macro-F1 (\d\.\d+) \[.*stance macro-F1 (\d\.\d+) \[", champion.printed)
    assert test and line
    assert [float(f) for f in test.groups()] == pytest.approx([float(f) for f in line.groups()], abs=0.02)


def test_the_corpora_are_as_large_as_the_readme_says() -> None:
    sizes = load_corpora(["bundled", "news", "world", "arguments"]).num_rows
    fictional = load_corpora(["bundled"]).num_rows["train"]
    assert f"{sizes['train']:,} passages, most of them real news" in README
    assert f"{fictional:,} fictional passages" in README
    argued = load_corpora(["arguments"]).num_rows["train"]
    assert f"{sizes['train'] - fictional - argued:,} of real news" in README
    assert f"{argued:,} in which people argue" in README


def _tables() -> list[dict[str, list[str]]]:
    """The two tables of the results: candidate → the other cells."""
    tables: list[dict[str, list[str]]] = []
    for line in README.split("## Results")[1].split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| candidate"):
            tables.append({})
        elif line.startswith("| `"):
            tables[-1][cells[0].split("`")[1]] = cells[1:]
    return tables
