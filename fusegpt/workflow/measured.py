"""How long jobs took before: from the results and Snakemake's benchmark files of earlier runs."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fusegpt.errors import ArtifactError, FuseGPTError
from fusegpt.pruning.recipe import Recipe, read_recipe
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.records import Scores, Step, read_manifest
from fusegpt.workflow.cost import Cost
from fusegpt.workflow.dryrun import Job
from fusegpt.workflow.plan import Plan

__all__ = ["Measured"]


class Measured:
    """Past seconds, by rule, model and method, and the memory that steps took.

    A step's seconds are scaled by its work (forward passes times tokens, or recovery tokens); one
    that is not counted takes as long as other steps of its recipe. What any other job takes is the
    median of the same rule on the same model.

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
            for run in at.run_directory.found_in(directory / at.FOLDER, model=model):
                self._read_run(run.path, model, device)

    def seconds(self, job: Job) -> float | None:
        """How long a job will take; ``None``: nothing like it was measured here."""
        model = job.wildcards.get("model", "")
        if job.rule == "score_part":  # its seconds are those of the scores
            return 0.0
        if job.rule not in ("score", "fuse"):
            return self._median_of_others(job)
        recipe = self.plan.recipes[job.wildcards["recipe"]]
        num_blocks = self.plan.models[model].num_blocks
        amount = _amount(job.rule, recipe, num_blocks, int(job.wildcards["k"]))
        rates = self._rates[_kind(job.rule, model, recipe, amount)]
        if not rates:
            return None
        overheads = statistics.median(self._overheads[job.rule, model] or [0.0])
        return (amount or 1.0) * statistics.median(rates) + overheads

    def _read_run(self, run: Path, model: str, device: str) -> None:
        try:
            recipe = read_recipe(run / at.RECIPE)
        except FuseGPTError:
            return
        for rule, record, benchmark in _records(run):
            if record.provenance is None or not record.provenance.device.startswith(device):
                continue
            peak = record.memory_gib or 0.0
            self.peaks[model, run.name] = max(peak, self.peaks.get((model, run.name), 0.0))
            step, num_blocks = record.step or 0, self.plan.models[model].num_blocks
            if step:
                amount = _amount(rule, recipe, num_blocks, step)
                rates = self._rates[_kind(rule, model, recipe, amount)]
                rates.append(record.seconds / (amount or 1.0))
            for whole in _benchmark(self.benchmarks / rule / model / run.name / benchmark):
                self._overheads[rule, model].append(max(0.0, whole - record.seconds))

    def _median_of_others(self, job: Job) -> float | None:
        folder = self.benchmarks / job.rule
        model, evaluation = job.wildcards.get("model"), job.wildcards.get("evaluation")
        pattern = f"{evaluation}.tsv" if evaluation else "*.tsv"
        inside = folder / model if model else folder
        files = [*inside.rglob(pattern)] if inside.is_dir() else []
        files += [file for file in (folder.with_suffix(".tsv"), folder / f"{model}.tsv")]
        seconds = [value for file in files for value in _benchmark(file)]
        return statistics.median(seconds) if seconds else None


def _records(run: Path) -> Iterator[tuple[str, Scores | Step, str]]:
    """Rule, record and name of the benchmark file of each step; what is damaged is left out."""
    names = {"model": run.parent.name, "recipe": run.name}
    results = run.parent.parent.parent
    for found in at.scores.found_in(results, **names):
        with suppress(ArtifactError):
            yield "score", read(found.path, Scores), f"{found.place}.tsv"
    for found in at.manifest.found_in(results, **names):
        with suppress(ArtifactError):
            record = read_manifest(found.path)
            if isinstance(record, Step):
                yield "fuse", record, f"{found.place}.tsv"


def _amount(rule: str, recipe: Recipe, num_blocks: int, step: int) -> float | None:
    """How much a step has to do; None: not counted, so every step takes as long as the others."""
    work = Cost(recipe, num_blocks).work(rule, step)
    if work.tokens is None or work.passes is None:
        return None
    size = work.tokens * work.passes if rule == "score" else work.tokens
    return float(max(size, 1))


def _kind(rule: str, model: str, recipe: Recipe, amount: float | None) -> tuple[str, ...]:
    """Which seconds are alike."""
    own = (recipe.metric,) if rule == "score" else (recipe.method, recipe.recovery.pace)
    counted = "by work" if amount is not None else recipe.id
    return (rule, model, *own, recipe.dtype, counted)


def _benchmark(file: Path) -> list[float]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return [float(row["s"]) for row in rows if row.get("s") not in (None, "NA")]
