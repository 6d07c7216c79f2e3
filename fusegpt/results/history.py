"""The one walk along a chain: from a step's manifest back to the dense model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusegpt.results import layout
from fusegpt.results.base import read
from fusegpt.results.exports import export_in
from fusegpt.results.files import Source
from fusegpt.results.models import read_checkpoint
from fusegpt.results.point import Point
from fusegpt.results.records import Removal, Scores, Start, Step, read_manifest
from fusegpt.results.recovered import Training
from fusegpt.units import Unit

__all__ = ["History", "Link", "dense_directory", "fused_map", "read_history", "step_of"]


@dataclass(frozen=True)
class Link:
    """One step of a chain, where it lies.

    Attributes:
        file: Its manifest.
        record: What the manifest says.
    """

    file: Path
    record: Step

    @functools.cached_property
    def scores(self) -> Scores:
        """The importance of every unit that was present before it."""
        return read(self.file.with_name(layout.SCORES), Scores)

    @functools.cached_property
    def training(self) -> Training:
        """The rows of its recovery; none where nothing was written."""
        file = self.file.with_name(layout.TRAINING)
        return read(file, Training) if file.is_file() else Training(rows=[])

    @property
    def delta(self) -> Path | None:
        """The tensors that it changed."""
        return self.file.with_name(layout.DELTA) if layout.DELTA in self.record.files else None


@dataclass(frozen=True)
class History:
    """What leads from the dense model to a step.

    Attributes:
        start: The manifest of step 000.
        source: The ``source.json`` of the dense model.
        links: The steps, the first one first; a contiguous selection has one for all it removed.
    """

    start: Start
    source: Path
    links: tuple[Link, ...]

    @property
    def steps(self) -> list[Step]:
        """What the manifests say, in order."""
        return [link.record for link in self.links]

    @property
    def removed(self) -> list[Unit]:
        """Every unit that was removed, in order."""
        return [unit for step in self.steps for unit in step.gone]

    @property
    def kept(self) -> list[int]:
        """Dense indices of the blocks that remain."""
        return self.links[-1].record.kept if self.links else self.start.kept

    @property
    def deltas(self) -> list[Path]:
        """The files of changed tensors, in order, of those steps that have one."""
        return [link.delta for link in self.links if link.delta is not None]

    @property
    def fused(self) -> dict[int | str, list[int]]:
        """What each remaining unit received; see ``fused_map``."""
        return fused_map(self.steps)

    @property
    def dense(self) -> Source:
        """What the dense model's record says."""
        return read(self.source, Source)


def read_history(manifest: str | Path, *, whole: bool = True) -> History:
    """Walk from a step's manifest to the dense model.

    Args:
        manifest: The step's own, or that of step 000.
        whole: Check the dense model's record and the changed tensors by checksum as well, which
            whoever loads the step needs. The manifests on the way are checked in any case.

    Raises:
        ArtifactError: A file is missing, damaged, no manifest, or not what its child says.
    """
    file = Path(manifest)
    record = read_manifest(file)
    links: list[Link] = []
    while isinstance(record, Step):
        link = Link(file, record)
        if whole and link.delta is not None:
            record.files[layout.DELTA].check(link.delta)
        links.append(link)
        file = record.parent.checked(file.parent)
        record = read_manifest(file)
    source = record.parent.file(file.parent)
    if whole:
        record.parent.checked(file.parent)
    return History(record, source, tuple(links[::-1]))


def dense_directory(path: Path) -> Path:
    """Return where the config and the tokenizer of a model lie.

    Args:
        path: The model's directory; or a step's manifest or its directory, which stand for the
            dense model; or a GGUF file's, which stands for what it was made from. No checksum but
            those of the records is compared.

    Raises:
        ArtifactError: A record is missing, damaged, or not what its child says.
    """
    exported = export_in(path)
    if exported is not None and exported.gguf is not None:
        return exported.origin(path)
    manifest = path if path.suffix == ".json" else path / layout.MANIFEST
    return read_history(manifest, whole=False).source.parent if manifest.is_file() else path


def step_of(results: str | Path, point: Point) -> Path:
    """Return the manifest of a point's last step; that of a finish is another recipe's.

    Args:
        results: The results folder.
        point: A step, or a model that a finish made of one.

    Raises:
        ArtifactError: Neither is there.
    """
    own = layout.manifest.under(results, point)
    file = layout.checkpoint.under(results, point)
    if own.is_file() or not file.is_file():
        return own
    parent = read_checkpoint(file).parent
    return own if parent is None else parent.file(file.parent)


def fused_map(steps: Sequence[Removal]) -> dict[int | str, list[int]]:
    """Return which removed units each remaining unit received, in order; dense indices.

    Keys are a block's index, or ``attention 5``; attentions receive attentions, mlps mlps.

    Args:
        steps: What the steps did, in order.
    """
    received: dict[Unit, list[int]] = {}
    for step in steps:
        for index in step.fused_into:
            received.setdefault(Unit(step.unit.kind, index), []).append(step.unit.index)
        received.pop(step.unit, None)
    return {
        unit.index if unit.kind == "block" else str(unit): donors
        for unit, donors in sorted(received.items())
    }
