"""Everything that the experiments of a configuration ask for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.evaluation.files_read import task_files_read
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.pruning.budget import removals
from fusegpt.pruning.counting import Resolved, most_removals
from fusegpt.pruning.definition import Recipe, Role
from fusegpt.results.contents import Contents, ShownModel, ShownRecipe
from fusegpt.results.point import DENSE, Place, Point
from fusegpt.units import Granularity
from fusegpt.workflow.bound import Until
from fusegpt.workflow.generated import Written, all_written
from fusegpt.workflow.members import Member
from fusegpt.workflow.schema import Corpus, Evaluation, Experiment, Model, Task
from fusegpt.workflow.teachers import TeacherAnswers, answers_of
from fusegpt.workflow.wanted import resolved_targets
from fusegpt.workflow.windows import Windows, corpus_entry, windows_of

__all__ = ["Plan"]


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
        settings = self._settings_of(evaluation)
        read = settings.tasks_read()
        named = {Path(task).stem if task.endswith(".yaml") else task for task in read}
        starts = tuple(f"{group}_" for group in named)
        wanted = {name for name in self.tasks if name in named or name.startswith(starts)}
        if read and len(wanted) < len(self.tasks):
            wanted |= settings.tasks_below()
        return {
            name: task.model_dump(exclude_none=True)
            for name, task in self.tasks.items()
            if name in wanted
        }

    def task_files_of(self, evaluation: str) -> list[str]:
        """The task files that an evaluation names by their paths, and the data that they name."""
        return task_files_read(self._settings_of(evaluation), self.tasks_of(evaluation))

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
