"""What a run is asked for: every file that experiments name, as targets of the workflow."""

from __future__ import annotations

from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point
from fusegpt.workflow.exported import all_exports
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.until import Chains

__all__ = [
    "cards",
    "checkpoints",
    "exports",
    "figures",
    "scores",
    "steps_of_runs",
    "tables",
    "waiting",
]


def tables(plan: Plan) -> list[str]:
    """Return the table of each experiment, in the order of the configuration."""
    return [at.table(experiment=name) for name in plan.experiments]


def figures(plan: Plan) -> list[str]:
    """Return the figure of each experiment, in the same order."""
    return [at.figure(experiment=name) for name in plan.experiments]


def checkpoints(plan: Plan) -> list[str]:
    """Return the pruned and sliced models of every experiment that keeps them."""
    return [at.published(point) for point in plan.kept]


def cards(plan: Plan) -> list[str]:
    """Return their model cards, with what was measured."""
    return [at.card(point) for point in plan.kept]


def waiting(chains: Chains, *, kept: bool = False) -> list[str]:
    """Return the results that chains wait for before more is known to be asked for.

    Args:
        chains: Those of all experiments.
        kept: Only of experiments that keep checkpoints.
    """
    experiments = chains.plan.experiments.items()
    names = [name for name, one in experiments if one.keep_checkpoints or not kept]
    return list(dict.fromkeys(file for name in names for file in chains.waiting(name)))


def exports(plan: Plan) -> list[str]:
    """Return the files for other programs, each once."""
    return list(dict.fromkeys(export.record for export in all_exports(plan)))


def scores(plan: Plan) -> list[str]:
    """Return the scores of every step that an experiment reaches."""
    return [
        at.scores(Point(model, recipe, Place.step(step)))
        for (model, recipe), steps in steps_of_runs(plan).items()
        for step in steps
    ]


def steps_of_runs(plan: Plan) -> dict[tuple[str, str], list[int]]:
    """Return the steps that each run needs: a chain all up to the last, a contiguous cut its own.

    Returns:
        Model and recipe id to numbers of steps, in order; sliced models have none.
    """
    asked: dict[tuple[str, str], set[int]] = {}
    for point in plan.evaluated:
        if point.place.number:
            run = plan.steps_to(point).recipe
            asked.setdefault((point.model, run), set()).add(point.place.number)
    return {
        run: sorted(steps)
        if plan.recipes[run[1]].selection == "contiguous"
        else list(range(1, max(steps) + 1))
        for run, steps in asked.items()
    }
