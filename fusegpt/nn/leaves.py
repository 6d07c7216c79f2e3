"""A model's own parameters, while fused weights are formed into them and trained through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fusegpt.nn.fused import FusedWeight

__all__ = ["form_into", "trainable", "write_formed"]


def write_formed(place: Tensor, weight: FusedWeight) -> None:
    """Write one weight into a tensor of its shape, in the tensor's dtype."""
    place.copy_(weight.form())


def form_into(
    leaves: Mapping[str, nn.Parameter],
    weights: Mapping[str, FusedWeight],
    write: Callable[[Tensor, FusedWeight], object] = write_formed,
) -> None:
    """Write each weight, as formed from its factors, into the parameter of its name.

    Args:
        leaves: The parameters.
        weights: By name.
        write: ``write_formed``, or what does the same.
    """
    for name, weight in weights.items():
        write(leaves[name].data, weight)


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
