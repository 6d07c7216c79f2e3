"""Losses between a student's and a teacher's hidden states.

Each takes ``[batch, seq, hidden]`` twice and returns a float32 scalar (float64 for float64 input).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.errors import ConfigError
from fusegpt.nn.fused import wide

__all__ = [
    "LOSSES",
    "cosine",
    "huber",
    "kl_batch",
    "kl_hidden",
    "masked",
    "mse",
    "mse_token",
]


ABSENT = -1e30
"""Logit of what has no share in a softmax; finite, so that a column of them has a gradient."""


def kl_batch(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(teacher ‖ student) over the batch axis, summed over positions and features, per sequence.

    The softmax runs over the sequences of the batch, so the value depends on which sequences share
    a batch, is zero for a batch of one, and is blind to an offset shared by the whole batch.
    Paper: Section III-D, Eq. 7-9, with the reduction of the published code (decisions D7, D8).

    Args:
        student: Hidden states ``[batch, seq, hidden]``.
        teacher: Hidden states of the same shape.
        mask: ``[batch, seq]`` bool: False for padding, which has no share in a position's softmax.

    Raises:
        ConfigError: The batch holds fewer than two sequences.
    """
    if len(student) < 2:
        raise ConfigError(
            f"kl_batch: batch must hold at least 2 sequences, got {len(student)};"
            " Eq. 7 normalises over the batch"
        )
    if mask is not None:
        student, teacher = (
            wide(x).masked_fill(~mask[..., None], ABSENT) for x in (student, teacher)
        )
    return _kl(student, teacher, dim=0) / len(student)


def kl_hidden(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) over the hidden axis, mean over tokens (decision D7)."""
    return _kl(student, teacher, dim=-1) / student[..., 0].numel()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over all values (decision D7)."""
    return functional.mse_loss(wide(student), wide(teacher))


def mse_token(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of each token's states relative to the teacher's squared length, averaged.

    Every token counts alike, however large its activations are (decision D45).
    """
    student, teacher = wide(student), wide(teacher)
    size = teacher.square().sum(-1).clamp_min(torch.finfo(teacher.dtype).tiny)  # [batch, seq]
    return ((student - teacher).square().sum(-1) / size).mean()


def huber(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss of each value's difference, in units of a usual value of the teacher.

    The unit is the root mean square of the batch's median token. Differences above it count by
    their size, not by its square (decision D45).
    """
    student, teacher = wide(student), wide(teacher)
    usual = teacher.square().mean(-1).median().clamp_min(torch.finfo(teacher.dtype).tiny).sqrt()
    return functional.huber_loss(student / usual, teacher / usual)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the mean cosine over tokens, in [0, 2] (decision D7)."""
    return 1 - functional.cosine_similarity(wide(student), wide(teacher), dim=-1).mean()


def _kl(student: Tensor, teacher: Tensor, *, dim: int) -> Tensor:
    log_q = torch.log_softmax(wide(student), dim)
    log_p = torch.log_softmax(wide(teacher), dim)
    return functional.kl_div(log_q, log_p, reduction="sum", log_target=True)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl_batch": kl_batch,
    "kl_hidden": kl_hidden,
    "mse": mse,
    "cosine": cosine,
    "mse_token": mse_token,
    "huber": huber,
}


def masked(name: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return a loss of ``LOSSES`` that also takes which places are tokens: ``[batch, seq]`` bool.

    Padding has no share in it; None: every place is a token.
    """
    measure = LOSSES[name]

    def loss(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return measure(student, teacher)
        mask = mask.to(student.device)
        if name == "kl_batch":  # the others take each token alone
            return kl_batch(student, teacher, mask)
        return measure(student[mask][None], teacher[mask][None])

    return loss
