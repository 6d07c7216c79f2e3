"""The language-modelling loss from last hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.data.masked import IGNORED, next_tokens
from fusegpt.importance.ablation import states_without
from fusegpt.importance.sums import Sums
from fusegpt.models.model import Model
from fusegpt.models.structure.kept_states import KeptStates
from fusegpt.models.structure.replay import head_logits
from fusegpt.units import Unit

__all__ = ["losses_without", "sequence_loss"]


def sequence_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of one sequence's next tokens, in nats; differentiable.

    Args:
        logits: ``[1, seq, vocab]``.
        tokens: ``[1, seq]`` int64, without padding; some predictions may not count.

    Returns:
        A float32 scalar on the device of the logits.
    """
    targets = next_tokens(tokens)[0].to(logits.device)
    return functional.cross_entropy(logits[0, :-1].float(), targets, ignore_index=IGNORED)


@torch.no_grad()
def losses_without(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    sums: Sums | None = None,
    kept_states: KeptStates | None = None,
) -> Tensor:
    """Mean loss over all sequences, without each unit.

    Logits are formed for one sequence at a time: for a whole batch they would be far larger than
    its hidden states. Every sequence counts alike, however long it is.

    Args:
        model: In eval mode. Unchanged.
        batches: Token ids, each ``[batch, seq]``.
        units: Remaining units.
        sums: Gets what each sequence adds.
        kept_states: Those of an earlier scoring to go on from; gets those of this one.

    Returns:
        ``[units]`` float64 on the CPU, nats per token.
    """
    sums = Sums() if sums is None else sums
    sets = [[[unit] for unit in units]] * len(batches)
    ablations = states_without(model, batches, sets, kept_states)
    for batch, (_, lacking) in zip(batches, ablations, strict=True):
        rows = batch.split(1)
        losses = [
            [
                sequence_loss(head_logits(model, tokens, states), tokens).double()
                for tokens, states in zip(rows, hidden_states.split(1), strict=True)
            ]
            for hidden_states in lacking
        ]  # [units][sequences]
        for of_sequence in zip(*losses, strict=True):
            sums.add(of_sequence, 1)
    return sums.mean()
