"""Recipes that slice widths: no chain of steps, so each sparsity is a result of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from fusegpt.config import Dtype, NonNegativeInt, PositiveInt, Strict, bind, defaults, explain
from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import (
    NAME,
    SCHEMA_VERSION,
    Sections,
    deviations,
    recipe_settings,
    section_of,
)
from fusegpt.pruning.sections import WindowsSpec
from fusegpt.registry import lookup
from fusegpt.slicegpt import WIDTHS

__all__ = ["WidthRecipe", "is_width", "load_width", "resolve_width"]


class WidthCalibration(WindowsSpec):
    """The windows whose signals are analysed; published: 128 of 2048 tokens."""

    sequences: PositiveInt = 128


class WidthRecipe(Strict):
    """A width method with every setting that its result depends on, but the sparsity.

    Attributes:
        name: Of the file it came from.
        width: ``method`` and its settings.
        calibration: Windows whose signals are analysed.
        dtype: Of weights and computation.
        seed: Of everything that is drawn.
    """

    name: str
    width: dict[str, Any]
    calibration: WidthCalibration = WidthCalibration()
    dtype: Dtype = "bfloat16"
    seed: NonNegativeInt = 0

    @property
    def method(self) -> str:
        """Key of ``WIDTHS``."""
        return self.width["method"]

    @property
    def needs_windows(self) -> bool:
        """Nothing is fine-tuned after slicing."""
        return False

    @property
    def id(self) -> str:
        """``<name>-<8 hex>``; settings with their default value are left out of the hash."""
        blank = WidthRecipe(name=self.name, width=defaults(WIDTHS[self.method])).to_json()
        settings = deviations(self.to_json(), blank) | {"schema_version": SCHEMA_VERSION}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    def windows(self, role: Literal["calibration", "finetune"]) -> WindowsSpec:
        """Return the windows of a role, which is calibration, with the seed filled in."""
        assert role == "calibration", role
        spec = self.calibration
        return spec if spec.seed is not None else spec.model_copy(update={"seed": self.seed})

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the method."""
        return {key: value for key, value in self.width.items() if key != "method"}

    def to_json(self) -> dict[str, Any]:
        """Return every setting, defaults included."""
        return self.model_dump()


def is_width(settings: Mapping[str, Any]) -> bool:
    """Whether the settings of a recipe slice widths."""
    return "width" in settings


def load_width(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> WidthRecipe:
    """Read a recipe by name, or from a YAML file, and lay ``overrides`` over it.

    Raises:
        UnknownNameError: No such recipe.
        ConfigError: It slices no widths, or a setting is unknown or out of range.
    """
    name, settings = recipe_settings(name_or_path)
    if not is_width(settings):
        raise ConfigError(f"recipes.{name}: slices no widths; use fusegpt prune")
    return resolve_width(name, settings, own=overrides)


def resolve_width(
    name: str,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    own: Mapping[str, Any] | None = None,
) -> WidthRecipe:
    """Check a recipe's settings and complete them with defaults.

    Args:
        name: Of the recipe.
        settings: As in a recipe file.
        overrides: An experiment's settings, laid over the recipe's. What they say of scoring,
            selection, recovery and fine-tuning is meant for other recipes.
        seed: Laid over both.
        own: Settings for this recipe alone, laid over all.

    Raises:
        ConfigError: A key is unknown or a value is out of range.
    """
    where = f"recipes.{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"recipe name {name!r}: must be lower-case letters, digits and _")
    others = Sections.model_fields.keys() - WidthRecipe.model_fields.keys()
    shared = {key: value for key, value in (overrides or {}).items() if key not in others}
    layers = (settings, shared, own or {})
    merged = {key: value for layer in layers for key, value in layer.items()}
    for section in ("calibration", "width"):
        parts = [section_of(layer, section, where) for layer in layers]
        merged[section] = {key: value for part in parts for key, value in part.items()}
    if merged["calibration"].get("rows") is not None:
        merged["calibration"].pop("sequences", None)
    merged["width"] = _method(merged["width"], where)
    if seed is not None:
        merged["seed"] = seed
    try:
        return WidthRecipe.model_validate({**merged, "name": name})
    except ValidationError as error:
        raise ConfigError(explain(error, where, WidthRecipe)) from None


def _method(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "method" not in section:
        raise ConfigError(f"{where}.width.method: must be given; known: {', '.join(WIDTHS)}")
    given = {key: value for key, value in section.items() if key != "method"}
    entry = lookup(WIDTHS, section["method"], "width method")
    return {"method": section["method"], **bind(entry, given, f"{where}.width")}
