"""What enters and what leaves a unit, or a run of neighbouring units, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.linalg import vector_norm

from fusegpt.importance.checks import finite
from fusegpt.importance.sums import Sums
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import around
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.visits import recordings
from fusegpt.units import Unit

__all__ = ["mean_update", "relative_change"]

Measure = Callable[[Tensor, Tensor], Tensor]
Around = Callable[[Model, Unit, Call, Tensor, Tensor], tuple[Tensor, Tensor]]


def relative_change(of: Tensor, to: Tensor, order: int) -> Tensor:
    """Return ||to - of|| / ||of|| of each token's state, ``[batch, seq]`` float32.

    Args:
        of: States ``[batch, seq, hidden]``.
        to: What they changed to.
        order: Of the norm: 1 or 2.
    """
    of, to = of.float(), to.float()
    change: Tensor = vector_norm(to - of, order, dim=-1) / vector_norm(of, order, dim=-1)
    return change


@torch.no_grad()
def mean_update(
    metric: str,
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    measure: Measure,
    run: int = 1,
    *,
    sublayer: Around = around,
    sums: Sums | None = None,
) -> Tensor:
    """Average a distance between the states before and after each run of units.

    Args:
        metric: For messages.
        model: In eval mode. Unchanged.
        batches: Token ids, each ``[batch, seq]``.
        units: Remaining units; neighbouring blocks, when ``run`` is more than 1.
        measure: From the states before and after, ``[batch, seq, hidden]``, to any number of
            distances in float32 or float64; they all count alike.
        run: Units in a run, at most ``len(units)``.
        sublayer: What to compare for an attention or an mlp, from what enters and leaves its block.
        sums: Gets what each batch adds.

    Returns:
        ``[units - run + 1]`` float64 on the CPU: entry i is of the run that starts at ``units[i]``.

    Raises:
        NumericsError: A distance is NaN or infinite. The message names the first unit of the run.
    """
    starts = [model.position(unit.index) for unit in units[: len(units) - run + 1]]
    if run > 1:
        places = [model.position(unit.index) for unit in units]
        assert places == list(range(places[0], places[0] + len(units))), places
    sums = Sums() if sums is None else sums
    for recording in recordings(model, batches, keep_states=True):
        states = [*recording.states, recording.hidden_out]
        found = []
        for unit, start in zip(units, starts, strict=False):
            before, after = states[start], states[start + run]
            if unit.kind != "block":
                before, after = sublayer(model, unit, recording.calls[start], before, after)
            distances = measure(before, after)
            found.append(distances.sum(dtype=torch.float64))
        sums.add(found, distances.numel())
    return finite(metric, units[: len(starts)], sums.mean())
