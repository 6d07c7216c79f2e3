"""Recipes: a method with all its settings, checked, complete, and named by a hash of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from fusegpt.artifacts import read_json
from fusegpt.config import (
    Dtype,
    NonNegativeInt,
    PositiveInt,
    Strict,
    bind,
    builtin_config_dir,
    defaults,
    explain,
)
from fusegpt.errors import ConfigError
from fusegpt.importance import METRICS
from fusegpt.recovery import RECOVERIES
from fusegpt.registry import lookup

__all__ = ["Recipe", "WindowsSpec", "load_recipe", "recipe_names", "resolve"]

SCHEMA_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class WindowsSpec(Strict):
    """Which windows of token ids to sample.

    Attributes:
        corpus: A name from the configuration.
        split: Of the corpus.
        sequences: Windows.
        length: Tokens of one window.
        batch_size: Sequences scored at once. Changes scores by rounding only.
        seed: Of the draw; the recipe's seed when absent.
    """

    corpus: str = "wikitext2"
    split: str = "train"
    sequences: PositiveInt = 1024
    length: PositiveInt = 2048
    batch_size: PositiveInt = 8
    seed: NonNegativeInt | None = None


class Calibration(WindowsSpec):
    """The windows that blocks are scored on: the first 32 of the tuning windows (D12)."""

    sequences: PositiveInt = 32


class Recipe(Strict):
    """A pruning method with every setting that its result depends on.

    Attributes:
        name: Of the file it came from.
        importance: ``metric`` and its settings, ``protect_first`` and ``protect_last``.
        selection: ``iterative`` scores anew before each removal; ``one_shot`` scores once.
        recovery: ``method`` and its settings.
        calibration: Windows for scoring.
        finetune: Windows for recovery.
        dtype: Of frozen weights and computation.
        seed: Of everything that is drawn.
    """

    name: str
    importance: dict[str, Any]
    selection: Literal["iterative", "one_shot"] = "iterative"
    recovery: dict[str, Any]
    calibration: Calibration = Calibration()
    finetune: WindowsSpec = WindowsSpec()
    dtype: Dtype = "bfloat16"
    seed: NonNegativeInt = 0

    @property
    def metric(self) -> str:
        """Key of ``METRICS``."""
        return self.importance["metric"]

    @property
    def method(self) -> str:
        """Key of ``RECOVERIES``."""
        return self.recovery["method"]

    @property
    def trains(self) -> bool:
        """Whether recovery needs the fine-tuning windows."""
        return RECOVERIES[self.method].trains

    @property
    def id(self) -> str:
        """``<name>-<8 hex>``: equal ids mean equal results.

        Settings with their default value are left out of the hash, so that a new setting does
        not rename old results.
        """
        settings = _deviations(self.to_json(), _defaults(self))
        if not self.trains:
            settings.pop("finetune", None)
        settings["schema_version"] = SCHEMA_VERSION
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    def windows(self, role: Literal["calibration", "finetune"]) -> WindowsSpec:
        """Return the windows of a role with the seed filled in."""
        spec: WindowsSpec = getattr(self, role)
        return spec if spec.seed is not None else spec.model_copy(update={"seed": self.seed})

    def metric_settings(self) -> dict[str, Any]:
        """Keyword arguments of the metric."""
        common = {"metric", "protect_first", "protect_last"}
        return {key: value for key, value in self.importance.items() if key not in common}

    def recovery_settings(self) -> dict[str, Any]:
        """Keyword arguments of the recovery."""
        return {key: value for key, value in self.recovery.items() if key != "method"}

    def to_json(self) -> dict[str, Any]:
        """Return every setting, defaults included; ``read`` takes it."""
        return self.model_dump()

    @classmethod
    def read(cls, name_or_path: str | Path) -> Recipe:
        """Read a complete recipe (``recipe.json``), or one by name or from a YAML file.

        Raises:
            ArtifactError: The JSON file is missing or corrupt.
            UnknownNameError: No such recipe.
            ConfigError: A setting is unknown or out of range.
        """
        if Path(name_or_path).suffix != ".json":
            return load_recipe(name_or_path)
        record = dict(read_json(name_or_path))
        return resolve(record.pop("name", ""), record)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the project."""
    return sorted(path.stem for path in (builtin_config_dir() / "recipes").glob("*.yaml"))


