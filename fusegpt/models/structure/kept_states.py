"""Hidden states that one scoring leaves to the next one.

What enters block d of a model, or of the model without some unit before block d, follows from the
blocks before d alone. A removal and its recovery leave the blocks before the first one that they
touch as they are; so everything that entered that block before enters it again, and the next
scoring goes on from there. The bits are those of a scoring that begins at the first block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fusegpt.errors import ArchitectureError
from fusegpt.free_memory import free_bytes
from fusegpt.models.model import Model
from fusegpt.models.structure.visits import traced
from fusegpt.units import Unit

__all__ = ["KeptStates", "keeps"]

logger = logging.getLogger(__name__)

SPACINGS = (1, 2, 4)
"""At which blocks states are kept: at each, each second, each fourth, whatever fits first."""
SHARE = 0.25
"""Part of the free memory that kept states may take."""
Units = frozenset[Unit]


class KeptStates:
    """What entered some blocks while a model was scored, whole and without each unit.

    Args:
        spacing: States are kept of blocks at multiples of it.
        device: Where they lie.

    Attributes:
        start: Position of the block that the next scoring begins with; 0: nothing is known.
    """

    def __init__(self, spacing: int, device: torch.device) -> None:
        self.spacing, self.device, self.start = spacing, device, 0
        self._known: dict[int, dict[tuple[int, Units], Tensor]] = {}

    def put(self, position: int, number: int, missing: Iterable[Unit], state: Tensor) -> None:
        """Keep what enters a block, if its position is one of those whose states are kept.

        Args:
            position: Place of the block in the list of remaining blocks.
            number: Number of the batch.
            missing: Units before the block that are left out; none: the reference.
            state: ``[batch, seq, hidden]``.
        """
        if position and position % self.spacing == 0:
            at = self._known.setdefault(position, {})
            at[number, frozenset(missing)] = state.to(self.device)

    def get(self, number: int, missing: Iterable[Unit] = ()) -> Tensor:
        """Return what enters block ``start``, wherever it lies."""
        return self._known[self.start][number, frozenset(missing)]

    def cut(self, first: int) -> None:
        """Forget what follows from blocks that changed.

        Args:
            first: Position of the first block that changed or went.
        """
        self._known = {place: states for place, states in self._known.items() if place <= first}
        self.start = max(self._known, default=0)

    def begin(self, model: Model, batches: int, units: Sequence[Unit]) -> None:
        """Choose ``start``: the last block that all states are known of.

        Args:
            model: Whose blocks before the last ``cut`` are as they were.
            batches: Number of batches.
            units: Those that are scored, each without the others.
        """
        self.cut(len(model.kept) - 1)  # where the last blocks went
        for place in sorted(self._known, reverse=True):
            before = [u for u in units if model.position(u.index) < place]
            wanted = [frozenset(), *(frozenset([unit]) for unit in before)]
            known = self._known[place]
            if all((number, one) in known for number in range(batches) for one in wanted):
                self.start = place
                return
        self.start = 0

    def spared(self, model: Model, units: Sequence[Unit]) -> int:
        """Return how many block forward passes of each window are not run again.

        Args:
            model: As in ``begin``.
            units: Those that are scored, each without the others.
        """
        places = [(unit, model.position(unit.index)) for unit in units]
        return self.start + sum(
            self.start - place - (unit.kind == "block")
            for unit, place in places
            if place < self.start
        )


def keeps(model: Model, tokens: int, batch: Tensor, units: Sequence[Unit]) -> KeptStates | None:
    """Return a place for the states of scorings, if memory has one for them.

    Args:
        model: In eval mode; unchanged.
        tokens: Number of tokens of all batches.
        batch: One of the batches.
        units: Those that are scored, each without the others.

    Returns:
        None where the weights themselves are not kept, where the states would take more than a
        quarter of the free memory even at each fourth block, or where a model's blocks hand each
        other more than hidden states.
    """
    if model.streamed is not None:
        return None
    try:
        traced(model, batch)
    except ArchitectureError as error:
        logger.info("no hidden states are kept from step to step: %s", error)
        return None
    state = tokens * model.text_config.hidden_size * model.dtype.itemsize
    places = [model.position(unit.index) for unit in units]
    devices = [model.device, torch.device("cpu")]
    for device in devices[model.device.type == "cpu" :]:
        room = SHARE * free_bytes(device)
        for spacing in SPACINGS:
            at = range(spacing, len(model.kept), spacing)
            size = state * sum(1 + sum(place < end for place in places) for end in at)
            if size <= room:
                return KeptStates(spacing, device)
    logger.info(
        "no hidden states are kept from step to step: they would take %.3g GiB", size / 2**30
    )
    return None
