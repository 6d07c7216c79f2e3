"""From the merged configuration to what is to be computed, every name and number checked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusegpt.config import explain
from fusegpt.data import CORPORA
from fusegpt.data.sources import parse_source
from fusegpt.errors import ConfigError
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.pruning.budget import removals
from fusegpt.pruning.counting import Resolved, most_removals
from fusegpt.pruning.definition import Recipe, Role
from fusegpt.pruning.reach import check_reach
from fusegpt.registry import lookup, suggestion
from fusegpt.results import layout as at
from fusegpt.results.contents import Contents, ShownModel, ShownRecipe
from fusegpt.results.point import DENSE, Place, Point
from fusegpt.units import Granularity
from fusegpt.workflow.bound import Until
from fusegpt.workflow.generated import Written, all_written, check_generated
from fusegpt.workflow.members import (
    Member,
    available_recipes,
    check_distinct,
    check_names,
    members_of,
)
from fusegpt.workflow.schema import Configuration, Corpus, Evaluation, Experiment, Model, Task
from fusegpt.workflow.teachers import TeacherAnswers, answers_of, check_teacher
from fusegpt.workflow.wanted import resolved_targets
from fusegpt.workflow.windows import (
    Windows,
    all_windows,
    check_split,
    corpus_entry,
    windows_of,
)
from fusegpt.yaml_files import check_plain

__all__ = ["Plan", "check_directories", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Everything the rules ask for.

    Attributes:
        models, tasks, evaluations, experiments: Entries of the configuration, by name.
        corpora: All corpora by name, also those that no entry changes.
        recipes: Recipes by id, of depth and of width; ``dense`` is not among them.
        members: Experiment to its recipes, ``dense`` included.
        windows: By id.
        reached: Experiment, model and recipe id to the removals after which ``until`` ends; None:
            an experiment with ``until`` asks for every step that it may reach.
    """

    models: Mapping[str, Model]
    corpora: Mapping[str, Corpus]
    tasks: Mapping[str, Task]
    evaluations: Mapping[str, Evaluation]
    experiments: Mapping[str, Experiment]
    recipes: Mapping[str, Recipe]
    members: Mapping[str, tuple[Member, ...]]
    windows: Mapping[str, Windows]
    reached: Mapping[str, Mapping[str, Mapping[str, int]]] | None = None

    def windows_of(self, recipe_id: str, role: Role) -> Windows:
        """The windows a recipe reads."""
        return windows_of(self.recipes[recipe_id], role, self.corpora)

    @functools.cached_property
    def written(self) -> dict[str, Written]:
        """Texts that models write themselves for the windows, by id."""
        return all_written(
            {name for one in self.windows.values() for name in one.corpora}, self.corpora
        )

    def corpora_of(self, evaluation: str) -> dict[str, Any]:
        """The configuration's entry of the corpus that an evaluation reads, if it reads one."""
        read = self._settings_of(evaluation).corpus_read()
        return {} if read is None else corpus_entry(*read, self.corpora)

    def tasks_of(self, evaluation: str) -> dict[str, dict[str, Any]]:
        """The configuration's entries of the tasks that an evaluation reads, if it reads any."""
        named = self._settings_of(evaluation).tasks_read()
        return {
            name: task.model_dump(exclude_none=True)
            for name, task in self.tasks.items()
            if name in named or name.startswith(tuple(f"{group}_" for group in named))
        }

    def compares_with_dense(self, evaluation: str) -> bool:
        """Whether an evaluation measures the dense model beside the pruned one."""
        return self._settings_of(evaluation).reads == "models"

    def _settings_of(self, evaluation: str) -> EvaluationSettings:
        return self.evaluations[evaluation].bound(f"evaluations.{evaluation}")

    def steps(self, experiment: str, model: str, recipe: str | None = None) -> dict[str, int]:
        """Sparsity, as text, to the step that reaches it. The only place where they meet.

        Args:
            experiment: Its name.
            model: One of its models.
            recipe: Id; recipes of ``mixed`` granularity have twice the units. None: of blocks.
        """
        where = f"experiments.{experiment}.sparsities"
        units = self.models[model].num_blocks
        if recipe is not None and recipe in self.recipes:
            units = self.recipes[recipe].num_units(units)
        sparsities = self.experiments[experiment].fractions
        return {str(sparsity): removals(units, sparsity, where) for sparsity in sparsities}

    def resolved(self, experiment: str, model: str, recipe: str) -> list[Resolved]:
        """The targets of an experiment as numbers of removals.

        Args:
            experiment: Its name.
            model: One of its models.
            recipe: Id of one of its recipes.

        Raises:
            ConfigError: A target cannot be met, or not be counted.
        """
        if recipe == DENSE:
            return []
        asked = self.experiments[experiment].targets
        where = f"experiments.{experiment}.sparsities"
        return resolved_targets(asked, self.recipes[recipe], model, self.models[model], where)

    def counts(self, experiment: str, model: str, recipe: str) -> list[int]:
        """The numbers of removals that an experiment asks a recipe for; arguments as above."""
        if recipe != DENSE and self.experiments[experiment].until is not None:
            return list(range(1, self.most(experiment, model, recipe) + 1))
        resolved = self.resolved(experiment, model, recipe)
        steps = self.steps(experiment, model, recipe)
        return [*steps.values(), *(found.count for found in resolved)]

    def until(self, experiment: str) -> Until:
        """What ends the chains of an experiment that has no sparsities."""
        until = self.experiments[experiment].until
        assert until is not None, experiment
        return until

    def decides(self, experiment: str, evaluation: str) -> bool:
        """Whether an evaluation ends the chains of an experiment."""
        until = self.experiments[experiment].until
        return until is not None and until.evaluation == evaluation

    def most(self, experiment: str, model: str, recipe: str) -> int:
        """The removals that ``until`` may come to at most; arguments as above."""
        able = most_removals(self.recipes[recipe], self.models[model].num_blocks)
        return min(able, self.until(experiment).steps or able)

    def _slices(self, recipe: str) -> bool:
        return recipe in self.recipes and self.recipes[recipe].slices

    def granularity(self, recipe: str) -> Granularity:
        """What a recipe removes, by its id; of the dense model ``block``."""
        return self.recipes[recipe].granularity if recipe in self.recipes else "block"

    def steps_to(self, point: Point) -> Point:
        """The step that a finish begins from; the point itself where there is no finish."""
        recipe = self.recipes.get(point.recipe)
        return point if recipe is None else Point(point.model, recipe.steps.id, point.place)

    def answers_of(self, recipe_id: str) -> TeacherAnswers | None:
        """What a recipe's finish learns from; None: it has no teacher."""
        recipe = self.recipes[recipe_id]
        if recipe.finish is None:
            return None
        return answers_of(recipe, self.windows_of(recipe_id, "finish").id)

    @functools.cached_property
    def answers(self) -> dict[str, TeacherAnswers]:
        """What teachers say, by id."""
        found = map(self.answers_of, self.recipes)
        return {answers.id: answers for answers in found if answers is not None}

    @functools.cached_property
    def points(self) -> dict[str, list[Point]]:
        """What each experiment asks for, each point once; where nothing is gone, ``dense``."""
        return {name: list(dict.fromkeys(self._points(name))) for name in self.experiments}

    def _points(self, experiment: str) -> Iterator[Point]:
        asked = self.experiments[experiment]
        if asked.until is None or self.reached is not None:
            yield from (shown.point for shown in self.contents(experiment).shown())
            return
        for model in asked.models:
            yield Point.dense(model)
            for member in self.members[experiment]:
                for count in self.counts(experiment, model, member.id):
                    yield Point.on(model, member.id, Place.step(count))

    @functools.cached_property
    def evaluated(self) -> dict[Point, list[str]]:
        """Every point with the evaluations that any experiment wants of it."""
        found: dict[Point, list[str]] = {}
        for name, points in self.points.items():
            for point in points:
                names = found.setdefault(point, [])
                names += [x for x in self.experiments[name].evaluations if x not in names]
        return found

    @functools.cached_property
    def kept(self) -> list[Point]:
        """The pruned and sliced models that any experiment keeps."""
        return list(
            dict.fromkeys(
                point
                for name, experiment in self.experiments.items()
                if experiment.keep_checkpoints or experiment.exports
                for point in self.points[name]
                if not point.is_dense
            )
        )

    def _targets(self, experiment: str, model: str) -> dict[str, dict[str, int]]:
        """Recipe id to the targets, as text, and the steps that meet them."""
        if self.experiments[experiment].until is not None:
            counts = (self.reached or {}).get(experiment, {}).get(model, {})
            return {x: {self.until(experiment).text: count} for x, count in counts.items()}
        found = {
            member.id: {x.target: x.count for x in self.resolved(experiment, model, member.id)}
            for member in self.members[experiment]
        }
        return {recipe: targets for recipe, targets in found.items() if targets}

    def contents(self, experiment: str) -> Contents:
        """What the table of an experiment shows."""
        asked, members = self.experiments[experiment], self.members[experiment]
        kinds = {member: self.granularity(member.id) for member in members}
        mixed = next((member.id for member, kind in kinds.items() if kind == "mixed"), None)
        models = {
            name: ShownModel(
                num_blocks=self.models[name].num_blocks,
                steps=self.steps(experiment, name),
                mixed_steps=self.steps(experiment, name, mixed) if mixed else None,
                targets=self._targets(experiment, name),
            )
            for name in asked.models
        }
        recipes = [
            ShownRecipe(**vars(member), width=self._slices(member.id), granularity=kind)
            for member, kind in kinds.items()
        ]
        return Contents(
            name=experiment,
            models=models,
            recipes=recipes,
            evaluations=list(asked.evaluations),
            curves=asked.curves,
        )


