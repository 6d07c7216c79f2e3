"""The removed unit's mean update, added by a bias before the gap."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.models.checkpoints.directory import load_structure
from fusegpt.models.model import Model
from fusegpt.models.surgery.biases import give_bias
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.closed_form import accept, moments, split_holdout
from fusegpt.recovery.gap import find_gap, projection_before
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.maps import AdditiveBias
from fusegpt.recovery.suits import folds_before
from fusegpt.recovery.tuning import tune_group
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["additive_bias", "suits"]


def additive_bias(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    settings: AdditiveBias = AdditiveBias(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a unit and add the mean of its update to a bias before it.

    Exact: the bias of the last matrix before the gap is added to every token. A model without it
    gets it when its config has a switch for biases; all others that the switch brings are zero.
    Source: Siddiqui et al., emulation adapters (decision D27).

    Args:
        model: Loses the unit, or run of blocks; the bias before it changes.
        unit: Still present, and not in the first block.
        windows: Token ids ``[sequences, length]`` int64.
        settings: Whether the bias is the mean, or learned by the shared loop.
        seed: Not used; nothing is drawn.
        checkpoint: For resuming inside the step.

    Raises:
        ArchitectureError: The model has no such bias and its config cannot ask for one.
    """
    run = run_of(model, unit, "additive_bias")
    label = f"bias for {', '.join(map(str, run))}"
    before, projection = projection_before(model, run, windows[:1], label)
    name = f"{projection.name}.bias"
    give_bias(model, name)
    if not settings.learned:
        fitted, held = split_holdout(windows, settings.holdout)
        gap = find_gap(model, run, windows, "current", label)
        shift = moments(gap, fitted, settings.clip).update / projection.factor
        new = model.parameter(name).detach().cpu().double() + shift
        spent = settings.sees * gap.flops(fitted)
        return accept(model, run, {name: new.to(model.dtype)}, held, fitted, spent, label)

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        base = model.parameter(name).detach().clone()
        draw = generator(seed, name)
        return {name: FusedWeight(base, update_rank="full", generator=draw)}

    return tune_group(
        model,
        run,
        windows,
        build,
        settings.tuning(),
        seed=seed,
        checkpoint=checkpoint,
        label=label,
        group=[before],
    )


def suits(model: Model, units: Sequence[Unit], batch: Tensor, settings: AdditiveBias) -> None:
    """Refuse a model that has no matrix to fold into, or whose config asks for no bias there.

    Args:
        model: Unchanged; the config is asked for a bias in a model without weights.
        units: Remaining units of the recipe's granularity that the data run through.
        batch: Token ids ``[batch, seq]``.
        settings: Not used.

    Raises:
        ArchitectureError: The method can work on none of the units.
    """
    projection = folds_before(model, units, batch, settings)
    if units[0].kind == "block" and model.source is not None:
        give_bias(load_structure(model.source), f"{projection.name}.bias")
