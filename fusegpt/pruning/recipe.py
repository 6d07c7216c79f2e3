"""Recipes: a method with all its settings, checked, complete, and named by a hash of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from fusegpt import config
from fusegpt.artifacts import read_json
from fusegpt.config import Dtype, NonNegativeInt, Strict, builtin_config_dir, explain
from fusegpt.errors import ConfigError
from fusegpt.importance import METRICS
from fusegpt.importance.settings import MetricSettings
from fusegpt.methods import Method, bind
from fusegpt.pruning.checks import check_together
from fusegpt.pruning.sections import Calibration, Rerank, WindowsSpec, rerank_of, section_of
from fusegpt.recovery import RECOVERIES
from fusegpt.registry import lookup
from fusegpt.units import KINDS, Granularity

__all__ = [
    "Recipe",
    "WindowsSpec",
    "deviations",
    "load_recipe",
    "recipe_names",
    "recipe_settings",
    "resolve",
    "section_of",
]

SCHEMA_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class Sections(Strict):
    """The keys of a recipe that removes units.

    Attributes:
        name: Name of the file it came from.
        importance: ``metric`` and its settings.
        selection: ``iterative`` scores anew before each removal; ``one_shot`` scores once;
            ``contiguous`` takes one run of neighbours of the dense model, as long as needed.
        rerank: Try the best candidates before one is removed; absent: the lowest score goes.
        granularity: Whole blocks, their attentions, their mlps, or both of these in one contest.
        recovery: ``method`` and its settings.
        calibration: Windows for scoring.
        finetune: Windows for recovery.
        dtype: Type of frozen weights and computation.
        seed: Seed of everything that is drawn.
    """

    name: str
    importance: dict[str, Any]
    selection: Literal["iterative", "one_shot", "contiguous"] = "iterative"
    rerank: Rerank | None = None
    granularity: Granularity = "block"
    recovery: dict[str, Any]
    calibration: Calibration = Calibration()
    finetune: WindowsSpec = WindowsSpec()
    dtype: Dtype = "bfloat16"
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Recipe:
    """A pruning method with every setting that its result depends on.

    Attributes:
        name: Name of the file it came from.
        metric: Key of ``METRICS``.
        importance: Settings of the metric.
        recovery: ``method`` and its settings.
        The others: as in ``Sections``.
    """

    name: str
    metric: str
    importance: MetricSettings
    recovery: dict[str, Any]
    selection: Literal["iterative", "one_shot", "contiguous"] = "iterative"
    rerank: Rerank | None = None
    granularity: Granularity = "block"
    calibration: WindowsSpec = Calibration()
    finetune: WindowsSpec = WindowsSpec()
    dtype: Dtype = "bfloat16"
    seed: int = 0

    @property
    def method(self) -> str:
        """Key of ``RECOVERIES``."""
        return self.recovery["method"]

    def num_units(self, num_blocks: int) -> int:
        """Of a dense model: what a sparsity is a fraction of."""
        return num_blocks * len(KINDS[self.granularity])

    @property
    def needs_windows(self) -> bool:
        """Whether recovery needs the fine-tuning windows."""
        return RECOVERIES[self.method].needs_windows

    @property
    def recovers_at_end(self) -> bool:
        """Whether recovery works once, on the model as pruned to the end."""
        return RECOVERIES[self.method].when == "end"

    @property
    def id(self) -> str:
        """``<name>-<8 hex>``: equal ids mean equal results.

        Settings with their default value are left out of the hash, so that a new setting does
        not rename old results.
        """
        settings = deviations(self.to_json(), _defaults(self))
        if not self.needs_windows:
            settings.pop("finetune", None)
        settings["schema_version"] = SCHEMA_VERSION
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    def windows(self, role: Literal["calibration", "finetune"]) -> WindowsSpec:
        """Return the windows of a role with the seed filled in."""
        spec: WindowsSpec = getattr(self, role)
        return spec if spec.seed is not None else spec.model_copy(update={"seed": self.seed})

    def recovery_settings(self) -> dict[str, Any]:
        """Keyword arguments of the recovery."""
        return {key: value for key, value in self.recovery.items() if key != "method"}

    def trial(self) -> Recipe:
        """Return the recipe of one trial of ``rerank``: fewer windows, epochs, neighbours."""
        assert self.rerank is not None, self.name
        shorter = {"epochs": self.rerank.epochs, "group_size": self.rerank.group_size}
        known = {name: value for name, value in shorter.items() if name in self.recovery}
        windows = {"sequences": self.rerank.sequences, "rows": None}
        return dataclasses.replace(
            self,
            rerank=None,
            recovery={**self.recovery, **known},
            finetune=self.finetune.model_copy(update=windows),
        )

    def to_json(self) -> dict[str, Any]:
        """Return every setting, defaults included; ``read`` takes it. No rerank is no setting."""
        return {
            "name": self.name,
            "importance": {"metric": self.metric, **self.importance.model_dump()},
            "selection": self.selection,
            **({} if self.rerank is None else {"rerank": self.rerank.model_dump()}),
            "granularity": self.granularity,
            "recovery": self.recovery,
            "calibration": self.calibration.model_dump(),
            "finetune": self.finetune.model_dump(),
            "dtype": self.dtype,
            "seed": self.seed,
        }

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
    try:
        return path.stem, yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error


def resolve(
    name: str,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    own: Mapping[str, Any] | None = None,
) -> Recipe:
    """Check a recipe's settings and complete them with defaults.

    Args:
        name: Of the recipe.
        settings: As in a recipe file.
        overrides: An experiment's settings, laid over the recipe's. One below ``recovery`` or
            ``importance`` goes to the methods that have it, and must be known to at least one.
        seed: Laid over both.
        own: An experiment's settings for this recipe alone, laid over all; its method must have
            them.

    Raises:
        ConfigError: A key is unknown, a value is out of range, or two contradict each other.
    """
    where = f"recipes.{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"recipe name {name!r}: must be lower-case letters, digits and _")
    for mapping in (settings, overrides or {}, own or {}):
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{where}: must be a table of settings, got {mapping!r}")
    if "width" in settings:
        raise ConfigError(f"{where}: slices widths; use fusegpt slice, or name it in an experiment")
    layers = (settings, overrides, own)
    merged = {**settings, **(overrides or {}), **(own or {})}
    for role in ("calibration", "finetune"):
        merged[role] = {k: v for layer in layers for k, v in section_of(layer, role, where).items()}
        if merged[role].get("rows") is not None:
            merged[role].pop("sequences", None)
    merged["rerank"] = rerank_of(layers, where)
    metric, importance = _method(where, "importance", "metric", METRICS, layers)
    method, recovery = _method(where, "recovery", "method", RECOVERIES, layers)
    merged |= {"importance": {}, "recovery": {}}
    if seed is not None:
        merged["seed"] = seed
    try:
        checked = Sections.model_validate({"name": name, **merged})
    except ValidationError as error:
        raise ConfigError(explain(error, where, Sections)) from None
    recipe = Recipe(
        **{key: getattr(checked, key) for key in Sections.model_fields}
        | {"metric": metric, "importance": importance, "recovery": {"method": method, **recovery}}
    )
    check_together(recipe, where)
    return recipe


def _method(
    where: str,
    section: str,
    key: str,
    table: Mapping[str, Any],
    layers: tuple[Mapping[str, Any] | None, ...],
) -> tuple[str, Any]:
    """The name of a section's method and its settings, checked and complete."""
    own, over, last = (dict(section_of(layer, section, where)) for layer in layers)
    if key not in own:
        raise ConfigError(f"{where}.{section}.{key}: must be given; known: {', '.join(table)}")
    if key in over or key in last:
        raise ConfigError(f"{where}.{section}.{key}: an experiment cannot change it; make a recipe")
    name = own.pop(key)
    entry = lookup(table, name, f"{section} {key}")
    everywhere = {known for other in table.values() for known in _known(other)}
    mine = _known(entry)
    unknown = {key: value for key, value in over.items() if key not in everywhere}
    applied = {key: value for key, value in over.items() if key in mine}
    given = {**own, **unknown, **applied, **last}
    if isinstance(entry, Method):
        return name, bind(entry, given, f"{where}.{section}")
    return name, config.bind(entry, given, f"{where}.{section}")


def _known(entry: Any) -> Collection[str]:
    if isinstance(entry, Method):
        return entry.schema.model_fields
    return config.defaults(entry)


def _defaults(recipe: Recipe) -> dict[str, Any]:
    importance = type(recipe.importance)()
    blank = Recipe(recipe.name, recipe.metric, importance, {}).to_json()
    blank["importance"].pop("metric")
    blank["recovery"] = config.defaults(RECOVERIES[recipe.method])
    return blank


def deviations(settings: Mapping[str, Any], blank: Mapping[str, Any]) -> dict[str, Any]:
    """What in settings is not as in ``blank``, at any depth."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(blank.get(key), Mapping):
            inner = deviations(value, blank[key])
            if inner:
                found[key] = inner
        elif key not in blank or value != blank[key]:
            found[key] = value
    return found
