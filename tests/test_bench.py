"""The benchmark of candidates and peers: what its tables say of what was found, and what becomes of one that fails."""

import json
import sys
from pathlib import Path

import pytest

from experiments.bench import candidates, cost, report
from experiments.bench.candidates import command, run
from experiments.bench.report import Results, cell, served, table, write

RATES = {cost.rate_name(size): [1000.0 * size] for size in cost.CALLS}


@pytest.fixture
def results() -> Results:
    """Two rounds: one that did all, one that lacks its largest training, one that is not installed."""
    found = Results("All are trained on the same 20 passages", rounds=2, machine="2 cores")
    for name in ("words", "fastText"):
        for figure, value in {"passages, 1x": 20.0, "topic": 0.5, "stance": 0.7, "fit seconds, 1x": 2.0}.items():
            found.add(name, figure, value)
        found.figures[name] |= RATES
    found.add("words", "fit seconds, 1x", 3.0)
    found.reasons = {"fastText": "16x took longer than 900 s", "sentence-transformers": "not installed (a | b)"}
    return found


def rows(text: str, number: int) -> dict[str, list[str]]:
    """The rows of the table of that number, by name: their other cells."""
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in tables[number].splitlines()[2:]]
    return {first: rest for first, *rest in cells}


def test_the_tables_hold_medians_with_their_spread_and_a_dash_for_what_is_missing(results: Results) -> None:
    text = table(results, {})
    assert rows(text, 0)["`words`"] == ["20", "0.500", "0.700", "1,000", "64,000", "10,000,000"]
    assert rows(text, 1)["`words`"] == ["2.5 [2, 3]", "–", "–", "–", "–", "–"]
    assert "of 2 round(s)" in text and "trained on the same 20 passages" in text


def test_a_peer_that_fails_has_its_reason_in_its_row(results: Results) -> None:
    quality = rows(table(results, {}), 0)
    assert quality["`fastText`: 16x took longer than 900 s"][1] == "0.500"
    assert quality["`sentence-transformers`: not installed (a / b)"] == ["–"] * 6


def test_the_rates_of_mlflows_server_are_those_that_the_service_was_compared_with(
    results: Results, tmp_path: Path
) -> None:
    assert served(tmp_path / "service.json") == {}
    path = tmp_path / "service.json"
    path.write_text(json.dumps({"figures": {"mlflow: p50 ms, 1 connection": [20.0, 25.0, 40.0]}}))
    text = table(results, served(path))
    assert rows(text, 0)[f"`{report.SERVED}`"] == ["–", "–", "–", "40 [25, 50]", "–", "–"]
    assert f"`{report.SERVED}`" not in rows(text, 1)
    assert served(report.HERE / "service.json")  # as the benchmark of the service writes it


def test_all_three_files_are_written(results: Results, tmp_path: Path) -> None:
    text = write(results, tmp_path)
    assert (tmp_path / "candidates.md").read_text() == text
    assert Results(**json.loads((tmp_path / "candidates.json").read_text())) == results
    assert (tmp_path / "candidates.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_keeps_three_digits() -> None:
    assert [cell([value]) for value in (47312.4, 99.96, 0.71349, 0.0)] == ["47,312", "100", "0.713", "0.000"]


def test_a_process_answers_with_its_last_line() -> None:
    assert run([sys.executable, "-c", "print('loading'); print('{\"topic\": 0.5}')"]) == {"topic": 0.5}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('some\\nno memory')", "ended with 1: no memory"),
        ("import os; os._exit(9)", "ended with 9: without a word"),
        ("import sys; print('not installed (x)', file=sys.stderr); sys.exit(3)", "not installed (x)"),
    ],
)
def test_a_process_that_fails_gives_its_reason(code: str, reason: str) -> None:
    assert run([sys.executable, "-c", code]) == reason


def test_a_process_that_hangs_is_given_up() -> None:
    assert run([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.2) == "took longer than 0 s"


def test_peers_without_their_environment_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(candidates, "PEERS_PYTHON", candidates.ROOT / "no-such-environment" / "python")
    assert run(command("fastText", 1, [1], tmp_path)) == "not installed (there is no no-such-environment/python)"


def test_a_peer_whose_library_is_missing_says_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = {"texts": {}, "y": [], "weight": [], "fold": [], "timed": [], "seed": 1}
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    monkeypatch.setattr(candidates, "PEERS_PYTHON", Path(sys.executable))  # of this environment, which has no peer
    remedy = "not installed (No module named 'fasttext'); `make bench TORCH=1` installs all"
    assert run(command("fastText", 1, [1], path)) == remedy


def test_passages_are_drawn_the_same_each_time() -> None:
    assert cost.drawn(5, 1, 0).tolist() == [0, 1, 2, 3, 4]
    drawn = cost.drawn(5, 4, 7)
    assert len(drawn) == 20 and set(drawn) <= set(range(5)) and drawn.tolist() == cost.drawn(5, 4, 7).tolist()


def test_the_peak_of_a_process_is_its_own() -> None:
    held = bytearray(300_000_000)  # would count for a child by what `getrusage` says
    code = "from experiments.bench.cost import peak_megabytes; print(peak_megabytes())"
    assert len(held) / 1e6 > float(run([sys.executable, "-c", code]))  # type: ignore[arg-type]
