"""The group around a removed block: which neighbours receive it."""

from __future__ import annotations

from collections.abc import Sequence

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.units import Unit

__all__ = ["neighbours", "run_of"]


def run_of(model: Model, unit: Unit | Sequence[Unit], label: str) -> list[Unit]:
    """Return one block, or several that follow each other among the living, in order.

    Raises:
        ArchitectureError: A unit is no block, or they do not follow each other.
    """
    run = [unit] if isinstance(unit, Unit) else sorted(unit)
    for one in run:
        if one.granularity != "block":
            raise ArchitectureError(f"{label}: only whole blocks have neighbours, got {one}")
    places = [model.position(one.index) for one in run]
    if places != list(range(places[0], places[0] + len(run))):
        raise ArchitectureError(
            f"{label}: blocks must follow each other, got {list(map(str, run))}"
        )
    return run


def neighbours(kept: Sequence[int], index: int, group_size: int) -> list[int]:
    """Return the ``group_size`` living blocks around block ``index``, without it.

    ceil(G/2) to the left and floor(G/2) to the right; at an edge the window is shifted so that
    it keeps its size, and it shrinks when fewer than G other blocks live.
    Paper: Section III-C, Eq. 4 (decision D5).

    Args:
        kept: Dense indices of the living blocks, in order, ``index`` among them.
        index: Dense index of the block that will be removed.
        group_size: G, the number of neighbours, at least 1.

    Returns:
        Dense indices, ascending.
    """
    others = [block for block in kept if block != index]
    left = -(-group_size // 2)
    start = list(kept).index(index) - left
    start = max(0, min(start, len(others) - group_size))
    return others[start : start + group_size]
