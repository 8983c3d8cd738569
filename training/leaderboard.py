"""The leaderboard of an experiment's latest run, read back from MLflow: the candidates, best first."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run

from training.registry import MODEL, champion, connect, tracking_uri

COLUMNS = (
    "candidate", "cv mean F1", "topic macro-F1 [95%]", "stance macro-F1 [95%]", "topic acc", "stance acc",
    "trained on", "passages/s", "MB", "fit s",
)  # fmt: skip
NEWS_COLUMNS = (
    "held-out real news", "topic macro-F1 [95%]", "stance macro-F1 [95%]", "acceptable topic", "external stance",
    "topic ECE", "stance ECE",
)  # fmt: skip


class NoRuns(LookupError):
    """The store holds no finished run."""


@dataclass(frozen=True)
class Leaderboard:
    """The parent run and the runs of its candidates, best mean macro-F1 on the validation split first."""

    parent: Run
    candidates: tuple[Run, ...]

    def __str__(self) -> str:
        tags = self.parent.data.tags
        lines = [
            f"experiment {tags['experiment']}, run {self.parent.info.run_id}, data {tags.get('data_digest', '')[:16]}",
            "",
            *_table([COLUMNS, *(_row(run) for run in self.candidates)]),
            "",
            *_table([NEWS_COLUMNS, *(_news_row(run) for run in self.candidates)]),
            "",
            "cv: cross-validation inside the training split, whose labels the default encoder has learnt.",
            "Above otherwise: validation split, which chooses the winner. Below: news dev, passages on which its",
            "annotators agree (acceptable topic: all); external stance: human labels, accuracy.",
        ]
        return "\n".join([*lines, *([tags["outcome"]] if "outcome" in tags else [])])


def leaderboard(parent_id: str | None = None) -> Leaderboard:
    """The leaderboard of one parent run, by default the latest that finished.

    Raises:
        NoRuns: there is none.
    """
    if parent_id is None:
        query = "tags.role = 'experiment' AND attributes.status = 'FINISHED'"
        latest = mlflow.search_runs(
            experiment_names=[MODEL], filter_string=query, order_by=["attributes.start_time DESC"], max_results=1,
            output_format="list",
        )  # fmt: skip
        if not latest:
            raise NoRuns(f"no finished experiment at {tracking_uri()}; run `make train` first")
        parent = latest[0]
    else:
        parent = mlflow.get_run(parent_id)
    children = mlflow.search_runs(
        experiment_names=[MODEL],
        filter_string=f"tags.mlflow.parentRunId = '{parent.info.run_id}'",
        output_format="list",
    )

    def rank(run: Run) -> tuple[float, float]:
        """Those that could read every passage first."""
        metrics = run.data.metrics
        return -metrics.get("data/validated", 0.0), -metrics.get("validation/mean_macro_f1", -1.0)

    ranked = sorted(children, key=rank)
    return Leaderboard(parent, tuple(ranked))


def _row(run: Run) -> tuple[str, ...]:
    m = run.data.metrics
    return (
        run.data.params["candidate"],
        f"{m['cross_validation/mean_macro_f1']:.3f}",
        _interval(m, "validation/topic/macro_f1"),
        _interval(m, "validation/stance/macro_f1"),
        f"{m['validation/topic/accuracy']:.3f}",
        f"{m['validation/stance/accuracy']:.3f}",
        f"{m['data/train_passages']:,.0f}",
        f"{m['cost/passages_per_second']:,.0f}",
        f"{m['cost/artifact_megabytes']:.1f}",
        f"{m['cost/fit_seconds']:.1f}",
    )


def _news_row(run: Run) -> tuple[str, ...]:
    m, name = run.data.metrics, run.data.params["candidate"]
    if "news_dev/topic/macro_f1" not in m:
        return (name, "needs texts", *["–"] * (len(NEWS_COLUMNS) - 2))
    shares = (_interval(m, f"news_dev/{head}/macro_f1") for head in ("topic", "stance"))
    others = (_interval(m, "news_dev/acceptable_topic"), _interval(m, "external/all/stance_accuracy"))
    errors = (f"{m[f'news_dev/{head}/calibration_error']:.3f}" for head in ("topic", "stance"))
    return (name, *shares, *others, *errors)


def _interval(metrics: Mapping[str, float], name: str) -> str:
    value, low, high = (metrics[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.leaderboard`: the latest experiment, and who is champion."""
    argparse.ArgumentParser(description=main.__doc__).parse_args(arguments)
    client = connect()
    try:
        print(leaderboard())
    except NoRuns as error:
        print(error, file=sys.stderr)
        return 2
    now = champion(client)
    print(f"champion: {f'version {now.version}' if now else 'none yet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
