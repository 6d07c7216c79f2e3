"""A short text that programs read to show that they compute the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusegpt.data.tokens import encode, load_tokenizer
from fusegpt.models.checkpoints.load import load

__all__ = ["LARGEST", "mean_nats", "text_ids", "text_logits", "token_nats"]

TEXT = (
    "The capital of France is Paris. Water boils at a temperature of 100 degrees Celsius, and"
    " freezes at zero. A function that adds two numbers is written like this: def add(a, b):"
    " return a + b. In the morning she walked to the station, bought a newspaper and waited for"
    " the train, which was late again."
)
LARGEST = 0.25
"""Nats by which two programs may differ on a token with the same weights."""


def text_ids(directory: Path) -> np.ndarray:
    """Return the text as token ids of a model, ``[1, length]`` int64."""
    return encode(load_tokenizer(directory), TEXT).astype(np.int64)[None]


@torch.no_grad()
def text_logits(directory: Path, ids: np.ndarray) -> Tensor:
    """Return what a model expects after each token but the last, by transformers in float32.

    Args:
        directory: A directory that transformers loads.
        ids: The text, from ``text_ids``.

    Returns:
        ``[length - 1, vocab]`` float64 on the CPU.
    """
    model = load(directory, dtype="float32", weights="auto", packed=True)
    window = torch.from_numpy(ids).to(model.device)
    logits: Tensor = model.module(**model.inputs(window), use_cache=False).logits
    return logits[0, :-1].double().cpu()


def token_nats(logits: Tensor, ids: np.ndarray) -> Tensor:
    """Return the cross-entropy of each token but the first, ``[length - 1]``."""
    targets = torch.from_numpy(ids[0, 1:])
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def mean_nats(directory: Path) -> float:
    """Return the mean cross-entropy of the text by a model."""
    ids = text_ids(directory)
    return float(token_nats(text_logits(directory, ids), ids).mean())
