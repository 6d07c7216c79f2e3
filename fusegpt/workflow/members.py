"""The recipes of an experiment, resolved and once per seed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import Recipe, recipe_settings, resolve, with_chain
from fusegpt.registry import lookup
from fusegpt.results.point import DENSE
from fusegpt.workflow.schema import Configuration, Experiment

__all__ = ["Member", "available_recipes", "check_distinct", "check_names", "members_of"]


@dataclass(frozen=True)
class Member:
    """One recipe with one seed in an experiment; ``id`` is its name in paths. Dense has seed 0."""

    name: str
    seed: int
    id: str


def available_recipes(inline: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Every recipe one can name: a file's path, or the settings written into the configuration."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    twice = sorted(set(inline) & (set(files) | {DENSE}))
    if twice:
        raise ConfigError(f"recipes.{twice[0]}: this name is taken; choose another")
    return {DENSE: None, **files, **inline}


def check_names(
    name: str, experiment: Experiment, checked: Configuration, available: Mapping[str, Any]
) -> None:
    """Refuse an experiment that names what does not exist.

    Raises:
        ConfigError: A model, recipe or evaluation is unknown, or settings are for no recipe.
    """
    recipes = {entry: None for entry in experiment.recipes if entry != DENSE}
    tables: dict[str, tuple[str, Mapping[str, Any]]] = {
        "models": ("model", checked.models),
        "recipes": ("recipe", available),
        "evaluations": ("evaluation", checked.evaluations),
        "recipe_settings": ("recipe of this experiment", recipes),
    }
    for key, (kind, table) in tables.items():
        for entry in getattr(experiment, key):
            lookup(table, entry, kind, f"experiments.{name}.{key}")
    for axis, lines in experiment.curves.items():
        for line, places in lines.items():
            for recipe in places.values():
                where = f"experiments.{name}.curves.{axis}.{line}"
                lookup(recipes, recipe, "recipe of this experiment", where)


def members_of(
    experiment: Experiment,
    available: Mapping[str, Any],
    resolved: dict[str, Recipe],
) -> tuple[Member, ...]:
    """An experiment's recipes, once per seed; ``resolved`` gains them."""
    members = []
    for name in experiment.recipes:
        if name == DENSE:
            members.append(Member(DENSE, 0, DENSE))
            continue
        own, settings = experiment.recipe_settings.get(name), available[name]
        if "seed" in experiment.settings or "seed" in (own or {}):
            raise ConfigError(
                f"recipes.{name}.seed: a seed must be given under seeds, got one among the"
                " settings; write seeds: [...]"
            )
        settings = with_chain(_read(settings), functools.partial(_named, available), name)
        for seed in experiment.seeds:
            recipe = resolve(name, settings, experiment.settings, seed, own)
            resolved[recipe.id] = recipe
            resolved.setdefault(recipe.steps.id, recipe.steps)
            members.append(Member(name, seed, recipe.id))
    return tuple(members)


def _named(available: Mapping[str, Any], name: str) -> Any:
    return _read(lookup(available, name, "recipe"))


def _read(settings: Any) -> Any:
    return recipe_settings(settings)[1] if isinstance(settings, Path) else settings


def check_distinct(name: str, members: tuple[Member, ...]) -> None:
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
