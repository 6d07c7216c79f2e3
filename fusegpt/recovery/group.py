"""The group around a removed unit: which neighbours receive it."""

from __future__ import annotations

from collections.abc import Sequence

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.units import Unit

__all__ = ["group_of", "neighbours", "run_of"]


def run_of(model: Model, unit: Unit | Sequence[Unit], label: str) -> list[Unit]:
    """Return one unit, or several blocks that follow each other among the remaining ones, in order.

    Raises:
        ArchitectureError: They do not follow each other, or are several sublayers.
    """
    run = [unit] if isinstance(unit, Unit) else sorted(unit)
    if len(run) > 1 and any(one.kind != "block" for one in run):
        raise ArchitectureError(
            f"{label}: sublayers go one at a time, got {', '.join(map(str, run))}"
        )
    places = [model.position(one.index) for one in run]
    if places != list(range(places[0], places[0] + len(run))):
        raise ArchitectureError(
            f"{label}: blocks must follow each other, got {list(map(str, run))}"
        )
    return run


def group_of(model: Model, run: Sequence[Unit], group_size: int) -> list[int]:
    """Return the blocks of the ``group_size`` units nearest to a run, of the same kind.

    Neighbours of an attention are attentions, those of an mlp are mlps (decision D42).

    Args:
        model: The run is still in it.
        run: A remaining unit, or blocks that follow each other.
        group_size: G.

    Returns:
        Dense indices, ascending.
    """
    behind = run[1:]
    remaining = [unit.index for unit in model.units(run[0].kind) if unit not in behind]
    return neighbours(remaining, run[0].index, group_size)


def neighbours(kept: Sequence[int], index: int, group_size: int) -> list[int]:
    """Return the ``group_size`` remaining blocks around block ``index``, without it.

    ceil(G/2) to the left and floor(G/2) to the right; at an edge the window is shifted so that
    it keeps its size, and it shrinks when fewer than G other blocks live.
    Paper: Section III-C, Eq. 4 (decision D5).

    Args:
        kept: Dense indices of the remaining blocks, in order, ``index`` among them.
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