def make_plan(configuration: Mapping[str, Any], recipes: Path) -> Plan:
    """Check the merged configuration and work out what it asks for.

    Args:
        configuration: All configuration files, laid over each other.
        recipes: The folder with the recipe files.

    Raises:
        ConfigError: Something is unknown, of the wrong type, or impossible; one line.
    """
    check_plain(dict(configuration))
    try:
        checked = Configuration.model_validate(dict(configuration))
    except ValidationError as error:
        raise ConfigError(explain(error, "", Configuration)) from None
    if not checked.experiments:
        raise ConfigError("experiments: none is named; add one with --configfile config/demo.yaml")
    for name, model in checked.models.items():
        parse_source({"source": model.source, **model.fetch_settings()}, f"models.{name}")
        kind, _, base = model.source.partition(":")
        if kind == "made" and base and base not in checked.models:
            known = suggestion(base, checked.models)
            raise ConfigError(f"models.{name}.source: unknown model {base!r}{known}")
    corpora = {name: Corpus() for name in CORPORA} | checked.corpora
    for name, corpus in corpora.items():
        if corpus.generated is not None and corpus.generated.corpus is not None:
            where, start = f"corpora.{name}.generated", corpus.generated
            check_split(start.corpus or "", start.split, where, corpora)
            check_generated(name, corpora, where)
        elif corpus.generated is None and corpus.splits is None:
            lookup(CORPORA, name, "built-in corpus")
    evaluations = {
        name: _evaluation(name, entry, corpora) for name, entry in checked.evaluations.items()
    }
    available = available_recipes(checked.recipes, recipes)
    resolved: dict[str, Recipe] = {}
    members: dict[str, tuple[Member, ...]] = {}
    for name, experiment in checked.experiments.items():
        check_names(name, experiment, checked, available)
        members[name] = members_of(experiment, available, resolved)
        check_distinct(name, members[name])
    windows = all_windows(resolved, corpora)
    plan = Plan(
        checked.models,
        corpora,
        checked.tasks,
        evaluations,
        checked.experiments,
        resolved,
        members,
        windows,
    )
    for name, experiment in checked.experiments.items():
        if experiment.until is not None:
            own = {x: evaluations[x].bound(f"evaluations.{x}") for x in experiment.evaluations}
            chains = [resolved[x.id] for x in members[name] if x.id != DENSE]
            experiment.until.check(f"experiments.{name}.until", own, chains)
        for used in experiment.models:
            for member in plan.members[name]:
                if member.id != DENSE:
                    check_teacher(plan.recipes[member.id], used, plan.models)
                last = max(plan.counts(name, used, member.id), default=0)
                if last and member.id != DENSE and not plan.recipes[member.id].slices:
                    key = "sparsities" if experiment.until is None else "until"
                    blocks, where = plan.models[used].num_blocks, f"experiments.{name}.{key}"
                    check_reach(plan.recipes[member.id], blocks, last, where)
    return plan


