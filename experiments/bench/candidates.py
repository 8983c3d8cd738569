"""What each candidate of the default experiment costs, and what it is worth: rates, training time, memory, quality."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from threadpoolctl import threadpool_limits

from data.corpora import load_corpora
from experiments.bench import machine
from training.experiment import DEFAULT, read_experiment
from training.trainer import Trainer

HERE = Path(__file__).resolve().parent
SIZES = (1, 64, 10_000)
FACTORS = (1, 4, 16)
CALLS = {1: 100, 64: 5, 10_000: 1}


def fit(name: str, factor: int) -> dict[str, Any]:
    """Fit one candidate, as it is built, on its training passages drawn `factor` times over; in a process of its own.

    Returns:
        `fit seconds` from extracted features on, `peak MB` of the whole process; for factor 1 also `topic` and `stance`
        (macro-F1 on the validation split) and `passages/s` at each size, from text to answer.
    """
    experiment = read_experiment(DEFAULT)
    trainer = Trainer(experiment, load_corpora(experiment.corpora))
    pipeline = next(one for one in experiment.candidates if one.name == name).build()
    train = trainer.readable(pipeline, trainer.parts["train"])
    rows, weight = trainer.extractor.rows(pipeline, train.texts), trainer.weight(train)
    chosen = np.arange(len(train.texts))
    if factor > 1:
        chosen = np.random.default_rng(experiment.seed).integers(0, len(chosen), factor * len(chosen))
    drawn = rows[chosen]
    started = time.perf_counter()
    features = pipeline["weigh"].fit_transform(drawn)
    pipeline["heads"].fit(features, train.y[chosen], sample_weight=weight[chosen])
    out: dict[str, Any] = {"passages": len(chosen), "fit seconds": time.perf_counter() - started}
    out["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if factor == 1:
        validation = trainer.readable(pipeline, trainer.parts["validation"])
        reports, _ = trainer.evaluate(validation, trainer.scores(pipeline, validation.texts))
        out |= {head: figures.macro_f1.value for head, figures in reports.items()}
        bundled = load_corpora(["bundled"])["train"]["text"][:]
        texts = [f"{text} ({number})" for number in range(8) for text in bundled]
        pipeline.predict(texts[:2])  # opens the encoder
        for size in SIZES:
            started = time.perf_counter()
            for call in range(CALLS[size]):
                pipeline.predict(texts[call * size % 1_000 :][:size])
            out[f"passages/s, {size:,} a call"] = CALLS[size] * size / (time.perf_counter() - started)
    return out


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Candidate → figure → its values, one a round; all candidates of a round before the next."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(1, rounds + 1):
        for factor in FACTORS:
            for candidate in read_experiment(DEFAULT).candidates:
                command = [sys.executable, "-m", "experiments.bench.candidates", "--fit", candidate.name, str(factor)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                print(f"round {number}, {candidate.name}, {factor}x: {figures}", flush=True)
                kept = found.setdefault(candidate.name, {})
                for name, value in figures.items():
                    timed = name in ("passages", "fit seconds", "peak MB")
                    kept.setdefault(f"{name}, {factor}x" if timed else name, []).append(value)
    return found


def table(found: dict[str, dict[str, list[float]]], rounds: int) -> str:
    """Medians, with the lowest and highest where they differ."""
    names = list(next(iter(found.values())))
    lines = [
        f"Medians [lowest, highest] of {rounds} rounds in turns, {machine()}. Quality: macro-F1, validation split.",
        "",
    ]
    lines += ["| | " + " | ".join(f"`{name}`" for name in found) + " |", "| --- |" + " ---: |" * len(found)]
    for name in names:
        cells = []
        for figures in found.values():
            low, middle, high = min(figures[name]), statistics.median(figures[name]), max(figures[name])
            cells.append(f"{middle:,.4g}" if low == high else f"{middle:,.4g} [{low:,.4g}, {high:,.4g}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Quality against the rate of scoring, one point a candidate."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, figures in found.items():
        rate = statistics.median(figures[f"passages/s, {SIZES[-1]:,} a call"])
        quality = (figures["topic"][0] + figures["stance"][0]) / 2
        axes.scatter(rate, quality)
        axes.annotate(name, (rate, quality), xytext=(6, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="passages a second, 10,000 a call", ylabel="mean macro-F1 of topic and stance")
    axes.margins(x=0.25, y=0.1)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """`make bench`: writes candidates.json, candidates.md and candidates.png beside this module."""
    parser = argparse.ArgumentParser(prog="experiments.bench.candidates", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit", nargs=2, metavar=("CANDIDATE", "FACTOR"), help="one measurement, as JSON")
    options = parser.parse_args(arguments)
    if options.fit:
        with threadpool_limits(1):
            print(json.dumps(fit(options.fit[0], int(options.fit[1]))))
        return 0
    found = measure(options.rounds)
    (HERE / "candidates.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = table(found, options.rounds)
    (HERE / "candidates.md").write_text(text, encoding="utf-8")
    draw(found, HERE / "candidates.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
