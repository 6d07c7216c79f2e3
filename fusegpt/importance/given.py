"""Given: the units that a list names go, in its order; no data is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.errors import ConfigError
from fusegpt.importance.settings import Given
from fusegpt.models.model import Model
from fusegpt.models.surgery.sublayer_removal import last_blocks_of_their_kind
from fusegpt.units import Unit

__all__ = ["given"]


def given(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Given = Given(),
    *,
    run: int = 1,
) -> Tensor:
    """Score each unit by its place in the list; whatever is not named is above all that is.

    Args:
        model: As pruned so far; what it lacks is passed over in the list.
        batches: Not used.
        units: The units that may go.
        settings: The list.
        run: Score runs of so many units by the sum of their places, each at its first unit.

    Returns:
        ``[units - run + 1]`` float64 on the CPU, 0 or more.

    Raises:
        ConfigError: The next unit of the list may not go, all are gone, or the next ``run`` of
            them are no neighbours.
    """
    names = settings.blocks
    places = {unit: settings.place(unit) for unit in units}
    gone = {settings.place(unit) for unit in model.removed}
    following = [place for place in range(len(names)) if place not in gone][:run]
    if len(following) < run:
        raise ConfigError(f"importance.blocks: all {len(names)} units that it names are gone")
    wanted = [unit for unit, place in places.items() if place in following]
    last = last_blocks_of_their_kind(model, wanted) if run > 1 else []
    for place in following:
        if place not in places.values() or last:
            raise ConfigError(
                f"importance.blocks: {names[place]!r} cannot go: it is not in the model, protected,"
                " passed over by the data, or the last of its kind"
            )
    listed = torch.tensor([places[unit] for unit in units], dtype=torch.float64)
    scores = listed.unfold(0, run, 1).sum(-1)  # [units - run + 1]
    if run > 1 and scores.min() != sum(following):
        raise ConfigError(
            f"importance.blocks: the next {run} units must be neighbours to go as one run, got"
            f" {[names[place] for place in following]}"
        )
    return scores