def check_directories(plan: Plan, directory: Path) -> None:
    """Refuse a model whose directory is not there and was not fetched.

    Args:
        plan: Everything that is asked for.
        directory: The working directory, where results lie.

    Raises:
        ConfigError: A source ``dir:...`` leads nowhere.
    """
    for name in dict.fromkeys(x for each in plan.experiments.values() for x in each.models):
        kind, _, place = plan.models[name].source.partition(":")
        fetched = directory / at.source(model=name)
        if kind == "dir" and not ((directory / place).is_dir() or fetched.is_file()):
            raise ConfigError(
                f"models.{name}.source: must lead to a directory, got {place!r}, which is not in"
                f" {directory}"
            )


def _evaluation(name: str, entry: Evaluation, corpora: Mapping[str, Corpus]) -> Evaluation:
    """Fill in the defaults of an evaluation's settings."""
    where = f"evaluations.{name}"
    settings = entry.bound(where)
    if (read := settings.corpus_read()) is not None:
        check_split(*read, where, corpora)
        if corpora[read[0]].generated is not None:
            raise ConfigError(
                f"{where}.corpus: text that a model writes itself is for calibration and finetune,"
                f" got {read[0]!r}"
            )
    settings.check_tasks(where)
    return entry.model_copy(update={"settings": settings.model_dump()})
