"""The card of a model: one dictionary that travels with it, and the same as Markdown for people."""

import subprocess
from collections.abc import Mapping
from typing import Any

from data.codebook import load_codebook
from training.evaluation import Report
from training.registry import MODEL


def quality(reports: Mapping[str, Mapping[str, Report]]) -> dict[str, Any]:
    """Figures by evaluation (`cross_validation`, `validation`, `test`) and head, with 95% intervals."""
    return {
        name: {
            head: {
                "macro_f1": list(report.macro_f1),
                "accuracy": list(report.accuracy),
                "calibration_error": report.calibration_error,
                "f1": {label: figures["f1"] for label, figures in report.per_class.items() if figures["support"]},
            }
            for head, report in heads.items()
        }
        for name, heads in reports.items()
    }


def make_card(
    candidate: str, experiment: str, data_digest: str, training: str, threshold: float, abstention: Mapping[str, float],
    measured: Mapping[str, Any], held_out: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What a model says of itself, ready for JSON.

    `training` says in words what it was fitted on; `abstention` is what `threshold` does on the test split; `held_out`
    are shares measured on real news besides the F1 of `measured`.
    """
    commit, dirty = git_state()
    return {
        "name": MODEL,
        "candidate": candidate,
        "experiment": experiment,
        "codebook": load_codebook().as_dict(),
        "data_digest": data_digest,
        "training": training,
        "threshold": threshold,
        "abstention": dict(abstention),
        "quality": dict(measured),
        "held_out": dict(held_out),
        "git_commit": commit + ("-dirty" if dirty else ""),
    }


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card as a Markdown page."""
    topics = [label["name"] for label in card["codebook"]["topics"]]
    stances = [label["name"] for label in card["codebook"]["stances"]]
    lines = [
        f"# {card['name']}: topic and stance of passages of immigration news",
        "",
        f"Candidate `{card['candidate']}` of experiment `{card['experiment']}`, code {card['git_commit']}, "
        f"codebook version {card['codebook']['version']}, data {card['data_digest'][:16]}.",
        "",
        "## Use",
        "",
        "For counting and finding passages in news text in English. Labels are about words, not about people: do not "
        "use them to judge a person. Report figures over many passages, with the intervals below.",
        "",
        f"Topics: {', '.join(topics)}. Stances: {', '.join(stances)}.",
        f"The model abstains where the topic's confidence is under {card['threshold']:.3f}: on the test split it then "
        f"answers {card['abstention']['coverage']:.0%} of the passages, {card['abstention']['accuracy_kept']:.0%} of "
        "these with the right topic.",
        "",
        "## Training data",
        "",
        card["training"],
        "",
        "## Measured quality",
        "",
        "| evaluation | head | macro-F1 [95% interval] | accuracy [95% interval] | calibration error |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for name, heads in card["quality"].items():
        for head, figures in heads.items():
            cells = [f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in (figures["macro_f1"], figures["accuracy"])]
            lines.append(f"| {name} | {head} | {' | '.join(cells)} | {figures['calibration_error']:.3f} |")
    for name, (value, low, high) in card["held_out"].items():
        lines.append(f"| news_dev | {name} | – | {value:.3f} [{low:.3f}, {high:.3f}] | – |")
    lines += [
        "",
        "Intervals: bootstrap over documents; folds and splits never share one. The default encoder has learnt the "
        "labels of the corpora that ship: `cross_validation` among them says nothing. `validation` chose the "
        "winner, its temperatures and threshold; `test` and `news_dev` chose nothing in this run.",
        "",
        "## Limits",
        "",
        "Labels were made by language models under the codebook; agreement between them is no human ceiling. "
        "`test` may be fiction alone, and `validation` mixes all corpora; `news_dev` is real news, most of it from the "
        "United States: measure on a sample of your own before you rely on a figure.",
    ]
    return "\n".join(lines) + "\n"


def git_state() -> tuple[str, bool]:
    """The commit of the checkout one works in, and whether files differ from it; ("unknown", False) outside one."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False
