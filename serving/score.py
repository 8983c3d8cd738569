"""`make score`: topic and stance of every row of a table, by the champion; after a kill the same command goes on."""

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from serving import manifest, registry
from serving.batch import cluster, distributed, locations, parts, provenance, tables
from serving.batch.linewise import open_source
from serving.batch.locations import Target
from serving.batch.readings import BadModel, workers
from serving.batch.scoring import Run, ahead, part_blocks, to_submit
from serving.batch.sources import CHANGED, BadInput, Block, Source, Wanted
from serving.schema import MAX_ARTICLE

INTERRUPTED = 130
MAX_PROCESSES, MAX_PART_ROWS = 256, 1_000_000


class OutputExists(Exception):
    """There is a file already where the output should go."""


REFUSALS = (
    locations.BadLocation, BadInput, BadModel, OutputExists, parts.OtherRun, registry.NoChampion, manifest.ChangedModel,
    cluster.NoCluster, OSError, sqlite3.Error, pa.ArrowException, RecursionError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the output is there; 2 where it cannot be made, with the reason on the error stream; 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        target = locations.target(options.output)
        folder = parts.folder_of(target)
        try:
            with parts.locked(folder):
                return produce(options, target, folder)
        except (KeyboardInterrupt, BrokenProcessPool) as error:
            stopped = isinstance(error, KeyboardInterrupt)
            done = len(list(folder.glob("part-*")))
            reason = "interrupted" if stopped else "error: a worker process died (was there memory enough?)"
            print(f"{reason}; the same command goes on from part {done}", file=sys.stderr)
            return INTERRUPTED if stopped else 2
    except REFUSALS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="serving.score", description=__doc__)
    line.add_argument("input", metavar="INPUT", help=f"file, folder, pattern or URL of {', '.join(locations.READABLE)}")
    line.add_argument("output", metavar="OUTPUT", help=f"path or URL that ends in {', '.join(locations.WRITABLE)}")
    line.add_argument("--text", metavar="COLUMN", help="the column to read (text)")
    line.add_argument("--columns", metavar="A,B", help="the columns to keep (all)")
    line.add_argument("--min-confidence", type=share, metavar="X", help="abstain where the topic's is lower, too (0)")
    line.add_argument(
        "--articles", action="store_true", help=f"texts are articles, to {MAX_ARTICLE:,} characters: a row a passage"
    )
    line.add_argument(
        "--processes", type=partial(whole, MAX_PROCESSES), default=1, metavar="N", help="worker processes (1)"
    )
    line.add_argument(
        "--engine", choices=["local", "ray"], default="local", help=f"ray: in the cluster of {cluster.ADDRESS} (local)"
    )
    line.add_argument(
        "--part-rows",
        type=partial(whole, MAX_PART_ROWS),
        metavar="N",
        help="rows of a part; a kill costs those under way (10000)",
    )
    line.add_argument("--restart", action="store_true", help="drop the parts of an unfinished run")
    line.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it is there")
    line.set_defaults(**provenance.DEFAULTS)
    return line


def share(text: str) -> float:
    """A number from 0 to 1.

    Raises:
        ArgumentTypeError: it is not one; argparse prints the message and exits with 2.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a confidence; give a number from 0 to 1")
    return value


def whole(limit: int, text: str) -> int:
    """A whole number from 1 to a limit.

    Raises:
        ArgumentTypeError: as for `share`.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= limit:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {limit:,}; give one")
    return int(text)


def produce(options: argparse.Namespace, target: Target, folder: Path) -> int:
    """Make the output, from where an earlier call left off, in a folder that this process holds."""
    files = locations.find(options.input)
    if target.url in {file.url for file in files}:
        raise locations.BadLocation(f"OUTPUT {options.output!r}: is a file of the input; write elsewhere")
    champion = registry.champion()
    description = provenance.describe(options, files, champion)
    if options.restart:
        parts.clear(folder)
    parts.check(folder, description)
    if parts.read_description(folder) != description and not options.overwrite and target.exists():
        if provenance.finished(target) != provenance.identity(description):
            raise OutputExists(f"OUTPUT {options.output!r}: is there already; name another, or give --overwrite")
        print(f"{options.output} is there already, made by this very call; nothing to do")
        return 0
    ending = locations.suffix(target.path, locations.WRITABLE)
    source = open_source(files, wanted(options, ending))
    table = tables.Table(ending, layout(source, options), options.articles, options.min_confidence)
    with parts.opened(folder, ending, description) as kept:
        started, before = time.monotonic(), kept.counts().get("rows", 0)
        if before < source.rows:
            make_parts(options, kept, source, table, champion)
            if changed := [file.url for file in files if file.changed()]:
                raise BadInput(f"{changed[0]}: {CHANGED}")
        seconds = time.monotonic() - started
        provenance.publish(kept, table, target, provenance.note(options, champion, description))
        counts = kept.counts()
    parts.clear(folder)
    print(summary(counts, (counts.get("rows", 0) - before) / seconds, options.output))
    return 0


def wanted(options: argparse.Namespace, ending: str) -> Wanted:
    """What is needed of the input."""
    columns = options.columns.split(",") if options.columns else None
    return Wanted(options.text, columns, options.articles, ending.startswith(".jsonl"))


def layout(source: Source, options: argparse.Namespace) -> pa.Schema | None:
    """The schema of the columns kept.

    Raises:
        BadInput: one of them bears a name that scoring adds.
    """
    added = tables.Table.added(options.articles).names
    if taken := [name for name in source.names if name in added]:
        remedy = "rename it, or leave it out by --columns"
        raise BadInput(
            f"column {taken[0]!r} of the input bears a name that scoring adds ({', '.join(added)}); {remedy}"
        )
    return source.schema


def make_parts(
    options: argparse.Namespace, kept: parts.Parts, source: Source, table: tables.Table, champion: registry.Champion
) -> None:
    """Score what is not scored yet."""
    # Worker processes import this module too, but have no use for BentoML.
    from serving.bundle import checked_copy

    fetched = kept.folder / "model"
    parts.drop(fetched)
    fetched.mkdir()
    model, done = checked_copy(champion, fetched), kept.counts().get("rows", 0)
    waiting = ahead(options.processes, options.part_rows)
    if options.engine == "ray":
        blocks = counted(part_blocks(source.blocks(), options.part_rows), source.rows)
        texts = to_submit(kept, options.articles, blocks)
        engine = distributed.workers(options.processes, model, champion.manifest, texts)
    else:
        engine = workers(options.processes, model)
    with (
        engine as submit,
        tqdm(total=source.rows, initial=done, unit=" rows", desc="scoring", mininterval=0.5) as bar,
    ):
        Run(kept, table, submit, waiting, bar.update).over(part_blocks(source.blocks(), options.part_rows))


def counted(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """The blocks, and on the terminal how many of their rows have been read."""
    with tqdm(total=rows, unit=" rows", desc="reading", mininterval=0.5) as bar:
        for block in blocks:
            yield block
            bar.update(len(block.texts))


def summary(counts: Mapping[str, int], rate: float, output: str) -> str:
    """The figures at the end."""
    kinds = {name.removeprefix("error: "): count for name, count in counts.items() if name.startswith("error: ")}
    errors = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
    told = {name: f"{counts.get(name, 0):,}" for name in ("rows", "scored", "duplicates", "abstained")}
    told |= {"errors": f"{sum(kinds.values()):,}" + (f" ({errors})" if errors else ""), "rows/s": f"{rate:,.0f}"}
    return "\n".join(f"{name:12}{value}" for name, value in {**told, "output": output}.items())


if __name__ == "__main__":
    sys.exit(main())
