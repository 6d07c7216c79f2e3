"""The last hidden states without some units, sharing the work before the first missing one.

Leaving out block i changes nothing before it, so its stream starts from the state that entered
it: n(n+1)/2 block forward passes in place of n² (with the reference pass), and the states are the
same bit for bit. Leaving out a sublayer of block i starts there too, and runs the other sublayer:
n(n+3)/2 passes for all n attentions, or all n mlps, n of them through one sublayer only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.structure.branches import bypass
from fusegpt.models.structure.replay import Recording, record, run_blocks
from fusegpt.units import Unit

__all__ = ["state_without", "states_without"]


def states_without(
    model: Model, batch: Tensor, units: Sequence[Unit]
) -> tuple[Tensor, Iterator[tuple[Unit, Tensor]]]:
    """Run the model whole, then once without each unit.

    Args:
        model: In eval mode. Unchanged.
        batch: Token ids ``[batch, seq]``.
        units: Remaining units, in any order.

    Returns:
        The reference ``[batch, seq, hidden]``, before the final norm, and an iterator over
        ``(unit, hidden states without it)`` in model order; each is computed when asked for.
    """
    recording = record(model, batch, keep_states=True)
    ordered = sorted(units, key=lambda unit: (model.position(unit.index), unit))
    return recording.hidden_out, (
        (unit, state_without(model, recording, [unit])) for unit in ordered
    )


def state_without(model: Model, recording: Recording, units: Collection[Unit]) -> Tensor:
    """Run the model without some units, from what one whole pass recorded.

    Args:
        model: As it was when recorded. Unchanged.
        recording: A recording of all remaining blocks, with ``keep_states``.
        units: Remaining units that are left out together; at least one.

    Returns:
        ``[batch, seq, hidden]`` after the last block, before the final norm.
    """
    missing = {model.position(unit.index) for unit in units if unit.kind == "block"}
    first = min(model.position(unit.index) for unit in units)
    rest = [place for place in range(first, len(model.kept)) if place not in missing]
    blocks = model.blocks
    with bypass(model, [unit for unit in units if unit.kind != "block"]):
        return run_blocks(
            [blocks[place] for place in rest],
            [recording.calls[place] for place in rest],
            recording.states[first],
        )
