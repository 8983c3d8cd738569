"""Scores of texts by Ray Data: actors in a cluster hold the model, and what one loses is done again."""

import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
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
# What an actor asks of its machine for its one thread. As many as there are CPUs fill half of each machine, so one
# whose machine is lost starts again on another. Until it has, its texts wait, and all later ones.
CPUS = 0.5


@contextmanager
def workers(
    processes: int, model: Path, sha256: str, texts: Iterable[Sequence[str]]
) -> Iterator[Callable[[Sequence[str]], Callable[[], list[Score]]]]:
    """What scores texts in so many processes of the cluster that RAY_ADDRESS names, or of a Ray of this run's own.

    Fewer may work where the cluster has no room; they join when there is. Texts whose process or machine is lost are
    read again, so all get their scores.

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
    from ray.data import ActorPoolStrategy, DataContext, from_arrow_refs

    if not blocks:
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong comes as an exception
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    reader: Any = Reader
    with usable(ray):
        wait_for_cpu(ray)
        batches: Iterable[Any] = (
            from_arrow_refs(list(blocks))
            .map_batches(
                reader,
                fn_constructor_args=given,
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=processes),
                num_cpus=CPUS,
            )
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )
        for batch in batches:
            yield from batch.to_pylist()


class Reader:
    """An actor of the cluster: loads the model once, and makes a block of scores of each block of texts."""

    def __init__(self, files: Any, sha256: str, code: str) -> None:
        self.files, self.sha256, self.code = files, sha256, code

    @cached_property
    def folder(self) -> Path:
        """The folder that the model was loaded from; it is gone, for its files are not needed again.

        Not loaded by `__init__`: what fails there is told as a traceback by Ray.

        Raises:
            BadModel: this machine has other files, or other code.
        """
        import ray

        if (own := provenance.code()) != self.code:
            raise BadModel(f"it has other packages ({own}) than where it was started ({self.code}); install the same")
        with tempfile.TemporaryDirectory(prefix="immnews-") as name:
            folder = Path(name)
            for file, content in ray.get(self.files).items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
            manifest.check_exactly(folder, self.sha256)
            score(folder, [])
        return folder

    def __call__(self, texts: pa.Table) -> pa.Table:
        """A row of `SCORES` for each text, in their order."""
        decoded = [text.decode("utf-8", "surrogatepass") for text in texts["text"].to_pylist()]
        scores = zip(decoded, score(self.folder, decoded), strict=True)
        return pa.Table.from_pylist([{**one._asdict(), "digest": digest(text)} for text, one in scores], SCORES)


def scores_of(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """The scores in rows that must be of these texts.

    Raises:
        BadInput: they are of others.
    """
    if [row["digest"] for row in rows] != list(map(digest, texts)):
        raise BadInput(f"a file of the input {CHANGED}")
    return [Score(**{name: row[name] for name in Score._fields}) for row in rows]
