"""A chain of steps: from a step's manifest back to the dense model, and forth again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.artifacts import check_file, read_json
from fusegpt.errors import ArtifactError
from fusegpt.models.checkpoints.save import apply_deltas
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit

__all__ = ["Chain", "read_chain", "replay_chain"]

DELTA = "delta.safetensors"


@dataclass(frozen=True)
class Chain:
    """What leads from the dense model to a step.

    Attributes:
        source: Directory of the dense model.
        units: What the steps removed, in order.
        deltas: Their files, in order, of those steps that have one.
    """

    source: Path
    units: list[Unit]
    deltas: list[Path]


def read_chain(manifest: Path) -> Chain:
    """Walk from ``manifest`` to the dense model, checking every checksum on the way.

    Raises:
        ArtifactError: A file is missing, is no step manifest, or is not what its child says.
    """
    units: list[Unit] = []
    deltas: list[Path] = []
    while True:
        parent, gone, files = _read(manifest)
        if not gone:
            return Chain(parent.parent, units, deltas[::-1])
        units = gone + units
        if DELTA in files:
            check_file(manifest.parent / DELTA, files[DELTA])
            deltas.append(manifest.parent / DELTA)
        manifest = parent


def replay_chain(model: Model, chain: Chain) -> None:
    """Remove the chain's units from the dense ``model`` and write the deltas' tensors into it.

    Raises:
        ArchitectureError: The units cannot be removed from this model.
        ArtifactError: A delta does not fit the model.
    """
    if chain.units:
        remove(model, *chain.units)
    apply_deltas(model, chain.deltas)


def _read(path: Path) -> tuple[Path, list[Unit], dict[str, Any]]:
    """The parent's manifest, compared with its checksum; the step's units; its files.

    A step that removed several units at once names them in ``units``, any other one in ``unit``.
    """
    notes = read_json(path)
    try:
        kind, parent = notes["kind"], notes["parent"]
        # by name, as the path was made: a symbolic link on the way changes nothing
        place = Path(os.path.normpath(path.parent / parent["path"]))
        record = {"sha256": parent["sha256"]}
        removed = [] if kind == "start" else notes.get("units") or [notes["unit"]]
        units = [Unit.from_json(unit) for unit in removed]
        files = dict(notes.get("files", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: must be the manifest of a step, with kind, parent, unit and files "
            f"({type(error).__name__}: {error})"
        ) from error
    if kind not in ("start", "step"):
        raise ArtifactError(f"{path}: kind must be 'start' or 'step', got {kind!r}")
    check_file(place, record)
    return place, units, files
