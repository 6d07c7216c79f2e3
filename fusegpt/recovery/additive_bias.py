"""The removed unit's mean update, added by a bias before the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fusegpt.config import Fraction, LearningRate, NonNegativeFloat, PositiveInt
from fusegpt.models.model import Model
from fusegpt.models.surgery.biases import give_bias
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.closed_form import accept, moments, split_holdout
from fusegpt.recovery.gap import find_gap, projection_before
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.tuning import Plan, tune_group
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["additive_bias"]


def additive_bias(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    fit: Literal["closed_form", "learned"] = "closed_form",
    clip: NonNegativeFloat = 5.0,
    holdout: Fraction = 0.25,
    epochs: PositiveInt = 1,
    batch_size: PositiveInt = 8,
    learning_rate: LearningRate = 1e-2,
) -> RecoveryReport:
    """Remove a unit and add the mean of its update to a bias before it.

    Exact: the bias of the last matrix before the gap is added to every token. A model without it
    gets it when its config has a switch for biases; all others that the switch brings are zero.
    Source: Siddiqui et al., emulation adapters (decision D27).

    Args:
        model: Loses the unit, or run of blocks; the bias before it changes.
        unit: Still present, and not in the first block.
        windows: Token ids ``[sequences, length]`` int64.
        seed: Not used; nothing is drawn.
        checkpoint: For resuming inside the step.
        fit: ``closed_form``: the mean. ``learned``: mean squared error by the shared loop.
        clip: As many usual tokens a token counts at most, 0 for no limit; closed form only.
        holdout: Part of the windows on which the closed form must beat plain removal.
        epochs: Passes over the windows; learned only.
        batch_size: Sequences of one batch; learned only.
        learning_rate: Peak, along a cosine to zero; learned only.

    Raises:
        ArchitectureError: The model has no such bias and its config cannot ask for one.
    """
    run = run_of(model, unit, "additive_bias")
    label = f"bias for {', '.join(map(str, run))}"
    before, projection = projection_before(model, run, windows[:1], label)
    name = f"{projection.name}.bias"
    give_bias(model, name)
    if fit == "closed_form":
        fitted, held = split_holdout(windows, holdout)
        gap = find_gap(model, run, windows, "current", label)
        shift = moments(gap, fitted, clip).update / projection.factor
        new = model.parameter(name).detach().cpu().double() + shift
        return accept(
            model, run, {name: new.to(model.dtype)}, held, fitted, gap.flops(fitted), label
        )
    plan = Plan.mse(epochs=epochs, batch_size=batch_size, rate=learning_rate, teacher="current")

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        base = model.parameter(name).detach().clone()
        draw = generator(seed, name)
        return {name: FusedWeight(base, update_rank="full", generator=draw)}

    return tune_group(
        model,
        run,
        windows,
        build,
        plan,
        seed=seed,
        checkpoint=checkpoint,
        label=label,
        group=[before],
    )
