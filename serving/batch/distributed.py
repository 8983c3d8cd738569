"""Scores of texts by Ray Data: processes of a cluster hold the model, and what one loses another does again."""

import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from serving import manifest
from serving.batch import provenance
from serving.batch.cluster import connected, usable, wait_for_cpu
from serving.batch.readings import BadModel, Score, score
from serving.batch.scoring import digest
from serving.batch.sources import CHANGED, BadInput

SCORES = pa.schema([
    ("topic", pa.string()), ("topic_confidence", pa.float64()), ("stance", pa.string()),
    ("stance_confidence", pa.float64()), ("abstained", pa.bool_()), ("digest", pa.binary()),
])  # fmt: skip


@contextmanager
def workers(
    processes: int, model: Path, sha256: str, texts: Iterable[Sequence[str]]
) -> Iterator[Callable[[Sequence[str]], Callable[[], list[Score]]]]:
    """What scores texts in so many processes of the cluster that RAY_ADDRESS names, or of a Ray of this run's own.

    Fewer may work where the cluster has no room; they join when there is. Texts whose process or machine is lost are
    handed to another, so all get their scores.

    Args:
        model: the model's folder, checked; its files travel to the processes, which check them again.
        sha256: of its manifest.
        texts: all lists of texts that will be asked for, in that order: a data set begins with all that it is of.

    Raises:
        NoCluster: there is none. What is given out raises it too, and BadInput if it is asked for other texts.
    """
    with connected(processes) as ray:
        with usable(ray):
            encoded = ([text.encode("utf-8", "surrogatepass") for text in some] for some in texts)
            blocks = [ray.put(pa.table({"text": pa.array(some, pa.binary())})) for some in encoded]
            files = ray.put({name: (model / name).read_bytes() for name in manifest.check(model, sha256)})
        with closing(read(ray, processes, blocks, files, sha256, provenance.code())) as rows:
            yield lambda texts: lambda: scores_of(texts, list(islice(rows, len(texts))))


def read(ray: Any, processes: int, blocks: Sequence[Any], *given: Any) -> Generator[dict[str, Any], None, None]:
    """A row of `SCORES` for each text in the blocks, in their order, as they come.

    Raises:
        NoCluster: they do not come.
    """
    from ray.data import DataContext, TaskPoolStrategy, from_arrow_refs

    if not blocks:
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong comes as an exception
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    scoring: Any = score_block
    with usable(ray):
        wait_for_cpu(ray)
        # Tasks, and not actors: an actor whose machine is lost keeps its texts until there is room for it again.
        batches: Iterable[Any] = (
            from_arrow_refs(list(blocks))
            .map_batches(
                scoring,
                fn_args=given,
                batch_size=None,
                batch_format="pyarrow",
                compute=TaskPoolStrategy(size=processes),
                num_cpus=1,
            )
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )
        for batch in batches:
            yield from batch.to_pylist()


def score_block(texts: pa.Table, files: Any, sha256: str, code: str) -> pa.Table:
    """Runs in the cluster: a block of scores, of one of texts."""
    folder = loaded(files, sha256, code)
    decoded = [text.decode("utf-8", "surrogatepass") for text in texts["text"].to_pylist()]
    scores = zip(decoded, score(folder, decoded), strict=True)
    return pa.Table.from_pylist([{**one._asdict(), "digest": digest(text)} for text, one in scores], SCORES)


@lru_cache(maxsize=1)
def loaded(files: Any, sha256: str, code: str) -> Path:
    """The folder that this process has loaded the model from, once; it is gone, for the files are not needed again.

    Raises:
        BadModel: this process has other files, or other code.
    """
    import ray

    if (own := provenance.code()) != code:
        raise BadModel(f"it has other packages ({own}) than where the run was started ({code}); install the same")
    with tempfile.TemporaryDirectory(prefix="immnews-") as name:
        folder = Path(name)
        for file, content in ray.get(files).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        manifest.check_exactly(folder, sha256)
        score(folder, [])
    return folder


def scores_of(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """The scores in rows that must be of these texts.

    Raises:
        BadInput: they are of others.
    """
    if [row["digest"] for row in rows] != list(map(digest, texts)):
        raise BadInput(f"a file of the input {CHANGED}")
    return [Score(**{name: row[name] for name in Score._fields}) for row in rows]
