"""The figures of candidates and peers as JSON, as Markdown tables, and as one picture of quality against rate."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure

from experiments.bench import machine
from experiments.bench.cost import CALLS, FACTORS, rate_name
from experiments.bench.peers import PEERS

HERE = Path(__file__).resolve().parent
SERVED = "mlflow models serve"
SERVED_NOTE = (
    f" `{SERVED}`: the champion over HTTP, as found for service.md, in turns with the service and not with the other "
    "rows; 64 a call by two connections; 10,000 would take about the 60 s that it allows a request."
)


@dataclass
class Results:
    """Name of a candidate or peer → figure → its values, one a round; `reasons` says why one has fewer or none."""

    trained_on: str
    rounds: int = 0
    machine: str = field(default_factory=machine)
    reasons: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, figure: str, value: float) -> None:
        """Note one value."""
        self.figures.setdefault(name, {}).setdefault(figure, []).append(value)


def served(path: Path) -> dict[str, list[float]]:
    """The rates of `mlflow models serve` that `experiments.bench.service` found, none where it has not run."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))["figures"]
    out = {rate_name(1): [1000 / milliseconds for milliseconds in found["mlflow: p50 ms, 1 connection"]]}
    many = found.get("mlflow: passages/s, 2 connections, 64 a request")
    return {**out, rate_name(64): many} if many else out


def table(results: Results, served: dict[str, list[float]]) -> str:
    """Two tables, of quality with rates and of training; medians, with the lowest and highest where they differ."""
    found = {**results.figures, **({SERVED: served} if served else {})}
    names = [*found, *(name for name in results.reasons if name not in found)]
    rates = {rate_name(size): rate_name(size) for size in CALLS}
    worth = {f"passages, {FACTORS[0]}x": "trained on", "topic": "topic", "stance": "stance", **rates}
    cost = [f"{figure}, {factor}x" for figure in ("fit seconds", "peak MB") for factor in FACTORS]
    trained = [name for name in names if name != SERVED]
    lines = [
        f"Medians [lowest, highest] of {results.rounds} round(s) in turns, {results.machine}; what takes minutes (more "
        f"passages, {max(CALLS):,} a call) once, in the first. {results.trained_on}.",
        "",
        *grid(found, names, worth, results.reasons),
        "",
        "Topic and stance: macro-F1 on the validation split. Rates: from text to answer, nothing cached, encoders on "
        "two threads, all else on one." + (SERVED_NOTE if served else ""),
        "",
        *grid(found, trained, dict(zip(cost, cost, strict=True)), results.reasons),
        "",
        "Training: passages drawn with replacement, 1x, 4x and 16x as many; both heads, on one thread, from what is "
        "extracted once of each passage (embeddings, words); fastText, which takes no weights, from four copies on "
        "average, and it and Vowpal Wabbit by way of a file. Peak: of the whole process, libraries included.",
    ]
    return "\n".join(lines) + "\n"


def grid(
    found: dict[str, dict[str, list[float]]], names: Sequence[str], columns: dict[str, str], reasons: dict[str, str]
) -> list[str]:
    """A row a name, a column a figure; what is missing is a dash, and where a reason is known, the row gives it."""
    lines = ["| | " + " | ".join(columns.values()) + " |", "| --- |" + " ---: |" * len(columns)]
    for name in names:
        cells = [cell(found.get(name, {}).get(figure, [])) for figure in columns]
        reason = f": {reasons[name].replace('|', '/')}" if name in reasons else ""
        lines.append(f"| `{name}`{reason} | " + " | ".join(cells) + " |")
    return lines


def cell(values: Sequence[float]) -> str:
    """The median, and the lowest and highest where they are not written the same."""
    if not values:
        return "–"
    low, middle, high = (number(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def number(value: float) -> str:
    """As 47,312 or 12.3 or 0.713 is written."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def draw(results: Results, path: Path) -> None:
    """Mean macro-F1 against the rate at the largest call, one mark a candidate or peer that has both."""
    figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel=rate_name(max(CALLS)), ylabel="macro-F1, mean of topic and stance")
    axes.set_title("filled: our candidates, hollow: peers trained on the same passages", fontsize=10)
    axes.grid(alpha=0.3)
    marks = zip(results.figures.items(), cycle("osD^vPX*"), strict=False)
    for number, ((name, figures), mark) in enumerate(marks):
        if {rate_name(max(CALLS)), "topic", "stance"} <= set(figures):
            rate, colour = statistics.median(figures[rate_name(max(CALLS))]), f"C{number}"
            quality = (figures["topic"][0] + figures["stance"][0]) / 2
            face = "none" if name in PEERS else colour
            axes.scatter(rate, quality, 60, marker=mark, facecolor=face, edgecolor=colour, linewidth=1.5, label=name)
    axes.margins(x=0.1, y=0.1)
    figure.legend(loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=110)


def write(results: Results, folder: Path = HERE) -> str:
    """candidates.json, candidates.md and candidates.png; returns the tables."""
    (folder / "candidates.json").write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
    text = table(results, served(folder / "service.json"))
    (folder / "candidates.md").write_text(text, encoding="utf-8")
    draw(results, folder / "candidates.png")
    return text
