"""The model of a step: the dense one with all that the chain took out and changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusegpt.errors import ArchitectureError, ArtifactError
from fusegpt.models.checkpoints.adapters import restore_adapters
from fusegpt.models.checkpoints.save import ADAPTERS, delta_dtype
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.models.stored import Stored, stored_in
from fusegpt.models.surgery.biases import give_bias
from fusegpt.models.surgery.removal import remove
from fusegpt.models.weights import Places, fill, owner_of
from fusegpt.results.history import History
from fusegpt.units import Unit

__all__ = ["catch_up", "follow_deltas", "look_ahead", "replay_chain", "rest_on"]


def look_ahead(model: Model, history: History) -> str | None:
    """See what decides whether weights can be streamed: fusions that no step has folded.

    Args:
        model: The dense model; its ``adapter_state`` gains them.
        history: The chain.

    Returns:
        The ``checkpoint_dtype`` to ``settle`` the filled model with; None: an older chain, whose
        weights were not rounded.

    Raises:
        ArtifactError: A delta is missing or corrupt.
    """
    for name, place in stored_in(history.deltas).items():
        if name.startswith(ADAPTERS):
            model.adapter_state[name] = place.read()
    return delta_dtype(history.deltas[-1]) if history.deltas else None


def replay_chain(model: Model, history: History, places: Places) -> None:
    """Remove the chain's units from the dense ``model``, and point at what the deltas changed.

    Of tensors of equal names the last step's counts; those of removed units are passed over.

    Args:
        model: Changed in place: what is removed, and ``adapter_state``. Nothing else is read.
        history: The chain.
        places: Where tensors are read from; those in the deltas are from now on read there.

    Raises:
        ArchitectureError: The units cannot be removed from this model.
        ArtifactError: A delta is missing or corrupt, or does not fit the model.
    """
    if history.removed:
        remove(model, *history.removed)
    follow_deltas(model, history.deltas, places)


def catch_up(model: Model, removed: Sequence[Unit], paths: Sequence[Path]) -> None:
    """Bring a whole model to where steps had left it, unfolded fusions included.

    Args:
        model: As it was before them; changed in place.
        removed: What they removed.
        paths: The tensors that they changed, in the order of the steps.

    Raises:
        ArchitectureError: The units cannot be removed from this model.
        ArtifactError: A file is missing or corrupt, or a tensor does not fit the model.
    """
    if not removed:
        return
    remove(model, *removed)
    if model.streamed is not None:
        rest_on(model, paths)
        return
    places: Places = {}
    follow_deltas(model, paths, places)
    fill(model.module.modules(), places, model.device)
    restore_adapters(model)
    if (rounding := delta_dtype(paths[-1])) is not None:
        settle(model, rounding, model.fused)


def rest_on(model: Model, paths: Sequence[Path]) -> None:
    """Read what some steps changed from their files from now on, where weights are streamed.

    Args:
        model: Blocks that it holds are let go.
        paths: The tensors that were changed, in the order of the steps.
    """
    if model.streamed is not None:
        follow_deltas(model, paths, model.streamed.places)
        model.streamed.let_go()


def follow_deltas(model: Model, paths: Sequence[Path], places: Places) -> None:
    """Point at the tensors of several deltas; of equal names only the last is read.

    Args:
        model: Its ``adapter_state`` gains the ``fused/`` and ``donor/`` ones.
        paths: Files in the order of the steps.
        places: Where tensors are read from.

    Raises:
        ArtifactError: A file is missing or corrupt, or a tensor does not fit the model.
    """
    for name, place in stored_in(paths).items():
        if name.startswith(ADAPTERS):
            model.adapter_state[name] = place.read()
        elif not model.is_gone(name):
            _redirect(model, places, name, place)


def _redirect(model: Model, places: Places, name: str, place: Stored) -> None:
    try:
        if name.endswith(".bias"):
            give_bias(model, name)
        parameter = model.parameter(name)
    except (AttributeError, ArchitectureError):
        raise ArtifactError(f"{place.file}: the model has no parameter {name!r}") from None
    if parameter.shape != place.shape:
        raise ArtifactError(
            f"{place.file}: {name} must have shape {list(parameter.shape)}, got {list(place.shape)}"
        )
    _, index, inner = name.split(".", 2)
    owner, leaf = owner_of(model.block(int(index)), inner)
    places.setdefault(owner, {})[leaf] = place
