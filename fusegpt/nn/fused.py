"""The fused weight: a frozen weight, a low-rank update, and donors under learnable coefficients.

Weights are formed once per optimiser step and written into the ordinary parameter of the
ordinary module; after ``backward`` the parameter's gradient is pulled back onto the factors. So
no module is replaced, and a step costs what plain training costs plus two thin products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

__all__ = ["FusedWeight", "LowRank", "Scale"]


class LowRank(nn.Module):
    """A product ``left · right`` that starts at zero: ``left`` is zero, ``right`` Kaiming-uniform.

    Leading axes (stacked experts) are batched: ``[..., rows, rank] · [..., rank, cols]``.
    """

    def __init__(
        self, shape: torch.Size, rank: int, *, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        super().__init__()
        *stack, rows, cols = shape
        bound = 1 / math.sqrt(cols)  # kaiming_uniform_ with a=sqrt(5), as nn.Linear
        right = torch.empty(*stack, rank, cols, dtype=torch.float32)
        right.uniform_(-bound, bound, generator=generator)
        self.left = nn.Parameter(torch.zeros(*stack, rows, rank, dtype=dtype))
        self.right = nn.Parameter(right.to(dtype))

    def forward(self) -> Tensor:
        """Return the product in float32, ``[..., rows, cols]``."""
        return wide(self.left) @ wide(self.right)

    @torch.no_grad()
    def pull(self, grad: Tensor) -> None:
        """Set the factors' gradients from the gradient of the product."""
        left, right = wide(self.left), wide(self.right)
        self.left.grad = (grad @ right.mT).to(self.left.dtype)
        self.right.grad = (left.mT @ grad).to(self.right.dtype)


class Scale(nn.Module):
    """One free number per value of a tensor, starting at zero: a bias's, or a full-rank update."""

    def __init__(self, shape: torch.Size, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(shape, dtype=dtype))

    def forward(self) -> Tensor:
        """Return the numbers in float32."""
        return wide(self.scale)

    @torch.no_grad()
    def pull(self, grad: Tensor) -> None:
        """Set the gradient of the numbers."""
        self.scale.grad = grad.to(self.scale.dtype)


class FusedWeight(nn.Module):
    """``W + B·A + Σ_k (Ca_k·Cb_k) ⊙ W_k``: one weight, its update, and what donors lend it.

    ``W`` and the donors ``W_k`` are frozen; the low-rank factors train. At the start every added
    term is zero, so the fused weight equals ``W``. Biases take a vector in place of each product.

    Paper: Section III-D, Eq. 5 (coefficients), Eq. 6 (low rank), Eq. 10 (one more donor).

    Args:
        base: ``[..., rows, cols]`` or, for a bias, ``[rows]``; not copied, never written.
        update_rank: Rank of ``B·A``; 0 leaves the update out, ``full`` frees every value.
        dtype: Type of the trainable factors.
        generator: Seeds the Kaiming factors; on the CPU.
    """

    def __init__(
        self,
        base: Tensor,
        *,
        update_rank: int | Literal["full"],
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.base = base.detach()
        self.dtype = dtype
        self.update = self._term(update_rank, generator) if update_rank else None
        self.coefficients = nn.ModuleDict()
        self.donors: dict[str, Tensor] = {}

    def _term(self, rank: int | str, generator: torch.Generator) -> LowRank | Scale:
        if self.base.dim() == 1 or isinstance(rank, str):
            term: LowRank | Scale = Scale(self.base.shape, dtype=self.dtype)
        else:
            term = LowRank(self.base.shape, rank, dtype=self.dtype, generator=generator)
        return term.to(self.base.device)

    def add_donor(
        self, key: str, donor: Tensor, *, rank: int | str, generator: torch.Generator
    ) -> None:
        """Give the weight one more donor under fresh zero coefficients (Eq. 10).

        Args:
            key: Names the donor; no dots. Donors shared by several weights keep one tensor.
            donor: Same shape as the base; frozen, not copied.
            rank: Rank of the coefficient matrix.
            generator: Seeds the Kaiming factor; on the CPU.
        """
        assert donor.shape == self.base.shape, (key, donor.shape, self.base.shape)
        self.coefficients[key] = self._term(rank, generator)
        self.donors[key] = donor.detach()

    @torch.no_grad()
    def form(self) -> Tensor:
        """Return the fused weight in float32 (float64 for a float64 base), shape of the base."""
        dtype = torch.promote_types(self.base.dtype, torch.float32)
        weight = self.base.to(dtype, copy=True)
        if self.update is not None:
            weight += self.update()
        for key, coefficient in self.coefficients.items():
            weight += coefficient() * wide(self.donors[key])
        return weight

    def fold(self) -> Tensor:
        """Return the fused weight in the base's dtype: what a plain model holds in its place."""
        return self.form().to(self.base.dtype)

    @torch.no_grad()
    def pull(self, grad: Tensor) -> None:
        """Set every factor's gradient from the gradient of the formed weight.

        dB = G·Aᵀ, dA = Bᵀ·G, and the same with ``G ⊙ W_k`` for the k-th coefficient pair.
        """
        grad = wide(grad)
        if self.update is not None:
            self.update.pull(grad)
        for key, coefficient in self.coefficients.items():
            cast("LowRank | Scale", coefficient).pull(grad * wide(self.donors[key]))

    def update_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the factors of the low-rank update (base learning rate)."""
        if self.update is not None:
            yield from self.update.parameters()

    def coefficient_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the factors of the coefficients (coefficient learning rate)."""
        yield from self.coefficients.parameters()

    def state(self) -> dict[str, Tensor]:
        """Return the factors by name: ``update.left``, ``coefficients.<donor>.right``, ..."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @classmethod
    def from_state(
        cls, base: Tensor, state: Mapping[str, Tensor], donors: Mapping[str, Tensor]
    ) -> FusedWeight:
        """Rebuild a fused weight from what ``state`` returned.

        Args:
            base: The frozen weight.
            state: Factors by name.
            donors: Donor tensors by key, in the order they were added.
        """
        blank = torch.Generator().manual_seed(0)
        dtype = next(iter(state.values())).dtype

        def rank(path: str) -> Any:
            if f"{path}.scale" in state:
                return "full"
            return state[f"{path}.left"].shape[-1] if f"{path}.left" in state else 0

        weight = cls(base, update_rank=rank("update"), dtype=dtype, generator=blank)
        for key, donor in donors.items():
            weight.add_donor(key, donor, rank=rank(f"coefficients.{key}"), generator=blank)
        for name, parameter in weight.named_parameters():
            parameter.data.copy_(state[name])
        return weight


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is when it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
