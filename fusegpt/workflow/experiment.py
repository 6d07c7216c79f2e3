"""From the merged configuration to what is to be computed, every name and number checked."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fusegpt.config import bind, explain
from fusegpt.data import CORPORA
from fusegpt.data.sources import parse_source
from fusegpt.errors import ConfigError
from fusegpt.evaluation import EVALS, FIVE
from fusegpt.pruning.budget import removals
from fusegpt.pruning.reach import check_reach
from fusegpt.pruning.recipe import Recipe, recipe_settings, resolve
from fusegpt.pruning.width import WidthRecipe, is_width, resolve_width
from fusegpt.registry import lookup
from fusegpt.workflow.schema import Configuration, Corpus, Evaluation, Experiment, Model, Task

__all__ = ["DENSE", "Member", "Plan", "Windows", "make_plan"]

DENSE = "dense"
"""The recipe that removes nothing: its one result is the model as it came."""

Point = tuple[str, str, int]
"""Model, recipe id, step: one model that is evaluated."""


@dataclass(frozen=True)
class Windows:
    """Windows of token ids to sample, equal for every recipe that asks for the same.

    Attributes:
        id: ``<corpus>-<split>-<8 hex>``, part of the file's path.
        corpora: The configuration's entry of the corpus, ``{}`` for a built-in one as it is.
        rows: Rows of the corpus to draw, in place of ``sequences`` windows.
    """

    id: str
    corpus: str
    split: str
    sequences: int
    length: int
    seed: int
    corpora: Mapping[str, Any]
    rows: int | None = None


@dataclass(frozen=True)
class Member:
    """One recipe with one seed in an experiment; ``id`` is its name in paths. Dense has seed 0."""

    name: str
    seed: int
    id: str


@dataclass(frozen=True)
class Plan:
    """Everything the rules ask for.

    Attributes:
        models, tasks, evaluations, experiments: Of the configuration, by name.
        corpora: Likewise, also those that no entry changes.
        recipes: By id; ``dense`` is not among them.
        slices: Recipes that slice widths, by id; they have no steps (``fusegpt.workflow.slices``).
        members: Experiment to its recipes, ``dense`` included.
        windows: By id.
    """

    models: Mapping[str, Model]
    corpora: Mapping[str, Corpus]
    tasks: Mapping[str, Task]
    evaluations: Mapping[str, Evaluation]
    experiments: Mapping[str, Experiment]
    recipes: Mapping[str, Recipe]
    slices: Mapping[str, WidthRecipe]
    members: Mapping[str, tuple[Member, ...]]
    windows: Mapping[str, Windows]

    def windows_of(self, recipe_id: str, role: Literal["calibration", "finetune"]) -> Windows:
        """The windows a recipe reads."""
        recipe = self.recipes.get(recipe_id) or self.slices[recipe_id]
        return _windows(recipe, role, self.corpora)

    def corpora_of(self, evaluation: str) -> dict[str, Any]:
        """The configuration's entry of the corpus that an evaluation reads, if it reads one."""
        settings = self.evaluations[evaluation].settings
        if "corpus" not in settings:
            return {}
        return _corpus_entry(settings["corpus"], settings["split"], self.corpora)

    def tasks_of(self, evaluation: str) -> dict[str, dict[str, Any]]:
        """The configuration's entries of the tasks that an evaluation reads, if it reads any."""
        entry = self.evaluations[evaluation]
        if EVALS[entry.eval].reads != "tasks":
            return {}
        named = tuple(entry.settings.get("tasks") or FIVE)
        return {
            name: task.model_dump(exclude_none=True)
            for name, task in self.tasks.items()
            if name in named or name.startswith(tuple(f"{group}_" for group in named))
        }

    def compares_with_dense(self, evaluation: str) -> bool:
        """Whether an evaluation measures the dense model beside the pruned one."""
        return EVALS[self.evaluations[evaluation].eval].reads == "models"

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
        sparsities = self.experiments[experiment].sparsities
        return {str(sparsity): removals(units, sparsity, where) for sparsity in sparsities}

    def granularity(self, recipe: str) -> str:
        """What a recipe removes, by its id; of the dense model ``block``."""
        return self.recipes[recipe].granularity if recipe in self.recipes else "block"

    @functools.cached_property
    def points(self) -> dict[str, list[Point]]:
        """What each experiment asks for, each point once; step 0 is always ``dense``."""
        found: dict[str, list[Point]] = {}
        for name, experiment in self.experiments.items():
            points: dict[Point, None] = {}
            for model in experiment.models:
                for member in (x for x in self.members[name] if x.id not in self.slices):
                    steps = sorted(set(self.steps(name, model, member.id).values()))
                    reached = [0] if member.id == DENSE else steps
                    points |= {(model, member.id if k else DENSE, k): None for k in reached}
            found[name] = list(points)
        return found

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
        """The pruned models whose checkpoints any experiment keeps."""
        found: dict[Point, None] = {}
        for name, experiment in self.experiments.items():
            if experiment.keep_checkpoints:
                found |= {point: None for point in self.points[name] if point[1] != DENSE}
        return list(found)

    def describe(self, experiment: str) -> dict[str, Any]:
        """What the table of an experiment needs to find its files."""
        models = self.experiments[experiment].models
        kinds = {member: self.granularity(member.id) for member in self.members[experiment]}
        mixed = next((member.id for member, kind in kinds.items() if kind == "mixed"), None)
        return {
            "name": experiment,
            "models": {
                model: {
                    "num_blocks": self.models[model].num_blocks,
                    "steps": self.steps(experiment, model),
                    **({"mixed_steps": self.steps(experiment, model, mixed)} if mixed else {}),
                }
                for model in models
            },
            "recipes": [
                vars(member)
                | ({"width": True} if member.id in self.slices else {})
                | ({} if kind == "block" else {"granularity": kind})
                for member, kind in kinds.items()
            ],
            "evaluations": list(self.experiments[experiment].evaluations),
        }


