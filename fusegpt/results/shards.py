"""The record of partial scores: what some of the windows add to the scores of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from fusegpt.errors import ArtifactError
from fusegpt.results.base import Record, UnitField, read
from fusegpt.results.files import Parent, Provenance

__all__ = ["BatchSums", "PartialScores", "Shard", "read_parts"]

ALIKE = (
    *("metric", "recipe", "inputs", "shards", "step", "settings", "units", "able", "run"),
    *("stage_version", "seed"),
)
"""What all parts of the same scores have in common, besides the model."""


T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """A part of the batches that are scored.

    Attributes:
        number: Number of the part, from 1.
        shards: Number of all parts.
    """

    number: int
    shards: int

    def part(self, pieces: Sequence[T]) -> Sequence[T]:
        """Return those of the batches that belong to the part; none where there are too few."""
        start, end = ((self.number - more) * len(pieces) // self.shards for more in (1, 0))
        return pieces[start:end]


class BatchSums(Record):
    """What one batch of windows adds: a sum for each unit, and how many values each is made of."""

    weight: int
    values: list[float]


class PartialScores(Record):
    """Sums over the windows of one shard.

    Attributes:
        shard: Number of the part, from 1.
        shards: Number of all parts.
        units: Every unit that is scored.
        able: Places in ``units`` of those that may go, or of the first ones of runs that may.
        run: Number of units that go at once.
        batches: What each batch of the shard adds, in order.
    """

    noun: ClassVar[str] = "partial scores of fusegpt score --shard"

    kind: Literal["partial_scores"]
    shard: int
    shards: int
    step: int
    metric: str
    settings: dict[str, Any] = Field(default_factory=dict)
    units: list[UnitField]
    able: list[int]
    run: int
    batches: list[BatchSums]
    seconds: float = 0.0
    memory_gib: float | None = None
    recipe: str | None = None
    seed: int | None = None
    stage_version: int | None = None
    parent: Parent | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    provenance: Provenance | None = None

    @property
    def basis(self) -> dict[str, Any]:
        """What the part says of the scores that it is a part of."""
        parent = None if self.parent is None else self.parent.sha256
        return {**{name: getattr(self, name) for name in ALIKE}, "parent": parent}


def read_parts(files: Sequence[Path], expected: Mapping[str, Any]) -> list[PartialScores]:
    """Read all parts of the same scores, in the order of their windows.

    Args:
        files: One for each shard, in any order.
        expected: Values that every part must have, by the names of ``basis``.

    Raises:
        ArtifactError: One is missing, there twice, damaged, or a part of other scores; the message
            names the file.
    """
    found: dict[int, PartialScores] = {}
    basis: dict[str, Any] = dict(expected)
    for file in files:
        part = read(file, PartialScores)
        for name, value in part.basis.items():
            if basis.setdefault(name, value) != value:
                raise ArtifactError(
                    f"{file}: must be a part of the same scores as the others, its {name} is"
                    f" {value!r:.80}, not {basis[name]!r:.80}; delete it and score that shard again"
                )
        if part.shard in found:
            raise ArtifactError(f"{file}: shard {part.shard} must be given once, is given twice")
        found[part.shard] = part
    missing = [number for number in range(1, basis["shards"] + 1) if number not in found]
    if missing:
        raise ArtifactError(
            f"{files[0]}: all {basis['shards']} shards must be given, shard {missing[0]} is not;"
            " score it with --shard"
        )
    return [found[number] for number in sorted(found)]
