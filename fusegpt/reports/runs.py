"""What each step of a run left behind: manifest, scores and training rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.errors import ArtifactError

__all__ = ["SPENT", "Step", "read_finishes", "read_steps"]

SPENT = ("trainable_parameters", "tokens", "optimizer_steps", "flops")
"""What a recovery records of its cost; the first is a size, the others add up."""


@dataclass(frozen=True)
class Step:
    """One removal.

    Attributes:
        number: 1 for the first removal.
        unit: ``{"granularity", "index"}`` of what was removed; the index is the dense one. Of a
            run of neighbours the first.
        units: All that was removed: one, or a whole run.
        score: The removed unit's importance, and that of the runner-up.
        group: Dense indices of the blocks that were tuned.
        fused_into: Dense indices of the blocks that received the removed unit's weights.
        score_seconds, score_memory: Of scoring; ``fuse_seconds``, ``memory_gib``: of the recovery.
        spent: Of the recovery: trainable_parameters, tokens, optimizer_steps, flops; what an
            older record does not have is missing.
        scores: ``{"granularity", "index", "score"}`` of every unit that was present.
        training: One row per optimiser step: step, epoch, loss, learning_rate.
    """

    number: int
    unit: dict[str, Any]
    units: list[dict[str, Any]]
    score: float | None
    next_score: float | None
    metric: str
    group: list[int]
    fused_into: list[int]
    score_seconds: float
    fuse_seconds: float
    memory_gib: float | None
    score_memory: float | None = None
    spent: dict[str, float] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)


def read_steps(run: str | Path, last: int) -> list[Step]:
    """Read the steps that lead to step ``last`` of a run, the first one first.

    Args:
        run: ``results/runs/{model}/{recipe}``.
        last: The highest step wanted.

    Raises:
        ArtifactError: A manifest or a score file is missing or corrupt.
    """
    steps: list[Step] = []
    while last > 0:
        steps.append(_read_step(Path(run) / f"step-{last:03d}", last))
        last -= len(steps[-1].units)
    return steps[::-1]


def read_finishes(checkpoints: str | Path) -> dict[int, list[dict[str, Any]]]:
    """The training rows of recoveries after the last removal, by the number of removals.

    Args:
        checkpoints: ``results/checkpoints/{model}/{recipe}``; may be absent.
    """
    found = {}
    for file in sorted(Path(checkpoints).glob("step-*/fusegpt.json")):
        rows = (read_json(file).get("finish") or {}).get("training")
        if rows:
            found[int(file.parent.name.removeprefix("step-"))] = list(rows)
    return found


def _read_step(directory: Path, number: int) -> Step:
    manifest = read_json(directory / "manifest.json")
    scores = read_json(directory / "scores.json")
    file = directory / "training.json"
    training = read_json(file) if file.is_file() else {}
    try:
        return Step(
            number=number,
            unit=manifest["unit"],
            units=manifest.get("units") or [manifest["unit"]],
            score=manifest.get("score"),
            next_score=manifest.get("next_score"),
            metric=scores["metric"],
            group=list(manifest.get("group", [])),
            fused_into=list(manifest.get("fused_into", [])),
            score_seconds=float(scores.get("seconds", 0.0)),
            fuse_seconds=float(manifest.get("seconds", 0.0)),
            memory_gib=manifest.get("memory_gib"),
            score_memory=scores.get("memory_gib"),
            spent={name: manifest[name] for name in SPENT if name in manifest},
            scores=scores["units"],
            training=training.get("rows", []),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{directory}: not a step: {error!r}; delete it, run again") from None
