"""What batch scoring on Ray costs beside the local engine, in turns: seconds of a start, and passages a second after.

python -m experiments.bench.cluster [ROUNDS]
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from experiments.bench import machine
from experiments.bench.report import cell

ROOT = Path(__file__).resolve().parents[2]
# Engine, processes, and the threads of one; two processes have one each, and so has Ray's.
ENGINES = [("local", 1, 2), ("local", 1, 1), ("local", 2, 1), ("ray", 1, 1), ("ray", 2, 1)]
# Different passages; what the second lot takes longer than the first is reading alone. Both are whole turns of two
# processes, which get 200 at a time.
FEW, MANY = 1_200, 5_600


def passages(count: int) -> list[str]:
    """Different passages of four sentences of the bundled corpus each, the same at every call."""
    with (ROOT / "data" / "corpus" / "passages.jsonl").open(encoding="utf-8") as corpus:
        sentences = [one for line in corpus for one in json.loads(line)["text"].split(". ") if one]
    chosen = random.Random(5)
    return [". ".join(chosen.sample(sentences, 4)) for _ in range(count)]


def seconds(source: Path, engine: str, processes: int, threads: int) -> float:
    """How long the whole command takes."""
    target = source.with_suffix(".out.jsonl")
    command = [sys.executable, "-m", "serving.score", str(source), str(target), "--overwrite", "--restart"]
    options = ["--engine", engine, "--processes", str(processes)]
    started = time.perf_counter()
    env = {**os.environ, "IMMNEWS_THREADS": str(threads)}
    subprocess.run([*command, *options], cwd=ROOT, env=env, capture_output=True, check=True)
    return time.perf_counter() - started


def main(rounds: int) -> None:
    """Prints the table: medians, and the lowest and highest of all rounds."""
    starts, rates = defaultdict(list), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        sources = {rows: Path(folder, f"{rows}.jsonl") for rows in (FEW, MANY)}
        for rows, source in sources.items():
            source.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages(rows)), encoding="utf-8")
        for _ in range(rounds):
            for way in ENGINES:
                few, many = (seconds(source, *way) for source in sources.values())
                rates[way].append((MANY - FEW) / (many - few))
                starts[way].append(many - MANY / rates[way][-1])
    print(f"{rounds} rounds in turns, {MANY:,} passages; {machine()}\n")
    print("| engine, processes, threads of each | passages a second | start, seconds |\n| --- | ---: | ---: |")
    for way in ENGINES:
        print(f"| {', '.join(map(str, way))} | {cell(rates[way])} | {cell(starts[way])} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
