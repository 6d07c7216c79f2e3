"""Which blocks some inputs run through at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.structure.visits import calls_of

__all__ = ["reached"]


@torch.no_grad()
def reached(model: Model, batch: Tensor | Mapping[str, Tensor]) -> set[int]:
    """Dense indices of the remaining blocks that run on these inputs.

    Text skips the blocks with which some models look at images: nothing can be said of
    their importance then, and nothing tunes them.
    """
    calls = zip(model.kept, calls_of(model, batch), strict=True)
    return {index for index, call in calls if call.hidden_key is not None}
