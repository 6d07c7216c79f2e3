"""What of an experiment's table is there: for a table before all of it was measured."""

from __future__ import annotations

import json
from pathlib import Path

from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.reports.collect import evaluation_files
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.contents import Contents
from fusegpt.results.history import read_history, step_of
from fusegpt.results.models import Evaluation
from fusegpt.results.point import Point
from fusegpt.workflow.exported import shown_with_exports
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.until import Chains, not_there

__all__ = ["chosen", "what_is_there"]

NOT_THERE = "not there"
GOES_ON = f"{NOT_THERE}, so where its chain ends is not known"


def chosen(plan: Plan, name: str | None) -> str:
    """Return the experiment of that name, or the only one there is.

    Raises:
        ConfigError: There is no such experiment, or there are several and none is named.
    """
    if name in plan.experiments or (name is None and len(plan.experiments) == 1):
        return name or next(iter(plan.experiments))
    got = "none" if name is None else repr(name)
    raise ConfigError(f"--name: must be one of {', '.join(plan.experiments)}, got {got}")


def what_is_there(plan: Plan, experiment: str, results: Path) -> tuple[Contents, dict[Path, str]]:
    """Return what the table of an experiment shows, and what of it cannot be shown.

    A result counts as missing, too, where it cannot be read, was measured with other settings, or
    the model that it was measured on is no longer what it was.

    Args:
        plan: Plan of the configuration.
        experiment: One of its experiments. Of one with ``until``, only chains that are at their
            end are shown.
        results: The results folder.

    Returns:
        The contents, and files to the reason why they are missing, in the order of the table.

    Raises:
        ArtifactError: A result that says whether a chain goes on cannot be read.
        ConfigError: The dense model breaks the bound of ``until``.
    """
    chains = Chains(plan, not_there(results), results=results)
    contents = shown_with_exports(chains.known(ahead="ended"), experiment)
    missing = {
        results / Path(file).relative_to(at.FOLDER): GOES_ON for file in chains.waiting(experiment)
    }
    for file, (point, evaluation) in evaluation_files(contents, results).items():
        fault = _fault(file, point, evaluation, plan, results)
        if fault is not None:
            missing.setdefault(file, fault)
    return contents, missing


def _fault(file: Path, point: Point, evaluation: str, plan: Plan, results: Path) -> str | None:
    """Why a result does not count as there; None: it does."""
    if not file.is_file():
        return NOT_THERE
    try:
        found = read(file, Evaluation)
        if found.parent is not None:
            found.parent.checked(file.parent)
        if point.place.number:
            for link in read_history(step_of(results, point), whole=False).links:
                link.scores  # noqa: B018
    except ArtifactError as error:
        return str(error)
    asked = plan.evaluations[evaluation]
    wanted = (asked.eval, json.loads(json.dumps(asked.settings)), asked.dtype)
    said = (found.eval, found.settings, found.dtype or asked.dtype)
    return None if said == wanted else "measured with other settings"
