"""Which models are exported as what, and how those are measured."""

from __future__ import annotations

from dataclasses import dataclass

from fusegpt.errors import ConfigError
from fusegpt.evaluation.settings import Perplexity
from fusegpt.exports.gptq_tools import check_gptq
from fusegpt.exports.targets import ExportTarget, parse_target
from fusegpt.exports.tools import check_tools
from fusegpt.results import layout as at
from fusegpt.results.contents import Contents, ShownExport
from fusegpt.results.point import Point
from fusegpt.workflow.asked_exports import Gptq
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.windows import rounded_on, windows_of_export

__all__ = ["Exported", "all_exports", "check_exports", "exports_of", "shown_with_exports"]


@dataclass(frozen=True)
class Exported:
    """One model as another program runs it.

    Attributes:
        point: Which model.
        target: As what.
        evaluations: What it is measured by.
    """

    point: Point
    target: ExportTarget
    evaluations: tuple[str, ...]

    @property
    def record(self) -> str:
        """The last file of the export."""
        return at.export(self.point, export=self.target.name)

    @property
    def results(self) -> list[str]:
        """What is measured on it."""
        names = {"export": self.target.name}
        return [at.export_evaluation(self.point, **names, evaluation=x) for x in self.evaluations]


def exports_of(plan: Plan, experiment: str) -> list[Exported]:
    """Return the exports of an experiment, models in the order of its table."""
    asked = plan.experiments[experiment]
    targets = [_target(export, plan) for export in asked.exports]
    measured = {
        target: tuple(name for name in asked.evaluations if _is_measured(plan, name, target))
        for target in targets
    }
    return [
        Exported(point, target, measured[target])
        for point in plan.points[experiment]
        for target in targets
    ]


def all_exports(plan: Plan) -> list[Exported]:
    """Return the exports of all experiments; one may stand there with several evaluations."""
    return [found for name in plan.experiments for found in exports_of(plan, name)]


def shown_with_exports(plan: Plan, experiment: str) -> Contents:
    """Return what the table of an experiment shows, exports included."""
    found = {x.target: x.evaluations for x in exports_of(plan, experiment)}
    shown = [
        ShownExport(name=target.name, text=target.text, evaluations=list(evaluations))
        for target, evaluations in found.items()
    ]
    return plan.contents(experiment).model_copy(update={"exports": shown})


def check_exports(plan: Plan, *, tools: bool = True) -> None:
    """Refuse exports that cannot be, before anything runs.

    Args:
        plan: What is asked for.
        tools: Whether what writes them must be installed.

    Raises:
        ConfigError: A tool is missing, or a recipe leaves a model that only our code loads.
    """
    for name, experiment in plan.experiments.items():
        where = f"experiments.{name}.exports"
        if not experiment.exports:
            continue
        if experiment.until is not None:
            raise ConfigError(
                f"{where}: must stand beside sparsities, got until; use fusegpt export on the"
                " checkpoint that it comes to"
            )
        targets = [_target(export, plan) for export in experiment.exports]
        if tools and any(target.is_gguf for target in targets):
            check_tools(where)
        if tools and any(target.is_calibrated for target in targets):
            check_gptq(where)
        for member in plan.members[name]:
            recipe = plan.recipes.get(member.id)
            if recipe is not None and (recipe.slices or recipe.granularity != "block"):
                raise ConfigError(
                    f"{where}: must be of recipes that remove whole blocks, since other programs"
                    f" know no such model, got {member.name!r}; leave it out of this experiment"
                )


def _target(export: str | Gptq, plan: Plan) -> ExportTarget:
    """A target with the windows that it reads."""
    spec = rounded_on(export)
    if spec is None:
        assert isinstance(export, str), export
        return parse_target(export)
    return ExportTarget("gptq4", windows_of_export(spec, plan.corpora).id)


def _is_measured(plan: Plan, evaluation: str, target: ExportTarget) -> bool:
    """Whether an evaluation is for an export: not speed, since here weights are made plain."""
    settings = plan.evaluations[evaluation].bound(f"evaluations.{evaluation}")
    return isinstance(settings, Perplexity) if target.is_gguf else settings.reads != "models"
