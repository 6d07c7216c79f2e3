"""How far chains are that an evaluation ends, by the results that are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusegpt.errors import ConfigError, FuseGPTError
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.models import Evaluation
from fusegpt.results.point import DENSE, Place, Point
from fusegpt.workflow.plan import Plan

__all__ = ["Chain", "Chains", "not_there"]

Ahead = Literal["none", "ended", "next", "most"]

Pending = Callable[[Point, str], str | None]
"""What has to be made before an evaluation of a point can be read; None: nothing."""


@dataclass(frozen=True)
class Chain:
    """One run of an experiment that goes on until an evaluation breaks its bound.

    Attributes:
        count: Removals that are known to keep the bound; -1: not even the dense model was measured.
        values: Measured values, that of the dense model first.
        measured: Files that they were read from.
        waits_for: What has to be made before more is known; None: the chain is at its end.
    """

    count: int
    values: tuple[float, ...] = ()
    measured: tuple[str, ...] = ()
    waits_for: str | None = None


class Chains:
    """The chains of every experiment that says ``until``.

    Args:
        plan: Plan with everything that may be asked for.
        pending: Says whether a result is there.
        refuse: Is told why a chain cannot be followed; None: the error is raised.
        results: The folder of results.
    """

    def __init__(
        self,
        plan: Plan,
        pending: Pending,
        refuse: Callable[[str], None] | None = None,
        results: Path = Path(at.FOLDER),
    ) -> None:
        self.plan = plan
        self.pending = pending
        self.refuse = refuse
        self.results = results

    def of(self, experiment: str) -> dict[tuple[str, str], Chain]:
        """Return how far each run of an experiment is, by model and recipe id.

        Raises:
            ArtifactError: A result cannot be read.
            ConfigError: The dense model breaks the bound already.
        """
        asked = self.plan.experiments[experiment]
        ids = [member.id for member in self.plan.members[experiment] if member.id != DENSE]
        if asked.until is None:
            return {}
        runs = [(model, recipe) for model in asked.models for recipe in ids]
        try:
            return {run: self._chain(experiment, *run) for run in runs}
        except FuseGPTError as error:
            if self.refuse is not None:
                self.refuse(str(error))
            raise

    def waiting(self, experiment: str) -> list[str]:
        """Return what has to be made before the experiment's table is known; empty: it is."""
        found = (chain.waits_for for chain in self.of(experiment).values())
        return list(dict.fromkeys(file for file in found if file is not None))

    def measured(self, experiment: str) -> list[str]:
        """Return the results that say where the experiment's chains end."""
        found = self.of(experiment).values()
        return list(dict.fromkeys(file for chain in found for file in chain.measured))

    def known(self, *, ahead: Ahead = "none") -> Plan:
        """Return the plan of what is known to be asked for.

        Args:
            ahead: What of chains that are not at their end: nothing, not even what else their
                experiments ask for; nothing, but all of chains that are at their end; as if they
                ended at the next step to be measured; or at the last that they may reach.
        """
        if all(experiment.until is None for experiment in self.plan.experiments.values()):
            return self.plan  # with everything that it has worked out already
        reached: dict[str, dict[str, dict[str, int]]] = {}
        for name in self.plan.experiments:
            chains = self.of(name)
            if ahead == "none" and any(chain.waits_for for chain in chains.values()):
                continue
            for (model, recipe), chain in chains.items():
                end = chain.count
                if chain.waits_for is not None and ahead == "ended":
                    continue
                if chain.waits_for is not None:
                    end = end + 1 if ahead == "next" else self.plan.most(name, model, recipe)
                reached.setdefault(name, {}).setdefault(model, {})[recipe] = end
        return dataclasses.replace(self.plan, reached=reached)

    def _chain(self, experiment: str, model: str, recipe: str) -> Chain:
        until, most = self.plan.until(experiment), self.plan.most(experiment, model, recipe)
        values: list[float] = []
        files: list[str] = []
        for step in range(most + 1):
            point = Point.on(model, recipe, Place.step(step))
            waits_for = self.pending(point, until.evaluation)
            if waits_for is not None:
                return Chain(step - 1, tuple(values), tuple(files), waits_for)
            files.append(at.evaluation(point, evaluation=until.evaluation))
            file = at.evaluation.under(self.results, point, evaluation=until.evaluation)
            rows = read(file, Evaluation).rows
            values.append(until.row_of(rows, f"experiments.{experiment}.until").value)
            if not until.keeps(values[-1]):
                if step == 0:
                    raise ConfigError(
                        f"experiments.{experiment}.until: {until.text} must hold for the dense"
                        f" model, {model} has {values[-1]:.4g}; give a bound beyond that"
                    )
                return Chain(step - 1, tuple(values), tuple(files))
        return Chain(most, tuple(values), tuple(files))


def not_there(results: Path = Path(at.FOLDER)) -> Pending:
    """Return a ``Pending`` that looks for the files of results, whatever they were made from."""

    def pending(point: Point, evaluation: str) -> str | None:
        file = at.evaluation.under(results, point, evaluation=evaluation)
        return None if file.is_file() else at.evaluation(point, evaluation=evaluation)

    return pending
