"""Result files to rows: one row per measured value of one recipe at one sparsity."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, ValidationError

from fusegpt.artifacts import read_json
from fusegpt.config import NonNegativeInt, Number, PositiveInt, Strict, explain
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.reports.runs import SPENT, read_steps

__all__ = [
    "COLUMNS",
    "DENSE",
    "Curves",
    "Experiment",
    "collect",
    "evaluation_files",
    "parse_experiment",
]

DENSE = "dense"

Curves = dict[str, dict[str, dict[Number, str]]]
"""Title of an axis to lines, a line being numbers on that axis and the recipe at each."""

COLUMNS = (
    "experiment",
    "model",
    "recipe",
    "recipe_id",
    "seed",
    "sparsity",
    "step",
    "num_blocks",
    "blocks_left",
    "granularity",
    "num_units",
    "units_left",
    "parameters",
    "evaluation",
    "task",
    "metric",
    "value",
    "unit",
    "higher_is_better",
    "num_samples",
    "score_seconds",
    "fuse_seconds",
    "seconds",
    "memory_gib",
    *SPENT,
    "protocol",
    "note",
)
"""Of the CSV; ``note`` is a warning on the value, most often empty.

Seconds, memory and what recovery spent are those of all steps up to this one: the most
trainable parameters at once, and the sums of tokens, optimiser steps and FLOPs.
"""


class ModelSteps(Strict):
    """A model of an experiment: how many blocks it has, and which step each sparsity is."""

    num_blocks: PositiveInt
    steps: dict[str, NonNegativeInt]
    mixed_steps: dict[str, NonNegativeInt] | None = None
    """Of recipes in which attentions and mlps compete: twice as many units."""


class RecipeRun(Strict):
    """A recipe of an experiment with one seed.

    Attributes:
        width: It slices widths: results lie under sparsities, not steps.
    """

    name: str
    seed: int
    id: str
    width: bool = False
    granularity: str = "block"


class Experiment(Strict):
    """What a table shows; paths follow from it (``results/evaluations/{model}/{id}/...``)."""

    name: str
    models: dict[str, ModelSteps]
    recipes: list[RecipeRun]
    evaluations: list[str]
    curves: Curves = Field(default_factory=dict)


def parse_experiment(value: Mapping[str, Any]) -> Experiment:
    """Check the description of an experiment.

    Raises:
        ConfigError: A key is missing or unknown, or a recipe's name and seed stand for two ids.
    """
    try:
        experiment = Experiment.model_validate(dict(value))
    except ValidationError as error:
        raise ConfigError(explain(error, "experiment", Experiment)) from None
    ids: dict[tuple[str, int], str] = {}
    for run in experiment.recipes:
        other = ids.setdefault((run.name, run.seed), run.id)
        if other != run.id:
            raise ConfigError(
                f"experiment.recipes: {run.name!r} with seed {run.seed} must have one id,"
                f" got {other!r} and {run.id!r}; give one of them another name"
            )
    return experiment


def collect(experiment: Experiment, results: str | Path) -> pd.DataFrame:
    """Read every evaluation of an experiment, and the time and memory of its steps.

    Args:
        experiment: What to read.
        results: The folder that holds ``evaluations`` and ``runs``.

    Returns:
        A frame with ``COLUMNS``, in the order models, recipes, sparsities, evaluations.

    Raises:
        ArtifactError: A file is missing or corrupt, or rows of one label were measured with
            different settings.
    """
    rows = list(_rows(experiment, Path(results)))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    refuse_mixed_settings(frame)
    return frame


def evaluation_files(experiment: Experiment, results: str | Path) -> list[Path]:
    """Every result file that the table of an experiment reads, each once."""
    found: dict[Path, None] = {}
    for model, spec in experiment.models.items():
        for run in experiment.recipes:
            for sparsity, step in _asked(run, spec).items():
                for name in experiment.evaluations:
                    found[_result_file(Path(results), model, run, sparsity, step, name)] = None
    return list(found)


def _asked(run: RecipeRun, spec: ModelSteps) -> dict[str, int]:
    """Sparsity to step; a recipe that slices widths has but the dense step."""
    if run.name == DENSE:
        return {"0": 0}
    if run.width:
        return dict.fromkeys(spec.steps, 0)
    return (spec.mixed_steps or {}) if run.granularity == "mixed" else spec.steps


def _result_file(
    results: Path, model: str, run: RecipeRun, sparsity: str, step: int, evaluation: str
) -> Path:
    """Where a result lies; that of step 0 is the dense model's, whatever the recipe."""
    if run.width and float(sparsity):
        place = Path(run.id, f"sparsity-{sparsity}")
    else:
        place = Path(run.id if step else DENSE, f"step-{step:03d}")
    return results / "evaluations" / model / place / f"{evaluation}.json"


