"""``fusegpt plan``: what will run, what is there, what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusegpt.data.shape import block_shape
from fusegpt.data.windows import read_meta
from fusegpt.errors import ArtifactError
from fusegpt.pruning.recipe import Recipe
from fusegpt.results import layout as at
from fusegpt.results.point import Place
from fusegpt.work import Shape, total
from fusegpt.workflow.cost import COUNTED, Cost
from fusegpt.workflow.dryrun import Job, jobs
from fusegpt.workflow.measured import Measured
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.until import Chains, not_there

__all__ = ["outlook"]


def outlook(
    plan: Plan,
    config: Mapping[str, Any],
    directory: Path,
    device: str,
    tflops: float | None = None,
    workflow: Path | None = None,
    shards: int = 1,
) -> dict[str, Any]:
    """What an experiment needs, as a table of plain values.

    Args:
        plan: Plan of the merged configuration.
        config: The merged configuration.
        directory: Where results lie, or will.
        device: Whose past seconds count: ``cpu`` or ``cuda``.
        tflops: A rate to turn counted FLOPs into hours by, in 10^12 per second.
        workflow: A Snakefile that imports this project's rules under their names; None: ours.
        shards: How many jobs share the calibration windows.
    """
    results = directory / at.FOLDER
    chains = Chains(plan, not_there(results), results=results)
    every = jobs(plan, config, directory, workflow, shards)
    measured = Measured(directory, plan, device)
    seconds = [(job, measured.seconds(job)) for job in every if job.waits]
    waiting, known = Counter(job.rule for job, _ in seconds), Counter(job.rule for job in every)
    notes = {
        "experiments": list(plan.experiments),
        "jobs": {
            rule: {"to_run": waiting[rule], "there": count - waiting[rule]}
            for rule, count in sorted(known.items(), key=lambda item: _position(item[0]))
        },
        "runs": [
            {**row, "peak_memory_gib": measured.peaks.get((row["model"], row["recipe"]))}
            for row in _runs(chains, directory, every, seconds)
        ],
        "targets": [*_targets(plan), *_bounds(chains)],
        "device": device,
        **_time(seconds),
    }
    return notes if tflops is None else notes | {"hours": _hours(notes, tflops)}


def _targets(plan: Plan) -> Iterator[dict[str, Any]]:
    """One row per experiment, model, recipe and target: how it was resolved."""
    for name, experiment in plan.experiments.items():
        for model in experiment.models:
            for member in plan.members[name]:
                for found in plan.resolved(name, model, member.id):
                    yield {"experiment": name, "model": model, "recipe": member.id, **vars(found)}


def _bounds(chains: Chains) -> Iterator[dict[str, Any]]:
    """One row per experiment with ``until``, model and recipe: how far it is known to go."""
    for name in chains.plan.experiments:
        for (model, recipe), chain in chains.of(name).items():
            until, most = chains.plan.until(name), chains.plan.most(name, model, recipe)
            units = chains.plan.recipes[recipe].num_units(chains.plan.models[model].num_blocks)
            said = [f"{value:.4g} after {step}" for step, value in enumerate(chain.values)]
            yield {
                **{"experiment": name, "model": model, "recipe": recipe, "target": until.text},
                "at_most": chain.waits_for is not None,
                "count": chain.count if chain.waits_for is None else most,
                "units": units,
                "left": f"measured: {', '.join(said[-3:]) or 'nothing yet'}",
            }


def _position(rule: str) -> tuple[int, str]:
    """Where a rule stands in the list of jobs."""
    return (RULES.index(rule) if rule in RULES else len(RULES)), rule


RULES = (
    *("fetch", "generate", "sample", "start", "score_part", "score", "take_scores", "fuse"),
    *("merge", "answers", "finish", "slice"),
    *("evaluate", "card", "table", "figure", "report"),
)
"""The order in which jobs are listed; rules that a workflow adds come last."""


def _hours(notes: Mapping[str, Any], tflops: float) -> dict[str, Any]:
    """Counted FLOPs at a rate, and the recipes that are not counted, or not in full."""
    sums, missing = {"all": 0.0, "to_run": 0.0}, set()
    for row in notes["runs"]:
        for which in sums:
            for rule in COUNTED:
                flops = row[f"{which}_{rule}"]["flops"]
                sums[which] += flops or 0.0
                if flops is None:
                    missing.add(f"{row['recipe']} of {row['model']}")
    hours = {which: value / (tflops * 1e12) / 3600 for which, value in sums.items()}
    return {"tflops": tflops, **hours, "not_counted": sorted(missing)}


def _runs(
    chains: Chains,
    directory: Path,
    every: Sequence[Job],
    waiting: Sequence[tuple[Job, float | None]],
) -> Iterator[dict[str, Any]]:
    """One row per model and recipe: the work of all its jobs, and of those still to run.

    Of chains that are not at their end it is the most that they may come to.
    """
    plan, ahead = chains.known(ahead="most"), _reached(chains.known(ahead="next"))
    for (model, recipe), places in _reached(plan).items():
        mine = [
            (job, seconds)
            for job, seconds in waiting
            if (job.wildcards.get("model"), job.wildcards.get("recipe")) == (model, recipe)
        ]
        left = {(job.rule, _place(job)) for job, _ in mine if job.rule in COUNTED}
        cost = _cost(plan, model, recipe, directory)
        row: dict[str, Any] = {"model": model, "recipe": recipe}
        last = max(ahead.get((model, recipe), []), default=Place.step(0))
        row["at_most"] = last < places[-1]
        row["places"] = [place.name for place in places]
        for rule in COUNTED:
            works = {x: cost.work(rule, x.number) for x in _needed(cost.recipe, rule, places)}
            row[f"all_{rule}"] = vars(total(works.values()))
            row[f"to_run_{rule}"] = vars(
                total(
                    work for place, work in works.items() if (rule, place) in left or place > last
                )
            )
        memory = cost.memory()
        row["least_memory_gib"] = None if memory is None else vars(memory)
        yield row | _time(mine)


def _reached(plan: Plan) -> dict[tuple[str, str], list[Place]]:
    """Model and recipe id to the places that experiments ask for."""
    found: dict[tuple[str, str], list[Place]] = {}
    for point in plan.evaluated:
        if not point.is_dense:
            for run in dict.fromkeys((plan.steps_to(point).recipe, point.recipe)):
                found.setdefault((point.model, run), []).append(point.place)
    return {run: sorted({*places}) for run, places in found.items()}


def _needed(recipe: Recipe, rule: str, places: Sequence[Place]) -> Sequence[Place]:
    """Where a rule works so that all places are reached: a chain has steps in between."""
    if rule in ("merge", "finish") or recipe.slices or recipe.selection == "contiguous":
        return places
    return [Place.step(k) for k in range(1, places[-1].number + 1)]


def _place(job: Job) -> Place:
    step = job.wildcards.get("k")
    return Place.sparsity(job.wildcards["sparsity"]) if step is None else Place.step(int(step))


def _cost(plan: Plan, model: str, recipe: str, directory: Path) -> Cost:
    """The cost of a recipe, with what files of windows and of the model say."""
    chosen, drawn = plan.recipes[recipe], {}
    for role in chosen.roles:
        if chosen.windows(role).rows is None:
            continue
        file = at.windows(model=model, windows=plan.windows_of(recipe, role).id)
        with suppress(ArtifactError):
            drawn[role] = read_meta(directory / file).sequences
    return Cost(chosen, plan.models[model].num_blocks, _shape(plan, model, directory), drawn)


def _time(jobs: Sequence[tuple[Job, float | None]]) -> dict[str, Any]:
    return {
        "seconds": sum(value for _, value in jobs if value is not None),
        "not_measured": dict(Counter(job.rule for job, value in jobs if value is None)),
    }


def _shape(plan: Plan, model: str, directory: Path) -> Shape | None:
    """The size of a model's blocks, from its files, else from its entry."""
    entry = plan.models[model]
    places = [directory / at.model_directory(model=model)]
    if entry.source.startswith("dir:"):
        places.append(directory / entry.source.removeprefix("dir:"))
    found = (block_shape(place, entry.num_blocks) for place in places)
    return next((shape for shape in found if shape is not None), entry.shape)
