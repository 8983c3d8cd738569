"""What each candidate and each peer costs, and what it is worth: rates, training time, memory, quality."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from data.corpora import load_corpora
from experiments.bench.cost import CALLS, FACTORS, drawn, peak_megabytes, rates
from experiments.bench.peers import PEERS
from experiments.bench.report import HERE, Results, write
from training.experiment import DEFAULT, Candidate, read_experiment
from training.search import grouped_folds
from training.trainer import Part, Trainer, part_of

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
LIMIT = 900  # seconds after which a process is given up
PATIENCE = 120  # seconds that one training may take
TRAINING = ("passages", "fit seconds", "peak MB")


def candidates() -> dict[str, Candidate]:
    """Those of the default experiment, and `words`, which it leaves out because it needs texts."""
    return {one.name: one for one in (*read_experiment(DEFAULT).candidates, Candidate("words", "words"))}


class Bench:
    """The passages of the default experiment that have a text: what every candidate and every peer reads alike."""

    def __init__(self) -> None:
        experiment = read_experiment(DEFAULT)
        self.trainer = Trainer(experiment, load_corpora(experiment.corpora))
        self.seed, self.folds = experiment.seed, experiment.folds
        self.train, self.validation = (with_text(self.trainer.parts[split]) for split in ("train", "validation"))
        pairs = zip(self.train.texts, self.train.rows["corpus"], strict=True)
        bundled = [text for text, corpus in pairs if corpus == "bundled"]
        self.timed = [f"{text} ({number})" for number in range(8) for text in bundled]

    def fit(self, name: str, factor: int, sizes: Sequence[int]) -> dict[str, Any]:
        """Fit a candidate, as it is built, on its training passages drawn `factor` times over.

        Returns:
            `fit seconds` from extracted features on, `peak MB` of the whole process; for factor 1 also `topic` and
            `stance` (macro-F1 on the validation split) and the rates, from text to answer.
        """
        trainer, pipeline = self.trainer, candidates()[name].build()
        pipeline["extract"].transform(self.timed[:2])  # opens the encoder
        rows, weight = trainer.extractor.rows(pipeline, self.train.texts), trainer.weight(self.train)
        chosen = drawn(len(weight), factor, self.seed)
        drawn_rows = rows[chosen]
        started = time.perf_counter()
        features = pipeline["weigh"].fit_transform(drawn_rows)
        pipeline["heads"].fit(features, self.train.y[chosen], sample_weight=weight[chosen])
        out: dict[str, Any] = {"passages": len(chosen), "fit seconds": time.perf_counter() - started}
        out["peak MB"] = peak_megabytes()
        if factor == 1:
            reports, _ = trainer.evaluate(self.validation, trainer.scores(pipeline, self.validation.texts))
            out |= {head: figures.macro_f1.value for head, figures in reports.items()}
            out |= rates(pipeline.predict, self.timed, sizes)
        return out

    def quality(self, answers: Sequence[Sequence[int]]) -> dict[str, float]:
        """Macro-F1 by head of a peer's answers on the validation split, (passages, 2), in the same terms as ours."""
        scores = [
            np.eye(len(names))[column]
            for column, names in zip(np.array(answers).T, self.trainer.codebook.names.values(), strict=True)
        ]
        reports, _ = self.trainer.evaluate(self.validation, scores)
        return {head: figures.macro_f1.value for head, figures in reports.items()}

    def write_data(self, path: Path) -> None:
        """For the peers: what they train on, are judged by and are timed with, as JSON; `fold` is of training rows."""
        train, fold = self.train, np.zeros(len(self.train.texts), int)
        parts = grouped_folds(train.y, np.array(train.documents), self.folds, self.seed)
        for number, (_, test) in enumerate(parts):
            fold[test] = number
        data = {
            "texts": {"train": train.texts.texts, "validation": self.validation.texts.texts},
            "y": train.y.tolist(),
            "weight": self.trainer.weight(train).tolist(),
            "fold": fold.tolist(),
            "timed": self.timed,
            "seed": self.seed % 2**31,  # fastText's and Vowpal Wabbit's are signed
        }
        path.write_text(json.dumps(data), encoding="utf-8")

    def trained_on(self) -> str:
        """In words, what all were trained on and judged by."""
        train, judged = (
            f"{len(part.texts):,} passages ({', '.join(f'{name} {n:,}' for name, n in counts.items())})"
            for part in (self.train, self.validation)
            for counts in (Counter(part.rows["corpus"]),)
        )
        return f"All are trained on the same {train} and judged by {judged}: those of each split whose text is here"


