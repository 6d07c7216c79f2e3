"""Learning from a teacher's distribution over the vocabulary, whole or its top and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


def divergence(
    logits: Tensor,
    answers: Answers,
    temperature: float,
    *,
    following: Tensor | None = None,
    share: float = 0.0,
) -> Tensor:
    """Return KL(teacher ‖ student)·temperature², all tokens that were not kept being one.

    With ``following``: (1 - share) of it, and share of the next token's loss, from one softmax.
    The gradient is written down with the value (decision D62), in one tensor of the logits' size.

    Args:
        logits: The student's, ``[..., vocab]``; differentiable, once.
        answers: The teacher's, of the same positions.
        temperature: What the logits of both are divided by; 1 with ``following``.
        following: The tokens that come next, ``[...]`` int64.
        share: Share of their loss, 0 to 1.

    Returns:
        ``[...]`` float32, at least 0 up to rounding.
    """
    assert following is None or temperature == 1
    teacher = answers.logits.float() / temperature
    if answers.ids is not None:
        assert answers.rest is not None
        teacher = torch.cat([teacher, answers.rest[..., None]], -1)
    expected = nn.functional.log_softmax(teacher, -1)
    share = 0.0 if following is None else share
    given = (logits, expected, answers.ids, following, temperature, share)
    found: Tensor = _Divergence.apply(*given)  # type: ignore[no-untyped-call]
    return found


class _Divergence(torch.autograd.Function):
    """The loss of ``divergence``; q is the student's distribution, p the teacher's.

    Its gradient is q - p for a token that was kept and q·(1 - p_rest / q_rest) for another one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        expected: Tensor,
        ids: Tensor | None,
        following: Tensor | None,
        temperature: float,
        share: float,
    ) -> Tensor:
        scaled = logits.float() if temperature == 1 else logits.float() / temperature
        total = scaled.logsumexp(-1, keepdim=True)
        said = scaled - total  # [..., vocab]
        student = said.exp() if ids is None else said.exp_()  # becomes the gradient
        p = expected.exp()
        if ids is None:
            student -= (1 - share) * p
        else:
            kept = student.gather(-1, ids)
            student.scatter_(-1, ids, 0.0)
            rest = student.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            said = torch.cat([scaled.gather(-1, ids) - total, rest.log()], -1)  # [..., k + 1]
            student *= 1 - (1 - share) * p[..., -1:] / rest
            student.scatter_(-1, ids, kept - (1 - share) * p[..., :-1])
        lost = (1 - share) * torch.where(p > 0, p * (expected - said), 0.0).sum(-1)
        if following is not None:
            place = following[..., None]
            lost = lost + share * (total - scaled.gather(-1, place))[..., 0]
            student.scatter_add_(-1, place, torch.full_like(total, -share))
        ctx.temperature = temperature
        ctx.save_for_backward(student.to(logits.dtype))
        return lost * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        wanted = slope * (grad[..., None] * ctx.temperature).to(slope.dtype)
        return wanted, None, None, None, None, None
