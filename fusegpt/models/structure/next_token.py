"""Logits of the token that follows each of several texts of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.models.model import Model

__all__ = ["next_logits"]


def next_logits(model: Model, ids: Tensor, lengths: Tensor) -> Tensor:
    """Return the logits after the last token of each text; differentiable.

    The head works on that one position, so the logits of the others never exist.

    Args:
        model: In eval mode; unchanged on return.
        ids: ``[batch, seq]`` int64, shorter texts filled up on the right with any token.
        lengths: ``[batch]`` int64, tokens of each text.

    Returns:
        ``[batch, vocab]``, of the model's dtype.
    """
    rows, last = torch.arange(len(ids)), lengths - 1
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()  # [batch, seq]

    def keep_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0][rows, last].unsqueeze(1),)  # [batch, 1, hidden]

    head: Any = model.module.get_output_embeddings()
    hook = head.register_forward_pre_hook(keep_last)
    try:
        inputs = model.inputs({"input_ids": ids, "attention_mask": mask})
        logits = model.module(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    found: Tensor = logits[:, 0] if logits.shape[1] == 1 else logits[rows, last]  # [batch, vocab]
    return found