def refuse_mixed_settings(frame: pd.DataFrame) -> None:
    """Refuse rows that stand under one label but were not measured alike.

    Raises:
        ArtifactError: Two rows of one model, evaluation, task and metric differ in protocol or
            number of samples.
    """
    for key, group in frame.groupby(["model", "evaluation", "task", "metric"], sort=False):
        for column in ("protocol", "num_samples", "unit", "higher_is_better"):
            values = [str(value) for value in pd.unique(group[column])]
            if len(values) > 1:
                raise ArtifactError(
                    f"{'/'.join(str(part) for part in key)}: every row must have the same {column},"
                    f" got {values[0]} and {values[1]}; evaluate again with one setting"
                )


def _rows(experiment: Experiment, results: Path) -> Iterator[dict[str, Any]]:
    for model, spec in experiment.models.items():
        for run in experiment.recipes:
            for sparsity, step in _asked(run, spec).items():
                costs = _costs(results, model, run, sparsity, step)
                for evaluation in experiment.evaluations:
                    file = _result_file(results, model, run, sparsity, step, evaluation)
                    common = {
                        "experiment": experiment.name,
                        "model": model,
                        "recipe": run.name,
                        "recipe_id": run.id,
                        "seed": run.seed,
                        "sparsity": float(sparsity),
                        "step": step,
                        "num_blocks": spec.num_blocks,
                        "granularity": run.granularity,
                        "num_units": spec.num_blocks * len(_kinds(run.granularity)),
                        "evaluation": evaluation,
                        **costs,
                    }
                    yield from _measured(file, common)


def _kinds(granularity: str) -> tuple[str, ...]:
    return ("attention", "mlp") if granularity == "mixed" else (granularity,)


def _units_left(model: Mapping[str, Any], common: Mapping[str, Any]) -> int:
    if common["granularity"] == "block":
        return len(model["kept"])
    kinds = _kinds(common["granularity"])
    return common["num_units"] - sum(unit["granularity"] in kinds for unit in model["removed"])


def _measured(file: Path, common: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    result = read_json(file)
    try:
        model, settings = result["model"], result["settings"]
        for row in result["rows"]:
            protocol = {**settings, **row.get("protocol", {})}
            yield {
                **common,
                "blocks_left": len(model["kept"]),
                "units_left": _units_left(model, common),
                "parameters": int(model["parameters"]),
                "task": row["task"],
                "metric": row["metric"],
                "value": float(row["value"]),
                "unit": row["unit"],
                "higher_is_better": bool(row["higher_is_better"]),
                "num_samples": row["num_samples"],
                "protocol": json.dumps(protocol, sort_keys=True),
                "note": row.get("note", ""),
            }
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: not an evaluation: {error!r}; evaluate again") from None


def _costs(
    results: Path, model: str, run: RecipeRun, sparsity: str, last: int
) -> dict[str, float | None]:
    """Seconds, peak memory and budget of steps 1 to ``last``, and of a recovery at the end.

    Slicing scores and tunes nothing: its seconds stand in ``seconds`` alone.
    """
    if last == 0:
        notes = {}
        if run.width and float(sparsity):
            place = Path(model, run.id, f"sparsity-{sparsity}", "fusegpt.json")
            notes = read_json(results / "slices" / place)
        nothing = dict.fromkeys(("score_seconds", "fuse_seconds"), 0.0)
        spent = {"seconds": notes.get("seconds", 0.0), "memory_gib": notes.get("memory_gib")}
        return {**nothing, **spent, **dict.fromkeys(SPENT, 0)}
    steps = read_steps(results / "runs" / model / run.id, last)
    end = _finish(results / "checkpoints" / model / run.id / f"step-{last:03d}")
    score = sum(step.score_seconds for step in steps)
    fuse = sum(step.fuse_seconds for step in steps) + end.get("seconds", 0.0)
    memory = [step.memory_gib for step in steps] + [end.get("memory_gib")]
    return {
        "score_seconds": round(score, 3),
        "fuse_seconds": round(fuse, 3),
        "seconds": round(score + fuse, 3),
        "memory_gib": max((value for value in memory if value is not None), default=None),
        **_spent([*(step.spent for step in steps), *([end] if end else [])]),
    }


def _finish(checkpoint: Path) -> Mapping[str, Any]:
    """The record of a recovery after the last removal; empty where there was none."""
    file = checkpoint / "fusegpt.json"
    notes = read_json(file) if file.is_file() else {}
    found = notes.get("finish") if isinstance(notes, dict) else None
    return found if isinstance(found, dict) else {}


def _spent(records: list[Mapping[str, Any]]) -> dict[str, float | None]:
    """The largest number of trainable values, and sums; None where a record does not say."""
    found: dict[str, float | None] = {}
    for name in SPENT:
        values = [record.get(name) for record in records]
        known = [value for value in values if value is not None]
        whole = max if name == "trainable_parameters" else sum
        found[name] = whole(known) if len(known) == len(values) else None
    return found
