"""Where a unit is missing, and the last matrix before that place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fusegpt.data.masked import tokens_in
from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load_original
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import bypass, find_branches
from fusegpt.models.structure.residual import OutputProjection, last_projection
from fusegpt.units import KINDS, Unit

__all__ = ["Gap", "find_gap", "projection_before"]


@dataclass(frozen=True)
class Gap:
    """What is left out between two remaining blocks, or inside one, in the model that computes it.

    Attributes:
        source: The current model, or the dense one.
        before: Dense index of the remaining block with the last matrix before the gap.
        last: Dense index of the last block of the gap, or of the one inside which it is.
        projection: The last matrix before the gap, in ``source``.
        sublayer: The attention or mlp that the gap is; None: whole blocks.
    """

    source: Model
    before: int
    last: int
    projection: OutputProjection
    sublayer: Unit | None = None

    def flops(self, windows: Tensor) -> float:
        """Estimate of the FLOPs of seeing what is missing once."""
        run = self.source.kept[: self.source.position(self.last) + 1]
        return forward_flops(self.source, run, tokens_in(windows), windows.shape[1])


def projection_before(
    model: Model, run: Sequence[Unit], batch: Tensor, label: str
) -> tuple[int, OutputProjection]:
    """Return the last matrix that adds to the hidden states before a run, and its block's index.

    Before an mlp it is in the attention of the same block; before an attention, in an earlier
    block. In a parallel block each sublayer stands in for the other.

    Args:
        model: The run is still in it.
        run: A remaining attention or mlp, or blocks that follow each other, in order.
        batch: Token ids ``[batch, seq]``.
        label: Names the work in messages.

    Raises:
        ArchitectureError: There is none, or nothing can be folded into it.
    """
    unit = run[0]
    lacking = model.lacking
    if unit.kind != "block":
        other = Unit("attention" if unit.kind == "mlp" else "mlp", unit.index)
        follows = unit.kind == "mlp" or not find_branches(model, unit.index).sequential
        if follows and other not in lacking:
            with bypass(model, [unit]):
                return unit.index, last_projection(model, unit.index, batch)
    place = model.position(unit.index)
    sublayers = {
        index: [Unit(kind, index) for kind in KINDS["mixed"]] for index in model.kept[:place]
    }
    whole = [index for index, both in sublayers.items() if not lacking.issuperset(both)]
    if not whole:
        raise ArchitectureError(
            f"{label}: no block before {unit} could take over its work;"
            " set importance.protect_first to 1"
        )
    return whole[-1], last_projection(model, whole[-1], batch)


def find_gap(model: Model, run: Sequence[Unit], windows: Tensor, teacher: str, label: str) -> Gap:
    """Return the gap that removing a run of blocks leaves.

    Args:
        model: The run is still in it.
        run: Remaining blocks that follow each other, in order; or an attention or an mlp.
        windows: Token ids ``[sequences, length]``.
        teacher: ``current``: the gap is the run, its inputs come from the current model.
            ``original``: the gap is all that is gone around it, in the dense model.
        label: Names the work in messages.
    """
    before, projection = projection_before(model, run, windows[:1], label)
    sublayer = None if run[0].kind == "block" else run[0]
    if teacher == "current":
        return Gap(model, before, run[-1].index, projection, sublayer)
    assert sublayer is None, sublayer
    dense = load_original(model)
    following = [index for index in model.kept if index > run[-1].index]
    end = following[0] if following else dense.kept[-1] + 1
    last = max(index for index in dense.kept if index < end)
    return Gap(dense, before, last, last_projection(dense, before, windows[:1]))