def make_plan(configuration: Mapping[str, Any], recipes: Path) -> Plan:
    """Check the merged configuration and work out what it asks for.

    Args:
        configuration: All configuration files, laid over each other.
        recipes: The folder with the recipe files.

    Raises:
        ConfigError: Something is unknown, of the wrong type, or impossible; one line.
    """
    try:
        checked = Configuration.model_validate(dict(configuration))
    except ValidationError as error:
        raise ConfigError(explain(error, "", Configuration)) from None
    if not checked.experiments:
        raise ConfigError("experiments: none is named; add one with --configfile config/demo.yaml")
    for name, model in checked.models.items():
        parse_source({"source": model.source, **model.fetch_settings()}, f"models.{name}")
    corpora = {name: Corpus() for name in CORPORA} | checked.corpora
    for name, corpus in corpora.items():
        if corpus.splits is None:
            lookup(CORPORA, name, "built-in corpus")
    evaluations = {
        name: _evaluation(name, entry, corpora) for name, entry in checked.evaluations.items()
    }
    available = _recipe_settings(checked.recipes, recipes)
    resolved: dict[str, Recipe | WidthRecipe] = {}
    members: dict[str, tuple[Member, ...]] = {}
    for name, experiment in checked.experiments.items():
        _check_names(name, experiment, checked, available)
        members[name] = _members(experiment, available, resolved)
        _check_distinct(name, members[name])
    windows = _all_windows(resolved, corpora)
    plan = Plan(
        checked.models,
        corpora,
        checked.tasks,
        evaluations,
        checked.experiments,
        {name: recipe for name, recipe in resolved.items() if isinstance(recipe, Recipe)},
        {name: recipe for name, recipe in resolved.items() if isinstance(recipe, WidthRecipe)},
        members,
        windows,
    )
    for name, experiment in checked.experiments.items():
        for used in experiment.models:
            last = max(plan.steps(name, used).values())
            for member in plan.members[name] if last else ():
                if member.id in plan.recipes:
                    blocks, where = plan.models[used].num_blocks, f"experiments.{name}.sparsities"
                    check_reach(plan.recipes[member.id], blocks, last, where)
    return plan


def _evaluation(name: str, entry: Evaluation, corpora: Mapping[str, Corpus]) -> Evaluation:
    """Fill in the defaults of an evaluation's function."""
    where = f"evaluations.{name}"
    settings = bind(lookup(EVALS, entry.eval, "evaluation"), entry.settings, where)
    if "corpus" in settings:
        _check_split(settings["corpus"], settings["split"], where, corpora)
    return entry.model_copy(update={"settings": settings})


