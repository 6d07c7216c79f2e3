"""LaCo: the differences of removed blocks are folded into the block before them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load_original
from fusegpt.models.model import Model
from fusegpt.recovery.group import run_of
from fusegpt.recovery.merging import merge
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.merges import Laco
from fusegpt.units import Unit

__all__ = ["laco"]


def laco(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor | None = None,
    settings: Laco = Laco(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a unit, or a run of blocks, and fold it into the one before: nothing is trained.

    W = W_l + Σ_k (W_{l+k} - W_l): W_l is the dense model's weight of the block before, the sum is
    over all that was folded into it. Step by step ends as all at once.
    Paper: LaCo, arXiv 2402.11187 (decision D51).

    Args:
        model: Loses the unit, or run of blocks; the one before changes.
        unit: Still present; not the first of its kind.
        windows: Not used.
        settings: There are none.
        seed: Not used; nothing is drawn.
        checkpoint: Not used; there is nothing to resume.

    Raises:
        ArchitectureError: There is none before.
        ConfigError: Something was removed between the two before, and the model came from no
            directory, so that the dense weights cannot be had.
    """
    run = run_of(model, unit, "laco")
    earlier = [one.index for one in model.units(run[0].kind) if one < run[0]]
    if not earlier:
        raise ArchitectureError(
            f"laco: no {run[0].kind} before {run[0]} could take it up;"
            " set importance.protect_first to 1"
        )
    base = earlier[-1]
    untouched = base + 1 == run[0].index
    dense = model if untouched else load_original(model)

    def combine(name: str, own: Tensor, removed: list[Tensor]) -> Tensor:
        start = own if untouched else dense.parameter(name).detach().float()
        return own + sum(tensor - start for tensor in removed)

    return merge(model, run, [base], combine)
