"""A model's own parameters, while fused weights are formed into them and trained through them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from fusegpt.nn.fused import FusedWeight

__all__ = ["form_into", "trainable"]


def form_into(leaves: Mapping[str, nn.Parameter], weights: Mapping[str, FusedWeight]) -> None:
    """Write each weight, as formed from its factors, into the parameter of its name."""
    for name, weight in weights.items():
        leaves[name].data.copy_(weight.form())


@contextmanager
def trainable(leaves: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters receive gradients; afterwards they are frozen and have none."""
    leaves = list(leaves)
    for leaf in leaves:
        leaf.requires_grad_(True)
    try:
        yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(False)
            leaf.grad = None