def _recipe_settings(inline: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Every recipe one can name: a file's path, or the settings written into the configuration."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    twice = sorted(set(inline) & (set(files) | {DENSE}))
    if twice:
        raise ConfigError(f"recipes.{twice[0]}: this name is taken; choose another")
    return {DENSE: None, **files, **inline}


def _check_names(
    name: str, experiment: Experiment, checked: Configuration, available: Mapping[str, Any]
) -> None:
    tables: dict[str, Mapping[str, Any]] = {
        "model": checked.models,
        "recipe": available,
        "evaluation": checked.evaluations,
    }
    for kind, table in tables.items():
        for entry in getattr(experiment, f"{kind}s"):
            try:
                lookup(table, entry, kind)
            except ConfigError as error:
                raise ConfigError(f"experiments.{name}.{kind}s: {error}") from None
    named = {entry: None for entry in experiment.recipes if entry != DENSE}
    for entry in experiment.recipe_settings:
        try:
            lookup(named, entry, "recipe of this experiment")
        except ConfigError as error:
            raise ConfigError(f"experiments.{name}.recipe_settings: {error}") from None


def _members(
    experiment: Experiment,
    available: Mapping[str, Any],
    resolved: dict[str, Recipe | WidthRecipe],
) -> tuple[Member, ...]:
    """An experiment's recipes, once per seed; ``resolved`` gains them."""
    members = []
    for name in experiment.recipes:
        if name == DENSE:
            members.append(Member(DENSE, 0, DENSE))
            continue
        own, settings = experiment.recipe_settings.get(name), available[name]
        if isinstance(settings, Path):
            _, settings = recipe_settings(settings)
        complete = resolve_width if is_width(settings) else resolve
        for seed in experiment.seeds:
            recipe = complete(name, settings, experiment.settings, seed, own)
            resolved[recipe.id] = recipe
            members.append(Member(name, seed, recipe.id))
    return tuple(members)


def _check_distinct(name: str, members: tuple[Member, ...]) -> None:
    """Refuse two recipes that an experiment's settings have made one and the same."""
    seen: dict[str, str] = {}
    for member in members:
        settings = member.id.rpartition("-")[2]
        other = seen.setdefault(settings, member.name)
        if other != member.name:
            raise ConfigError(
                f"experiments.{name}.recipes: {other} and {member.name} are the same with these"
                " settings; name one of them, or set them apart in recipe_settings"
            )


def _all_windows(
    recipes: Mapping[str, Recipe | WidthRecipe], corpora: Mapping[str, Corpus]
) -> dict[str, Windows]:
    found = {}
    for recipe in recipes.values():
        roles: list[Literal["calibration", "finetune"]] = ["calibration"]
        roles += ["finetune"] if recipe.trains else []
        for role in roles:
            spec = recipe.windows(role)
            _check_split(spec.corpus, spec.split, f"recipes.{recipe.name}.{role}", corpora)
            windows = _windows(recipe, role, corpora)
            found[windows.id] = windows
    return found


def _windows(
    recipe: Recipe | WidthRecipe,
    role: Literal["calibration", "finetune"],
    corpora: Mapping[str, Corpus],
) -> Windows:
    spec = recipe.windows(role)
    entry = _corpus_entry(spec.corpus, spec.split, corpora)
    assert spec.seed is not None
    values = (spec.corpus, spec.split, spec.sequences, spec.length, spec.seed)
    drawn = [] if spec.rows is None else [{"rows": spec.rows}]
    content = json.dumps([*values, entry, *drawn], sort_keys=True)
    short = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Windows(f"{spec.corpus}-{spec.split}-{short}", *values, entry, spec.rows)


def _corpus_entry(name: str, split: str, corpora: Mapping[str, Corpus]) -> dict[str, Any]:
    """``{name: entry}`` with the one split that is read; empty for a built-in corpus as it is."""
    entry = corpora[name].model_dump(exclude_none=True)
    if "splits" in entry:
        entry["splits"] = {split: entry["splits"][split]}
    return {name: entry} if entry else {}


def _check_split(corpus: str, split: str, where: str, corpora: Mapping[str, Corpus]) -> None:
    try:
        splits = lookup(corpora, corpus, "corpus").splits
        if splits is not None:
            lookup(splits, split, "split")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