def with_text(part: Part) -> Part:
    """The passages whose text is here: real news is shipped without, and `make data` fetches most of it."""
    return part_of(part.rows.select(np.flatnonzero([text is not None for text in part.texts])))


def command(name: str, factor: int, sizes: Sequence[int], data: Path) -> list[str]:
    """What measures one candidate or peer in a process of its own."""
    options = ["--factor", str(factor), "--sizes", *map(str, sizes)]
    if name in PEERS:
        return [str(PEERS_PYTHON), "-m", "experiments.bench.measure_peer", name, str(data), *options]
    return [sys.executable, "-m", "experiments.bench.candidates", "--fit", name, *options]


def run(command: Sequence[str], limit: float = LIMIT) -> dict[str, Any] | str:
    """The figures that a process prints as its last line, or why there are none, in a few words.

    The process has a group of its own: Ctrl-C is not its to answer, and `subprocess.run` kills it then.
    """
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, process_group=0)
    except FileNotFoundError:
        return f"not installed (there is no {os.path.relpath(command[0], ROOT)})"
    except subprocess.TimeoutExpired:
        return f"took longer than {limit:.0f} s"
    said = done.stderr.strip().splitlines() or ["without a word"]
    if done.returncode:
        return said[-1] if done.returncode == 3 else f"ended with {done.returncode}: {said[-1]}"
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(bench: Bench, results: Results, first: bool, data: Path) -> None:
    """One round: everything in turns; what takes minutes, more passages and 10,000 a call, in the first round alone.

    A training that must take longer than `PATIENCE`, as the largest before it says, is left out.
    """
    sizes, factors = (list(CALLS), FACTORS) if first else (list(CALLS)[:-1], FACTORS[:1])
    for factor in factors:
        for name in (*candidates(), *PEERS):
            known = results.figures.get(name, {})
            if name in results.reasons and not known:
                continue  # as before: not installed
            largest = max((one for one in factors if f"fit seconds, {one}x" in known), default=factor)
            expected = known.get(f"fit seconds, {largest}x", [0.0])[-1] * factor / largest
            figures: dict[str, Any] | str = f"left out, it would take about {expected:.0f} s"
            if expected <= PATIENCE:
                figures = run(command(name, factor, sizes, data))
            if not isinstance(figures, str) and "answers" in figures:
                figures |= bench.quality(figures.pop("answers"))
            print(f"  {name}, {factor}x: {figures}", flush=True)
            if isinstance(figures, str):
                reason = f"{factor}x {figures}" if known else figures
                results.reasons[name] = "; ".join(filter(None, [results.reasons.get(name), reason]))
                continue
            for figure, value in figures.items():
                results.add(name, f"{figure}, {factor}x" if figure in TRAINING else figure, value)


def benchmark(rounds: int) -> int:
    """All rounds, each written as it ends; Ctrl-C keeps those before."""
    bench, done = Bench(), 0
    results = Results(bench.trained_on())
    try:
        with tempfile.TemporaryDirectory(prefix="immnews-bench-") as folder:
            data = Path(folder, "data.json")
            bench.write_data(data)
            for done in range(rounds):
                print(f"round {done + 1} of {rounds}", flush=True)
                measure(bench, results, done == 0, data)
                results.rounds = done + 1
                print(write(results), flush=True)
    except KeyboardInterrupt:
        kept = f"of {done} rounds, in {HERE}" if done else "nothing"
        print(f"\ninterrupted in round {done + 1}; kept: {kept}", file=sys.stderr)
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`make bench`: writes candidates.json, candidates.md and candidates.png beside this module after each round."""
    parser = argparse.ArgumentParser(prog="experiments.bench.candidates", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit", choices=candidates(), help="one measurement of one candidate, as JSON")
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(CALLS), choices=CALLS)
    parser.add_argument("--data", type=Path, help="only write what the peers read into this file")
    options = parser.parse_args(arguments)
    if options.fit:
        with threadpool_limits(1):
            print(json.dumps(Bench().fit(options.fit, options.factor, options.sizes)))
    elif options.data:
        Bench().write_data(options.data)
    else:
        return benchmark(options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
