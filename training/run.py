"""The main job: train and compare every candidate of an experiment, register the winner, and let the gate decide.

python -m training.run experiments/default.toml
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import mlflow
from threadpoolctl import threadpool_limits

from data.corpora import UnknownCorpus, load_corpora
from data.files import UnreadableFile
from data.hydrate import HydrationError
from data.passages import InvalidPassages
from data.splits import LeakingSplits, describe_split, digest, refuse_near_duplicates
from training import registry, tracking
from training.cache import CacheError
from training.engine import engine
from training.experiment import DEFAULT, Experiment, InvalidExperiment, read_experiment
from training.leaderboard import leaderboard
from training.promotion import register_and_judge
from training.trainer import Trainer

REFUSED = (InvalidExperiment, UnknownCorpus, UnreadableFile, InvalidPassages, LeakingSplits, CacheError, HydrationError)


def run(experiment: Experiment) -> None:
    """Run an experiment. Prints progress, the leaderboard and the outcome; all of it lies in MLflow too."""
    dataset = load_corpora(experiment.corpora)
    if empty := [split for split, rows in dataset.items() if not len(rows)]:
        raise InvalidExperiment(
            f"corpora {list(experiment.corpora)} leave no passage for {' and '.join(empty)}; add a corpus that is "
            "split three ways, such as 'bundled', or a file of your own with more documents"
        )
    refuse_near_duplicates(dataset)
    split, data_digest = describe_split(dataset), digest(dataset)
    client, trainer = registry.connect(), Trainer(experiment, dataset)
    with engine(trainer.jobs), mlflow.start_run(run_name=experiment.name) as parent:
        mlflow.set_tags({"role": "experiment", "data_digest": data_digest})
        mlflow.log_dict(split, "split.json")
        mlflow.log_params({f"split.{name}": counts["passages"] for name, counts in split.items()})
        tracking.log_context(experiment)
        tracking.log_data(dataset, experiment)
        trained = []
        for number, candidate in enumerate(experiment.candidates, start=1):
            print(f"[{number}/{len(experiment.candidates)}] {candidate.name}", flush=True)
            trained.append(trainer.train(candidate))
        # A candidate that could not read every passage was validated on others: its figure does not compare.
        most = max(one.validated for one in trained)
        winner = max((one for one in trained if one.validated == most), key=lambda one: one.mean_f1)
        mlflow.set_tag("winner", winner.candidate.name)
        mlflow.set_tag("outcome", register_and_judge(client, trainer, winner, data_digest))
        board = leaderboard(parent.info.run_id)
        mlflow.log_text(str(board), "leaderboard.txt")
    print(f"\n{board}")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.run [EXPERIMENT]`; 0 when the experiment ran, whatever the gate decided, 2 on bad input."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("experiment", nargs="?", type=Path, default=DEFAULT)
    path = parser.parse_args(arguments).experiment
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with threadpool_limits(1):  # same sums, whatever the machine; the cross-validation works in processes
            run(read_experiment(path))
    except REFUSED as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: what was encoded is kept, no version was promoted; run it again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
