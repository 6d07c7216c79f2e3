"""How long jobs took before: from the results and Snakemake's benchmark files of earlier runs."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.errors import ArtifactError, FuseGPTError
from fusegpt.pruning.recipe import Recipe, read_recipe
from fusegpt.workflow.cost import Cost
from fusegpt.workflow.dryrun import Job
from fusegpt.workflow.experiment import Plan

__all__ = ["Measured"]


class Measured:
    """Past seconds, by rule, model and method, and the memory that steps took.

    A step's seconds are scaled by its work (forward passes times tokens, or tuned tokens). What any
    other job takes is the median of the same rule on the same model.

    Attributes:
        plan: Plan of what is asked for now.
        benchmarks: Where Snakemake notes seconds.
        peaks: Model and recipe id to the highest GiB that one of its steps recorded.
    """

    def __init__(self, directory: Path, plan: Plan, device: str) -> None:
        self.plan = plan
        self.benchmarks = directory / "benchmarks" / "runs"
        self.peaks: dict[tuple[str, str], float] = {}
        self._rates: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._overheads: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for model in plan.models:
            for run in sorted((directory / "results" / "runs" / model).glob("*")):
                self._read_run(run, model, device)

    def seconds(self, job: Job) -> float | None:
        """How long a job will take; ``None``: nothing like it was measured here."""
        model = job.wildcards.get("model", "")
        if job.rule not in ("score", "fuse"):
            return self._median_of_others(job)
        recipe = self.plan.recipes[job.wildcards["recipe"]]
        rates = self._rates[(job.rule, model, *_method(job.rule, recipe))]
        num_blocks = self.plan.models[model].num_blocks
        amount = _amount(job.rule, recipe, num_blocks, int(job.wildcards["k"]))
        if not rates or amount is None:
            return None
        overheads = self._overheads[job.rule, model]
        return amount * statistics.median(rates) + statistics.median(overheads or [0.0])

    def _read_run(self, run: Path, model: str, device: str) -> None:
        try:
            recipe = read_recipe(run / "recipe.json")
        except FuseGPTError:
            return
        for file, rule in (
            (f, r) for r in RECORDS for f in sorted(run.glob(f"step-*/{RECORDS[r]}"))
        ):
            notes = _notes(file)
            if not _ran_on(notes, device) or "seconds" not in notes:
                continue
            peak = notes.get("memory_gib") or 0.0
            self.peaks[model, run.name] = max(peak, self.peaks.get((model, run.name), 0.0))
            amount = _amount(rule, recipe, self.plan.models[model].num_blocks, notes["step"])
            if amount is not None:
                key = (rule, model, *_method(rule, recipe))
                self._rates[key].append(notes["seconds"] / max(amount, 1))
            step = f"{file.parent.name}.tsv"
            for whole in _benchmark(self.benchmarks / rule / model / run.name / step):
                self._overheads[rule, model].append(max(0.0, whole - notes["seconds"]))

    def _median_of_others(self, job: Job) -> float | None:
        folder = self.benchmarks / job.rule
        model, evaluation = job.wildcards.get("model"), job.wildcards.get("evaluation")
        pattern = f"{evaluation}.tsv" if evaluation else "*.tsv"
        inside = folder / model if model else folder
        files = [*inside.rglob(pattern)] if inside.is_dir() else []
        files += [file for file in (folder.with_suffix(".tsv"), folder / f"{model}.tsv")]
        seconds = [value for file in files for value in _benchmark(file)]
        return statistics.median(seconds) if seconds else None


RECORDS = {"score": "scores.json", "fuse": "manifest.json"}


def _amount(rule: str, recipe: Recipe, num_blocks: int, step: int) -> float | None:
    if step == 0:
        return None
    work = Cost(recipe, num_blocks).work(rule, step)
    if work.tokens is None or work.passes is None:
        return None
    size = work.tokens * work.passes if rule == "score" else work.tokens
    return float(max(size, 1))


def _method(rule: str, recipe: Recipe) -> tuple[str, ...]:
    own = (recipe.metric,) if rule == "score" else (recipe.method, recipe.recovery.pace)
    return (*own, recipe.dtype)


def _notes(file: Path) -> dict[str, Any]:
    try:
        notes = read_json(file)
    except ArtifactError:
        return {}
    return notes if isinstance(notes, dict) else {}


def _ran_on(notes: dict[str, Any], device: str) -> bool:
    return str((notes.get("provenance") or {}).get("device", "")).startswith(device)


def _benchmark(file: Path) -> list[float]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return [float(row["s"]) for row in rows if row.get("s") not in (None, "NA")]
