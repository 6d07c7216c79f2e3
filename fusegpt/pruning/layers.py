"""An experiment's settings laid over a recipe's, section by section, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from fusegpt.config import Strict, explain
from fusegpt.errors import ConfigError
from fusegpt.importance import METRICS
from fusegpt.methods import Method, S, bind
from fusegpt.pruning.sections import METHODS, Rerank, Sections, WidthSections, WindowsSpec
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.registry import lookup
from fusegpt.slicegpt import WIDTHS

__all__ = ["Layers", "depth_values", "width_values"]

Layers = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
"""Settings of the recipe, of the experiment, and of the experiment for this recipe alone."""


def depth_values(name: str, layers: Layers, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a recipe that removes units, checked one by one.

    Args:
        name: Name of the recipe.
        layers: Later ones are laid over earlier ones.
        given: Values that are laid over all.
        where: Name of the recipe in messages.

    Raises:
        ConfigError: A key is unknown or a value is out of range.
    """
    merged = {key: value for layer in layers for key, value in layer.items()}
    for role in ("calibration", "finetune"):
        merged[role] = _windows(layers, role, where)
    merged["rerank"] = _rerank(layers, where)
    metric, importance = _method(where, "importance", METRICS, layers)
    method, recovery = _method(where, "recovery", RECOVERIES, layers)
    finish = _finish(layers, merged["finetune"], where)
    merged |= {"importance": {}, "recovery": {}, "finish": None, **given}
    values = _checked(Sections, {"name": name, **merged}, where)
    return values | {
        "metric": metric,
        "importance": importance,
        "method": method,
        "recovery": recovery,
        **finish,
    }


def width_values(name: str, layers: Layers, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a recipe that slices widths; arguments as of ``depth_values``."""
    others = Sections.model_fields.keys() - WidthSections.model_fields.keys()
    shared = {key: value for key, value in layers[1].items() if key not in others}
    layers = (layers[0], shared, layers[2])
    merged = {key: value for layer in layers for key, value in layer.items()}
    merged["calibration"] = _windows(layers, "calibration", where)
    method, width = _method(where, "width", WIDTHS, layers)
    merged |= {"width": {}, **given}
    values = _checked(WidthSections, {**merged, "name": name}, where)
    return values | {"method": method, "width": width}


def _checked(sections: type[Strict], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a recipe's sections, with their defaults."""
    try:
        checked = sections.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain(error, where, sections)) from None
    return {key: getattr(checked, key) for key in sections.model_fields}


def _method(
    where: str, section: str, table: Mapping[str, Method[S]], layers: Layers
) -> tuple[str, S]:
    """The name of a section's method and its settings, checked and complete."""
    key = METHODS[section]
    own, over, last = (dict(_section(layer, section, where)) for layer in layers)
    if key not in own:
        raise ConfigError(f"{where}.{section}.{key}: must be given; known: {', '.join(table)}")
    if key in over or key in last:
        raise ConfigError(f"{where}.{section}.{key}: an experiment cannot change it; make a recipe")
    name = own.pop(key)
    entry = lookup(table, name, f"{section} {key}", f"{where}.{section}.{key}")
    everywhere = {known for other in table.values() for known in other.schema.model_fields}
    mine = entry.schema.model_fields
    applied = {k: v for k, v in over.items() if k in mine or k not in everywhere}
    return name, bind(entry, {**own, **applied, **last}, f"{where}.{section}")


def _section(mapping: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Return one table of a recipe's settings; ConfigError if it is something else."""
    value = mapping.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}.{key}: must be a table of settings, got {value!r}")
    return value


def _windows(layers: Layers, role: str, where: str) -> dict[str, Any]:
    """Return a role's settings with later layers over earlier ones; rows leave out sequences."""
    found = {k: v for layer in layers for k, v in _section(layer, role, where).items()}
    if found.get("rows") is not None:
        found.pop("sequences", None)
    return found


def _finish(layers: Layers, finetune: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the finish of a recipe, if the recipe or its own settings in an experiment have one.

    Args:
        layers: Later ones are laid over earlier ones.
        finetune: Settings of the windows for recovery, which the finish reads unless told others.
        where: Name of the recipe in messages.
    """
    named = [layer["finish"] for layer in (layers[0], layers[2]) if "finish" in layer]
    if not named or named[-1] is None:
        return {}
    tables = [dict(_section(layer, "finish", where)) for layer in layers]
    own = [dict(_section({"windows": x.pop("windows", {})}, "windows", where)) for x in tables]
    windows = dict(finetune)
    for given in own:
        if "sequences" in given and "rows" not in given:
            windows.pop("rows", None)
        windows |= given
    if windows.get("rows") is not None:
        windows.pop("sequences", None)
    first, second, third = ({"finish": table} for table in tables)
    method, settings = _method(where, "finish", FINISHES, (first, second, third))
    try:
        checked = WindowsSpec.model_validate(windows)
    except ValidationError as error:
        raise ConfigError(explain(error, f"{where}.finish.windows", WindowsSpec)) from None
    return {"finish_method": method, "finish": settings, "finish_windows": checked}


def _rerank(layers: Layers, where: str) -> Rerank | None:
    """Return the section, if the recipe or its own settings in an experiment have it.

    Args:
        layers: Later ones are laid over earlier ones.
        where: Name of the recipe in messages.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """
    tables: Sequence[Mapping[str, Any]] = [_section(layer, "rerank", where) for layer in layers]
    try:
        found = Rerank.model_validate({k: v for table in tables for k, v in table.items()})
    except ValidationError as error:
        raise ConfigError(explain(error, f"{where}.rerank", Rerank)) from None
    named = [layer["rerank"] for layer in (layers[0], layers[2]) if "rerank" in layer]
    return found if named and named[-1] is not None else None
