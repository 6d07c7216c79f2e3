"""The model of a step: the dense one with all that the chain took out and changed."""

from __future__ import annotations

from fusegpt.models.checkpoints.save import apply_deltas
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.results.history import History

__all__ = ["replay_chain"]


def replay_chain(model: Model, history: History) -> None:
    """Remove the chain's units from the dense ``model`` and write the deltas' tensors into it.

    Raises:
        ArchitectureError: The units cannot be removed from this model.
        ArtifactError: A delta does not fit the model.
    """
    if history.removed:
        remove(model, *history.removed)
    apply_deltas(model, history.deltas)
