"""Which files the rules read. The graph comes from the configuration alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fusegpt.importance import METRICS
from fusegpt.pruning.definition import Recipe
from fusegpt.results import layout as at
from fusegpt.results.point import DENSE, Place, Point
from fusegpt.workflow.dense_scores import all_dense_scores, dense_scores
from fusegpt.workflow.exported import exports_of
from fusegpt.workflow.generated import located
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.together import Together
from fusegpt.workflow.until import Chains, not_there

__all__ = ["Inputs", "in_one_job", "point_of", "shards_of"]


def point_of(wildcards: Any) -> Point:
    """Return the model that a path's wildcards name."""
    if hasattr(wildcards, "place"):
        place = Place.parse(wildcards.place)
    elif hasattr(wildcards, "k"):
        place = Place.step(int(wildcards.k))
    else:
        place = Place.sparsity(wildcards.sparsity)
    return Point(wildcards.model, wildcards.recipe, place)


class Inputs:
    """Answers to what a rule asks for its wildcards; each method is an input function.

    Attributes:
        plan: Everything that is to be computed.
        shared: Whether jobs see each other's files; if not, each gets only its declared inputs.
        shards: How many jobs share the windows of new scores.
        recorded: Says which inputs a file was made from; None: it was not made yet.
        chains: Chains that an evaluation ends.
        dense_scores: Scores of dense models by id, each with the first recipe and step that need
            them.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        shared: bool = True,
        shards: int = 1,
        recorded: Callable[[str], Sequence[str] | None] = lambda file: None,
        chains: Chains | None = None,
    ) -> None:
        self.plan = plan
        self.shared = shared
        self.shards = shards
        self.recorded = recorded
        self.chains = chains or Chains(plan, not_there())
        self.dense_scores = all_dense_scores(plan)
        self._dense_scores_of = functools.cache(functools.partial(dense_scores, plan))

    def previous_manifest(self, wildcards: Any) -> str:
        """The step before; a contiguous selection always starts from the dense model."""
        contiguous = self.plan.recipes[wildcards.recipe].selection == "contiguous"
        previous = 0 if contiguous else int(wildcards.k) - 1
        return at.manifest(model=wildcards.model, recipe=wildcards.recipe, k=previous)

    def chain_before(self, wildcards: Any) -> list[str]:
        """What lies between the dense model and step k."""
        return self._chain(wildcards, int(wildcards.k) - 1)

    def chain_to(self, wildcards: Any) -> list[str]:
        """What lies between the dense model and the one after step k."""
        return self._chain(wildcards, int(wildcards.k))

    def _chain(self, wildcards: Any, last: int) -> list[str]:
        """Manifests and deltas up to a step; nothing where they just lie on a shared disk."""
        if self.shared:
            return []
        recipe = self.plan.recipes[wildcards.recipe].steps
        run = {"model": wildcards.model, "recipe": recipe.id}
        steps = range(int(wildcards.k) if recipe.selection == "contiguous" else 1, last + 1)
        start = [at.source(**run), at.manifest(**run, k=0)]
        manifests = [at.manifest(**run, k=k) for k in steps]
        return [*start, *manifests, *(at.delta(**run, k=k) for k in steps)]

    def first_scores(self, wildcards: Any) -> list[str]:
        """What a one-shot selection keeps at later steps."""
        if self.plan.recipes[wildcards.recipe].selection != "one_shot":
            return []
        return [at.scores(model=wildcards.model, recipe=wildcards.recipe, k=1)]

    def shared_scores(self, wildcards: Any) -> str:
        """The dense model's scores, which a step that starts from it takes."""
        found = self._dense_scores_of(wildcards.recipe, int(wildcards.k))
        return at.dense_scores(model=wildcards.model, scores=found.id)

    def dense_windows(self, wildcards: Any) -> str:
        """What the dense model is scored on."""
        windows = self.dense_scores[wildcards.scores][0].windows
        return at.windows(model=wildcards.model, windows=windows)

    def calibration_windows(self, wildcards: Any) -> str:
        """What importance, or the signal of a width, is measured on."""
        windows = self.plan.windows_of(wildcards.recipe, "calibration")
        return at.windows(model=wildcards.model, windows=windows.id)

    def parts_of_scores(self, wildcards: Any) -> list[str]:
        """What the scores before a step are added up from; nothing where one job scores."""
        names = {"model": wildcards.model, "recipe": wildcards.recipe, "k": wildcards.k}
        recipe = self.plan.recipes[wildcards.recipe]
        if recipe.selection == "one_shot":  # which keeps the first scores
            return []
        return self._parts(at.scores(**names), at.scores_part, names, recipe)

    def parts_of_dense_scores(self, wildcards: Any) -> list[str]:
        """What the scores of a dense model are added up from; nothing where one job scores."""
        names = {"model": wildcards.model, "scores": wildcards.scores}
        recipe = self.dense_scores[wildcards.scores][0].recipe
        return self._parts(at.dense_scores(**names), at.dense_scores_part, names, recipe)

    def _parts(
        self, scores: str, part: at.Pattern, names: Mapping[str, str], recipe: Recipe
    ) -> list[str]:
        """The parts that scores were made from, or are to be: that number is no reason to rerun."""
        before = self.recorded(scores)
        if before is not None:
            return [file for file in before if file.startswith(f"{at.parts}/")]
        number = shards_of(recipe, self.shards)
        shards = [f"{shard}-of-{number}" for shard in range(1, number + 1)]
        return [part(shard=shard, **names) for shard in shards] if number > 1 else []

    def finetune_windows(self, wildcards: Any) -> list[str]:
        """What a step tunes on; nothing for a recovery that does not train, or not yet."""
        recipe = self.plan.recipes[wildcards.recipe]
        tunes = recipe.needs_windows and not recipe.recovers_at_end
        return self._recovery_windows(wildcards) if tunes else []

    def finish_windows(self, wildcards: Any) -> list[str]:
        """What a recovery after the last removal tunes on."""
        at_end = self.plan.recipes[wildcards.recipe].recovers_at_end
        return self._recovery_windows(wildcards) if at_end else []

    def finished_step(self, wildcards: Any) -> str:
        """The step that a finish begins from."""
        return at.manifest(self.plan.steps_to(point_of(wildcards)))

    def windows_of_finish(self, wildcards: Any) -> str:
        """What a finish trains on."""
        windows = self.plan.windows_of(wildcards.recipe, "finish")
        return at.windows(model=wildcards.model, windows=windows.id)

    def answers(self, wildcards: Any) -> list[str]:
        """What a finish's teacher says of its windows, where there is a teacher."""
        found = self.plan.answers_of(wildcards.recipe)
        return [] if found is None else [at.answers(model=wildcards.model, answers=found.id)]

    def teacher(self, wildcards: Any) -> str:
        """The model that answers: another one by name, or the dense model of those who learn."""
        return at.source(model=self.plan.answers[wildcards.answers].teacher or wildcards.model)

    def windows_answered(self, wildcards: Any) -> str:
        """The windows that a teacher answers."""
        windows = self.plan.answers[wildcards.answers].windows
        return at.windows(model=wildcards.model, windows=windows)

    def _recovery_windows(self, wildcards: Any) -> list[str]:
        windows = self.plan.windows_of(wildcards.recipe, "finetune")
        return [at.windows(model=wildcards.model, windows=windows.id)]

    def evaluated_model(self, wildcards: Any) -> str:
        """What is measured: the dense model, a step, or a sliced model; none has to be merged.

        What works after the last removal leaves a checkpoint, so there that one is measured.
        """
        point = point_of(wildcards)
        at_end = not point.is_dense and self.plan.recipes[point.recipe].trains_at_end
        return at.published(point) if at_end else at.measured(point)

    def published_model(self, wildcards: Any) -> str:
        """The directory that transformers loads: merged or sliced."""
        return at.published(point_of(wildcards))

    def exported_model(self, wildcards: Any) -> str:
        """What is exported: a checkpoint, or the dense model."""
        point = point_of(wildcards)
        return at.source(point) if point.is_dense else at.published(point)

    def windows_of_export(self, wildcards: Any) -> str:
        """What weights are rounded by: the end of an export's name says which windows."""
        windows = wildcards.export.partition("-")[2]
        return at.windows(model=wildcards.model, windows=windows)

    def exported_origin(self, wildcards: Any) -> list[str]:
        """Where the config and the tokenizer of an export lie, where jobs see no other files."""
        return [] if self.shared else [self.exported_model(wildcards)]

    def evaluations_of_model(self, wildcards: Any) -> list[str]:
        """Every result that any experiment asks for on a model."""
        point = point_of(wildcards)
        names = self.chains.known().evaluated.get(point, [])
        return [at.evaluation(point, evaluation=name) for name in names]

    def dense_evaluations(self, wildcards: Any) -> list[str]:
        """The same of the dense model, as far as any experiment asks for them."""
        dense, asked = Point.dense(wildcards.model), self.chains.known().evaluated
        names, known = asked.get(point_of(wildcards), []), asked.get(dense, [])
        return [at.evaluation(dense, evaluation=name) for name in names if name in known]

    def evaluations_of_experiment(self, wildcards: Any) -> list[str]:
        """Every result that a table reads; while chains go on, the ones that they wait for."""
        experiment = wildcards.experiment
        if waiting := self.chains.waiting(experiment):
            return waiting
        names = self.plan.experiments[experiment].evaluations
        points = self.chains.known().points[experiment]
        read = [at.evaluation(point, evaluation=name) for point in points for name in names]
        return list(dict.fromkeys([*read, *self.chains.measured(experiment)]))

    def exports_of_experiment(self, wildcards: Any) -> list[str]:
        """The exports that a table reads, and what is measured on them."""
        found = exports_of(self.plan, wildcards.experiment)
        return [file for export in found for file in (export.record, *export.results)]

    def data_of_evaluation(self, wildcards: Any) -> list[str]:
        """The local files that one evaluation reads."""
        return self._data([wildcards.evaluation])

    def corpus_files(self, wildcards: Any) -> list[str]:
        """The files that windows are cut from, where a corpus is one, or the model writes it."""
        entries = self.plan.windows[wildcards.windows].corpora
        return list(_files(located(entries, wildcards.model)))

    def prompt_files(self, wildcards: Any) -> list[str]:
        """The local file that a model's own texts start from, if they do."""
        return list(_files(self.plan.written[wildcards.generated].corpora))

    def evaluation_data(self, evaluations: Together) -> list[str]:
        """The local files that a set reads: corpora, or the items of tasks."""
        return self._data(evaluations.evaluations)

    def _data(self, evaluations: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}
        for name in evaluations:
            tasks = self.plan.tasks_of(name)
            local = {task: entry for task, entry in tasks.items() if "package" not in entry}
            found |= dict.fromkeys([*_files(self.plan.corpora_of(name)), *_files(local)])
            found |= dict.fromkeys(self.plan.task_files_of(name))
        return list(found)

    def dense_model_beside(self, evaluations: Together) -> Any:
        """The dense model, for an evaluation that measures it beside the pruned one."""
        beside = any(map(self.plan.compares_with_dense, evaluations.evaluations))
        return self._dense_model if beside else []

    def _dense_model(self, wildcards: Any) -> list[str]:
        return [] if wildcards.recipe == DENSE else [at.source(model=wildcards.model)]


def shards_of(recipe: Recipe, asked: int) -> int:
    """Return how many jobs share a recipe's calibration windows: no more than it has batches."""
    if not METRICS[recipe.metric].adds_up(recipe.importance):
        return 1
    spec = recipe.calibration
    return asked if spec.rows is not None else min(asked, -(-spec.sequences // spec.batch_size))


def in_one_job(plan: Plan) -> list[str]:
    """Return the metrics of a plan that must see all windows in one job."""
    recipes = [recipe for recipe in plan.recipes.values() if not recipe.slices]
    reading = [(recipe.metric, recipe.importance) for recipe in recipes if recipe.importance.reads]
    return sorted({name for name, chosen in reading if not METRICS[name].adds_up(chosen)})


def _files(entries: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """The files in entries of ``corpora`` or ``tasks``."""
    for entry in entries.values():
        yield from entry.get("splits", {}).values()
