"""What a finish minimises: the loss of the next token, a teacher's answers, its hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fusegpt.models.model import Model
from fusegpt.models.structure.replay import Recording, record
from fusegpt.nn.teaching import divergence
from fusegpt.recovery.healing.answers import AnswersFile

__all__ = ["Objective"]


@dataclass(frozen=True)
class Objective:
    """A loss at each position, and one between the states of corresponding blocks.

    Attributes:
        answers: What the teacher says of the windows; None: only the next token counts.
        temperature: What the logits of both models are divided by.
        next_token: Share of the loss of the next token.
        hidden: Weight of the term between states.
        dense: The dense model, where that term has a weight.
    """

    answers: AnswersFile | None = None
    temperature: float = 1.0
    next_token: float = 1.0
    hidden: float = 0.0
    dense: Model | None = None

    def at(self, logits: Tensor, following: Tensor, rows: slice, places: slice) -> Tensor:
        """Return the loss at each position.

        Args:
            logits: ``[batch, positions, vocab]``.
            following: The tokens that come next, ``[batch, positions]``.
            rows: Numbers of the windows.
            places: Which positions of the windows these are.
        """
        if self.answers is None:
            return _plain(logits, following)
        teacher = self.answers.at(rows, places, logits.device)
        share = self.next_token
        if not share:
            return divergence(logits, teacher, self.temperature)
        if self.temperature == 1:
            return divergence(logits, teacher, 1, following=following, share=share)
        taught = divergence(logits, teacher, self.temperature)  # [batch, positions]
        return (1 - share) * taught + share * _plain(logits, following)

    def between(self, student: Model, seen: Recording, ids: Tensor) -> Tensor:
        """Return the relative distance of states from the dense model's, ``[batch, seq]``.

        What leaves a remaining block is compared with what enters the next remaining one in the
        dense model: the mean over blocks of |h - t|² / |t|².

        Args:
            student: As pruned.
            seen: What its forward pass showed, states included.
            ids: The windows, ``[batch, seq]``.
        """
        assert self.dense is not None
        with torch.no_grad():
            whole = record(self.dense, ids, keep_states=True)
        entering = [whole.states[self.dense.position(index)] for index in student.kept[1:]]
        pairs = zip([*seen.states[1:], seen.hidden_out], [*entering, whole.hidden_out], strict=True)
        total = torch.zeros(ids.shape, device=seen.hidden_out.device)
        for own, wanted in pairs:
            target = wanted.float()
            distance = (own.float() - target).square().sum(-1)  # [batch, seq]
            total = total + distance / target.square().sum(-1).clamp_min(1e-12)
        return total / len(student.kept)


def _plain(logits: Tensor, following: Tensor) -> Tensor:
    """Return the loss of the next token at each position, ``[batch, positions]``."""
    wide = logits.float().flatten(0, 1)
    return nn.functional.cross_entropy(wide, following.flatten(), reduction="none").view(
        following.shape
    )
