"""Recipes by name and from files: checked, complete, and named by a hash of their settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusegpt.config import builtin_config_dir
from fusegpt.errors import ConfigError, UnknownNameError
from fusegpt.pruning.checks import check_together, check_width
from fusegpt.pruning.definition import Recipe
from fusegpt.pruning.layers import depth_values, width_values
from fusegpt.registry import lookup
from fusegpt.results.base import read_object
from fusegpt.yaml_files import read_yaml

__all__ = [
    "Recipe",
    "load_recipe",
    "read_recipe",
    "recipe_names",
    "recipe_of_blocks",
    "recipe_settings",
    "resolve",
    "with_chain",
]

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
PROTECTION = ("protect_first", "protect_last", "protect")


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Read a complete recipe (``recipe.json``), or one by name or from a YAML file.

    Raises:
        ArtifactError: The JSON file is missing or damaged.
        UnknownNameError: No such recipe.
        ConfigError: A setting is unknown or out of range.
    """
    if Path(name_or_path).suffix != ".json":
        return load_recipe(name_or_path)
    record = read_object(name_or_path)
    try:
        return resolve(record.pop("name", ""), record)
    except ConfigError as error:
        raise type(error)(f"{name_or_path}: {error}") from None


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the project."""
    return sorted(path.stem for path in (builtin_config_dir() / "recipes").glob("*.yaml"))


def load_recipe(
    name_or_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    own: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe by name, or from a YAML file, and lay ``overrides`` and ``own`` over it.

    Raises:
        UnknownNameError: No such recipe; the message names the closest.
        ConfigError: A setting is unknown or out of range.
    """
    name, settings = recipe_settings(name_or_path)
    return resolve(name, settings, overrides, seed, own)


def recipe_of_blocks(
    blocks: str,
    name_or_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Recipe:
    """Return a recipe that removes listed units in their order, and recovers as another does.

    Args:
        blocks: Units with commas between them: ``14,16-17`` or ``attention 3,mlp 5``.
        name_or_path: The other recipe; what it protects stays. None: nothing recovers.
        overrides: Settings laid over the other recipe's.
        seed: Laid over both.

    Raises:
        UnknownNameError: No such recipe.
        ConfigError: The list, or a setting, is wrong.
    """
    name = "given"
    settings: dict[str, Any] = {"importance": {}, "recovery": {"method": "none"}}
    if name_or_path is not None:
        chosen = load_recipe(name_or_path, overrides, seed).that_removes()
        name, settings = f"{chosen.name}_given", chosen.to_json()
        if chosen.selection == "one_shot":
            settings["selection"] = "iterative"
    for unknown in ("name", "rerank", "chain"):
        settings.pop(unknown, None)
    listed = [unit.strip() for unit in blocks.split(",")]
    kinds = {unit.partition(" ")[0] for unit in listed if " " in unit}
    if kinds and not all(" " in unit for unit in listed):
        plain = next(unit for unit in listed if " " not in unit)
        raise ConfigError(
            "--blocks: must name the kind of each unit or of none, such as 'attention 3,mlp 5', got"
            f" {plain!r} beside {min(kinds)!r}"
        )
    if kinds:
        settings["granularity"] = kinds.pop() if len(kinds) == 1 else "mixed"
    own = {key: value for key, value in settings["importance"].items() if key in PROTECTION}
    settings["importance"] = {"metric": "given", **own, "blocks": listed}
    return resolve(name, settings, None if name_or_path else overrides, seed)


def recipe_settings(name_or_path: str | Path) -> tuple[str, Any]:
    """The name and the unchecked settings of a recipe by name, or in a YAML file.

    Raises:
        UnknownNameError: No such recipe; the message names the closest.
        ConfigError: The file cannot be read.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        folder = builtin_config_dir() / "recipes"
        known = {name: folder / f"{name}.yaml" for name in recipe_names()}
        path = lookup(known, str(name_or_path), "recipe")
    settings = read_yaml(path) or {}
    return path.stem, with_chain(settings, lambda name: recipe_settings(name)[1], path.stem)


def with_chain(settings: Any, find: Callable[[str], Any], name: str) -> Any:
    """Complete a recipe that goes on from another one's steps with that one's settings.

    Args:
        settings: As in a recipe file; sections that stand here replace the other one's.
        find: Gives the unchecked settings of a recipe by name, or refuses the name.
        name: Name of the recipe in messages.

    Raises:
        ConfigError: The other one has a finish itself, or is none.
    """
    if not isinstance(settings, Mapping) or settings.get("chain") is None:
        return settings
    try:
        base = find(settings["chain"])
    except UnknownNameError as error:
        raise UnknownNameError(f"recipes.{name}.chain: {error}") from None
    if not isinstance(base, Mapping) or "finish" in base or "width" in base:
        raise ConfigError(
            f"recipes.{name}.chain: must name a recipe that removes units and has no finish, got"
            f" {settings['chain']!r}"
        )
    return {**base, **settings}


def resolve(
    name: str,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    own: Mapping[str, Any] | None = None,
) -> Recipe:
    """Check a recipe's settings and complete them with defaults.

    Args:
        name: Name of the recipe.
        settings: As in a recipe file.
        overrides: An experiment's settings, laid over the recipe's. One below ``recovery`` or
            ``importance`` goes to the methods that have it, and must be known to at least one;
            sections that a recipe of widths does not have are meant for other recipes.
        seed: Laid over both.
        own: An experiment's settings for this recipe alone, laid over all; its method must have
            them.

    Raises:
        ConfigError: A key is unknown, a value is out of range, or two contradict each other.
    """
    where = f"recipes.{name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"recipe name {name!r}: must be lower-case letters, digits and _")
    layers = (settings, overrides or {}, own or {})
    for mapping in layers:
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{where}: must be a table of settings, got {mapping!r}")
        if "name" in mapping:
            raise ConfigError(
                f"{where}.name: must not be given among settings, got {mapping['name']!r:.60};"
                " the entry or the file names the recipe"
            )
    given = {} if seed is None else {"seed": seed}
    if "width" in settings:
        width = Recipe.of_width(**width_values(name, layers, given, where))
        check_width(width, where)
        return width
    recipe = Recipe(**depth_values(name, layers, given, where))
    check_together(recipe, where)
    return recipe
