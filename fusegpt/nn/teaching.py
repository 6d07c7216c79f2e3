"""Learning from a teacher's distribution over the vocabulary, whole or its top and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Answers", "answer", "divergence"]


@dataclass(frozen=True)
class Answers:
    """What a teacher says at some positions; logits are less their largest one.

    Attributes:
        logits: ``[..., k]`` of its likeliest tokens, or ``[..., vocab]`` of all.
        ids: ``[..., k]`` int64, which tokens they are of; None: of all, in order.
        rest: ``[...]`` float32, log of the sum of exp(logit / temperature) over all others.
    """

    logits: Tensor
    ids: Tensor | None = None
    rest: Tensor | None = None


def answer(logits: Tensor, top_k: int | None, temperature: float) -> Answers:
    """Keep the likeliest tokens of a teacher's logits, and the mass of the rest.

    Args:
        logits: ``[..., vocab]``.
        top_k: How many tokens are kept; None: all.
        temperature: What logits are divided by when the mass of the rest is taken.
    """
    wide = logits.float()
    wide = wide - wide.amax(-1, keepdim=True)
    if top_k in (None, logits.shape[-1]):
        return Answers(wide)
    assert top_k is not None
    top, ids = wide.topk(top_k, -1)
    others = wide.scatter(-1, ids, -torch.inf)
    return Answers(top, ids, (others / temperature).logsumexp(-1))


def divergence(logits: Tensor, answers: Answers, temperature: float) -> Tensor:
    """Return KL(teacher ‖ student)·temperature², all tokens that were not kept being one.

    Args:
        logits: The student's, ``[..., vocab]``; differentiable.
        answers: The teacher's, of the same positions.
        temperature: What the logits of both are divided by.

    Returns:
        ``[...]`` float32, at least 0 up to rounding.
    """
    student, teacher = logits.float() / temperature, answers.logits.float() / temperature
    said = nn.functional.log_softmax(student, -1)  # [..., vocab]
    if answers.ids is None:
        expected = nn.functional.log_softmax(teacher, -1)
    else:
        assert answers.rest is not None
        expected = nn.functional.log_softmax(torch.cat([teacher, answers.rest[..., None]], -1), -1)
        others = said.scatter(-1, answers.ids, -torch.inf).logsumexp(-1, keepdim=True)
        said = torch.cat([said.gather(-1, answers.ids), others], -1)  # [..., k + 1]
    lost = expected.exp() * (expected - said)
    return lost.sum(-1) * temperature**2
