"""The last hidden states without each unit, sharing the work before the missing unit.

Leaving out block i changes nothing before it, so its stream starts from the state that entered
it: n(n+1)/2 block passes in place of n² (with the reference pass), bit for bit the same states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.replay import record, run_blocks
from fusegpt.models.units import Unit

__all__ = ["states_without"]


def states_without(
    model: Model, batch: Tensor, units: Sequence[Unit]
) -> tuple[Tensor, Iterator[tuple[Unit, Tensor]]]:
    """Run the model whole, then once without each unit.

    Args:
        model: In eval mode. Unchanged.
        batch: Token ids ``[batch, seq]``.
        units: Living blocks, in any order.

    Returns:
        The reference ``[batch, seq, hidden]``, before the final norm, and an iterator over
        ``(unit, hidden states without it)`` in model order; each is computed when asked for.
    """
    recording = record(model, batch, keep_states=True)
    wanted = {unit.index: unit for unit in units}

    def ablations() -> Iterator[tuple[Unit, Tensor]]:
        for position, index in enumerate(model.kept):
            if index in wanted:
                rest = slice(position + 1, None)
                hidden_states = run_blocks(
                    model.blocks[rest], recording.calls[rest], recording.states[position]
                )
                yield wanted[index], hidden_states

    return recording.hidden_out, ablations()