def load_recipe(
    name_or_path: str | Path, overrides: Mapping[str, Any] | None = None, seed: int | None = None
) -> Recipe:
    """Read a recipe by name, or from a YAML file, and lay ``overrides`` over it.

    Raises:
        UnknownNameError: No such recipe; the message names the closest.
        ConfigError: A setting is unknown or out of range.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        folder = builtin_config_dir() / "recipes"
        known = {name: folder / f"{name}.yaml" for name in recipe_names()}
        path = lookup(known, str(name_or_path), "recipe")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    return resolve(path.stem, settings, overrides, seed)


def resolve(
    name: str,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Recipe:
    """Check a recipe's settings and complete them with defaults.

    Args:
        name: Of the recipe.
        settings: As in a recipe file.
        overrides: An experiment's settings, laid over the recipe's. One below ``recovery`` or
            ``importance`` goes to the methods that have it, and must be known to at least one.
        seed: Laid over both.

    Raises:
        ConfigError: A key is unknown, a value is out of range, or two contradict each other.
    """
    where = f"recipes.{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"recipe name {name!r}: must be lower-case letters, digits and _")
    for mapping in (settings, overrides or {}):
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{where}: must be a table of settings, got {mapping!r}")
    merged = {**settings, **_plain(overrides)}
    for role in ("calibration", "finetune"):
        merged[role] = {**_table(settings, role, where), **_table(overrides, role, where)}
    merged["importance"] = _method(where, "importance", "metric", METRICS, settings, overrides)
    merged["recovery"] = _method(where, "recovery", "method", RECOVERIES, settings, overrides)
    if seed is not None:
        merged["seed"] = seed
    try:
        recipe = Recipe.model_validate({"name": name, **merged})
    except ValidationError as error:
        raise ConfigError(explain(error, where, Recipe)) from None
    _check_together(recipe, where)
    return recipe


COMMON = {
    "importance": {"protect_first": 0, "protect_last": 0},
    "recovery": {},
}
"""Settings of a section that every method shares, with their defaults."""


def _method(
    where: str,
    section: str,
    key: str,
    table: Mapping[str, Any],
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Check one section, method and settings, against the method's signature."""
    own = dict(_table(settings, section, where))
    over = dict(_table(overrides, section, where))
    if key not in own:
        raise ConfigError(f"{where}.{section}.{key}: must be given; known: {', '.join(table)}")
    if key in over:
        raise ConfigError(f"{where}.{section}.{key}: an experiment cannot change it; make a recipe")
    entry = lookup(table, own.pop(key), f"{section} {key}")
    common = {name: own.pop(name, value) for name, value in COMMON[section].items()}
    common |= {name: over.pop(name) for name in list(over) if name in common}
    for name, value in common.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{where}.{section}.{name}: must be 0 or more, got {value!r}")
    everywhere = {name for other in table.values() for name in defaults(other)}
    mine = defaults(entry)
    unknown = {name: value for name, value in over.items() if name not in everywhere}
    applied = {name: value for name, value in over.items() if name in mine}
    bound = bind(entry, {**own, **unknown, **applied}, f"{where}.{section}")
    chosen = next(name for name, other in table.items() if other is entry)
    return {key: chosen, **common, **bound}


def _check_together(recipe: Recipe, where: str) -> None:
    recovery = recipe.recovery
    if recovery.get("loss") == "kl_batch" and recovery["batch_size"] < 2:
        raise ConfigError(
            f"{where}.recovery.batch_size: must be at least 2, got {recovery['batch_size']};"
            " Eq. 7 normalises over the batch"
        )
    if recipe.trains and recipe.finetune.sequences < recovery.get("batch_size", 1):
        raise ConfigError(
            f"{where}.finetune.sequences: must fill one batch of {recovery['batch_size']},"
            f" got {recipe.finetune.sequences}"
        )


def _table(mapping: Mapping[str, Any] | None, key: str, where: str) -> Mapping[str, Any]:
    value = (mapping or {}).get(key) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}.{key}: must be a table of settings, got {value!r}")
    return value


def _plain(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(overrides or {})


def _defaults(recipe: Recipe) -> dict[str, Any]:
    blank = Recipe(name=recipe.name, importance={}, recovery={}).to_json()
    blank["importance"] = {**COMMON["importance"], **defaults(METRICS[recipe.metric])}
    blank["recovery"] = {**COMMON["recovery"], **defaults(RECOVERIES[recipe.method])}
    return blank


def _deviations(settings: Mapping[str, Any], blank: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(blank.get(key), Mapping):
            inner = _deviations(value, blank[key])
            if inner:
                found[key] = inner
        elif key not in blank or value != blank[key]:
            found[key] = value
    return found
