"""A fine-tuned transformer as the ONNX file that the encoder runs: 8-bit weights, held against the 32-bit original."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.model.encoder import SentenceEncoder, resolve_encoder

ALIKE = 0.98  # least mean cosine between the embeddings of both that is taken for faithful


class TokenStates(torch.nn.Module):
    """The last layer's states alone."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(texts, tokens, dimensions)."""
        states: torch.Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def export(encoder: Any, tokenizer: Path, folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Write `model.onnx` and `tokenizer.json` into a folder; gives their digests and how alike the embeddings are.

    Weights take 7 of 8 bits (`reduce_range`), so that no sum of products overflows on processors without VNNI and the
    integers are the same everywhere.

    Raises:
        ValueError: the 8-bit embeddings of `texts` are too far from the 32-bit ones.
    """
    scratch = folder / "scratch"
    exact, prepared = scratch / "exact" / "model.onnx", scratch / "prepared.onnx"
    exact.parent.mkdir(parents=True, exist_ok=True)
    encoder.eval()
    encoder.pooler = None
    encoder.set_attn_implementation("eager")
    example = torch.tensor([[101, 2054, 2003, 102, 0], [101, 2054, 2003, 2023, 102]])
    axes = {name: {0: "texts", 1: "tokens"} for name in ("input_ids", "attention_mask", "states")}
    torch.onnx.export(
        TokenStates(encoder), (example, (example > 0).long()), str(exact), input_names=["input_ids", "attention_mask"],
        output_names=["states"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    quant_pre_process(str(exact), str(prepared), skip_symbolic_shape=True)
    model = folder / "model.onnx"
    quantize_dynamic(prepared, model, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    for place in (folder, exact.parent):
        shutil.copyfile(tokenizer, place / "tokenizer.json")
    small, full = (SentenceEncoder(str(place)).transform(texts) for place in (folder, exact.parent))
    cosine = (small * full).sum(axis=1)
    if cosine.mean() < ALIKE:
        raise ValueError(f"{model}: mean cosine to the 32-bit embeddings is {cosine.mean():.4f}, wanted {ALIKE}")
    shutil.rmtree(scratch)
    return {
        "sha256": resolve_encoder(str(folder)).sha256,
        "cosine_mean": round(float(cosine.mean()), 4),
        "cosine_least": round(float(np.min(cosine)), 4),
    }
